"""Activations of all calibration samples at one cut of the graph: in memory, or on disk."""

import shutil
import tempfile
import weakref
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ...errors import InvalidInput
from .archive import restored, storable

Arrays = list[np.ndarray]
LIMIT = 1 << 30
"""Bytes of activations that are held in memory."""
TAPS = "taps"
"""The side that is there at once and is gone after the next turn."""


@dataclass(frozen=True)
class Entry:
    """One array of a cut in a file, as another process can find it.

    Attributes:
        side, index: whose.
        name: of the file in the folder.
        dtype: name of the array's type.
        bytes: length of the file.
    """

    side: str
    index: int
    name: str
    dtype: str
    bytes: int


Held = dict[tuple[str, int], list[np.ndarray | Entry]]


class Store:
    """Named sides ("float", "quantized", ...), each with the arrays of every sample.

    What is saved becomes what is loaded when `turn` is called, so that a stretch can be run again
    from its beginning until it is done.

    Args:
        folder: where the arrays of every cut are written, for another process to go on from; None
            to hold them in memory, and what is more than `limit` in a temporary folder that goes
            away with this object.
        limit: bytes to hold in memory.
    """

    def __init__(self, folder: Path | None = None, limit: int = LIMIT) -> None:
        self.lasting, self.limit = folder is not None, limit
        self._folder = folder
        self._held: Held = {}
        self._next: Held = {}
        self._bytes = 0
        self._turns = 0

    def load(self, side: str, index: int, only: int | None = None) -> Arrays:
        """The arrays of one sample; [] where none were saved. "taps" are there at once."""
        found = (self._next if side == TAPS else self._held).get((side, index), [])
        chosen = found if only is None else [found[only]]
        return [self._read(one) if isinstance(one, Entry) else one for one in chosen]

    def save(self, side: str, index: int, arrays: Sequence[np.ndarray]) -> None:
        """Keep the arrays of one sample for after the next `turn`.

        Raises:
            InvalidInput: the folder cannot be written to.
        """
        self._drop(self._next.pop((side, index), []))
        self._next[side, index] = [
            self._kept(array, side, index, place) for place, array in enumerate(arrays)
        ]

    def turn(self, turned: Callable[[], None] = lambda: None) -> None:
        """Forget what was loaded so far, after `turned`; what was saved takes its place."""
        gone = [self._next.pop(key) for key in [*self._next] if key[0] == TAPS]
        gone += self._held.values()
        self._held, self._next = self._next, {}
        self._turns += 1
        turned()
        for arrays in gone:
            self._drop(arrays)

    def entries(self) -> list[dict[str, str | int]]:
        """What `resume` takes in another process: the files of this cut."""
        held = [one for arrays in self._held.values() for one in arrays]
        return [asdict(one) for one in held if isinstance(one, Entry)]

    def resume(self, turns: int, entries: Sequence[dict[str, str | int]]) -> bool:
        """Stand at a cut that another store wrote; whether all of it is there."""
        found = [Entry(**one) for one in entries]  # type: ignore[arg-type]
        for one in found:
            path = self.folder / one.name
            if not path.is_file() or path.stat().st_size != one.bytes:
                return False
        self._turns = turns
        for one in found:
            self._held.setdefault((one.side, one.index), []).append(one)
        names = {one.name for one in found}
        for path in self.folder.glob("*.npy"):
            if path.name not in names:
                path.unlink(missing_ok=True)
        return True

    @property
    def folder(self) -> Path:
        """Where files go; a temporary folder is made when it is first needed."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="passel-quantize-"))
            self._gone = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        return self._folder

    def close(self) -> None:
        """Forget everything, and remove the files."""
        self._held, self._next, self._bytes = {}, {}, 0
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _kept(self, array: np.ndarray, side: str, index: int, place: int) -> "np.ndarray | Entry":
        lasts = self.lasting and side != TAPS
        if not lasts and self._bytes + array.nbytes <= self.limit:
            self._bytes += array.nbytes
            return np.array(array)
        name = f"{self._turns:04}-{side}-{index:06}-{place}.npy"
        path = self.folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, storable(array), allow_pickle=False)
        except OSError as error:
            raise InvalidInput(
                f"cannot keep activations in {path.parent}: {error.strerror or error}; free some "
                "space, or give fewer or shorter calibration samples"
            ) from error
        return Entry(side, index, name, array.dtype.name, path.stat().st_size)

    def _read(self, one: Entry) -> np.ndarray:
        return restored(np.load(self.folder / one.name, allow_pickle=False), one.dtype)

    def _drop(self, arrays: "Sequence[np.ndarray | Entry]") -> None:
        for one in arrays:
            if isinstance(one, Entry):
                (self.folder / one.name).unlink(missing_ok=True)
            else:
                self._bytes -= one.nbytes
