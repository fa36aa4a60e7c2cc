"""The state of one rounding in a folder: weights done, and activations at the last cut.

A weight is saved once it is rounded, activations once a stretch is done; each file is whole or
absent, and the manifest, replaced last, says which activations count. So at every instant the
folder holds a state to go on from, also when the process is killed. Everything carries what it
depends on, and is used for exactly that.
"""

import json
import shutil
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from ...graph import Op
from ..base import LayerQuality
from .archive import pack, unpack
from .calibration.files import write_whole
from .calibration.fingerprint import combined
from .rounded import Rounded
from .store import Store

MANIFEST = "rounding.json"
ACTIVATIONS = "activations"
VERSION = 1
Note = Callable[[str], None]
Done = tuple[Rounded, LayerQuality]
BROKEN = (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zlib.error)
"""What reading a damaged file raises."""


class Checkpoint:
    """One folder, for one rounding.

    Args:
        folder: made where it is missing.
        key: what the result depends on, each part as a hash.
        ops: all ops to be rounded, in their order.
        note: is told what the user should know.

    Attributes:
        known: the ops whose weights are saved.

    Raises:
        InvalidInput: the folder cannot be written to.
    """

    def __init__(self, folder: Path, key: Mapping[str, str], ops: Sequence[Op], note: Note) -> None:
        self.folder, self.key, self.note = folder, dict(key), note
        self._position = 0
        self._entries: list[dict[str, str | int]] = []
        self._seal = combined(*(f"{k}={v}" for k, v in sorted(self.key.items())))
        self._numbers = {op: number for number, op in enumerate(ops)}
        if not self._resumed():
            self._clear()
            self._write()
        self.known = frozenset(op for op in ops if self._is_whole(op))

    @property
    def activations(self) -> Path:
        """The folder for activations at cuts."""
        return self.folder / ACTIVATIONS

    def resume(self, store: Store, stretches: Sequence[Sequence[Op]]) -> int:
        """Let a store on `activations` stand where the last run stopped; how many are done.

        Args:
            store: a new one.
            stretches: the ops of each stretch.
        """
        before = [op for ops in stretches[: self._position] for op in ops]
        if self._position and self.known.issuperset(before):
            if store.resume(self._position, self._entries):
                self.note(f"went on from stretch {self._position + 1} of {len(stretches)}")
                return self._position
            self.note(f"activations in {self.activations} are incomplete: computed again")
        store.close()
        return 0

    def load(self, op: Op) -> Done:
        """What was made of an op of `known`."""
        with np.load(self._path(op), allow_pickle=False) as file:
            quality = json.loads(str(file["quality"]))
            arrays = {name: file[name] for name in file.files}
        quality["notes"] = tuple(quality["notes"])
        return unpack(arrays), LayerQuality(**quality)

    def save(self, op: Op, rounded: Rounded, quality: LayerQuality) -> None:
        """Keep what was made of an op."""
        arrays = {
            **pack(rounded),
            "quality": np.array(json.dumps(asdict(quality))),
            "seal": np.array(self._seal),
        }
        write_whole(self._path(op), lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]

    def advance(self, position: int, store: Store) -> None:
        """The stretches before `position` are done."""
        self._position, self._entries = position, store.entries()
        self._write()

    def _path(self, op: Op) -> Path:
        return self.folder / f"op-{self._numbers[op]:05}.npz"

    def _is_whole(self, op: Op) -> bool:
        try:
            with np.load(self._path(op), allow_pickle=False) as file:
                return str(file["seal"]) == self._seal
        except (*BROKEN, zipfile.BadZipFile):
            return False

    def _resumed(self) -> bool:
        """Take over what the manifest says; False where that is nothing for this key."""
        path = self.folder / MANIFEST
        if not path.is_file():
            return False
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            changed = [
                part for part, hashed in self.key.items() if found["key"].get(part) != hashed
            ]
            if found["version"] != VERSION or changed:
                what = " and ".join(changed) or "version"
                self.note(f"the state in {self.folder} is of another {what}: started anew")
                return False
            self._position, self._entries = int(found["position"]), list(found["activations"])
        except BROKEN:
            self.note(f"the state in {self.folder} is damaged: started anew")
            return False
        return True

    def _clear(self) -> None:
        """Remove a state that is of no use."""
        for path in (self.folder / MANIFEST, *self.folder.glob("op-*.npz")):
            path.unlink(missing_ok=True)
        shutil.rmtree(self.activations, ignore_errors=True)

    def _write(self) -> None:
        content = {
            "version": VERSION,
            "key": self.key,
            "position": self._position,
            "activations": self._entries,
        }
        text = json.dumps(content) + "\n"
        write_whole(self.folder / MANIFEST, lambda file: file.write(text.encode()))
