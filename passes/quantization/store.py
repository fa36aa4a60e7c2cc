"""Activations of all calibration samples at one cut of the graph: in memory, or on disk."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

Arrays = list[np.ndarray]


class Store:
    """Named sides ("float", "quantized", ...), each with the arrays of every sample.

    What is saved becomes what is loaded when `turn` is called, so that a stretch can be run again
    from its beginning until it is done.

    Args:
        folder: where arrays go once there are more than `limit` bytes; None to keep all in memory.
        limit: bytes to hold in memory.
    """

    def __init__(self, folder: Path | None = None, limit: int = 1 << 30) -> None:
        self.folder, self.limit = folder, limit
        self._held: dict[tuple[str, int], list[np.ndarray | Path]] = {}
        self._next: dict[tuple[str, int], list[np.ndarray | Path]] = {}
        self._bytes = 0
        self._files = 0

    def load(self, side: str, index: int, only: int | None = None) -> Arrays:
        """The arrays of one sample; [] where none were saved. "taps" are there at once."""
        kept = self._next if side == "taps" else self._held
        found = kept.get((side, index), [])
        chosen = found if only is None else [found[only]]
        return [np.load(one) if isinstance(one, Path) else one for one in chosen]

    def save(self, side: str, index: int, arrays: Sequence[np.ndarray]) -> None:
        """Keep the arrays of one sample for after the next `turn`."""
        self._drop(self._next.pop((side, index), []))
        self._next[side, index] = [self._kept(array) for array in arrays]

    def turn(self) -> None:
        """Forget what was loaded so far; what was saved takes its place."""
        for key, arrays in [*self._held.items()]:
            self._drop(arrays)
            del self._held[key]
        for key in [key for key in self._next if key[0] == "taps"]:
            self._drop(self._next.pop(key))
        self._held, self._next = self._next, {}

    def close(self) -> None:
        """Remove the files."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _kept(self, array: np.ndarray) -> "np.ndarray | Path":
        if self.folder is None or self._bytes + array.nbytes <= self.limit:
            self._bytes += array.nbytes
            return np.array(array)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._files += 1
        path = self.folder / f"{self._files:08}.npy"
        np.save(path, array)
        return path

    def _drop(self, arrays: "Sequence[np.ndarray | Path]") -> None:
        for one in arrays:
            if isinstance(one, Path):
                one.unlink(missing_ok=True)
            else:
                self._bytes -= one.nbytes
