"""Samples written to a temporary file, for sources that can be read once only."""

import shutil
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ....errors import InvalidInput
from ..archive import restored, storable
from .checks import Arrays

RESERVE = 256 << 20
"""Bytes of the disk that are left free."""


class Spool:
    """A file of samples that goes away with this object."""

    def __init__(self, folder: str | None = None) -> None:
        self._folder = tempfile.mkdtemp(prefix="passel-calibration-", dir=folder)
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._path = Path(self._folder) / "samples.npy"
        self._offsets: list[int] = []
        self._types: list[list[str]] = []

    def append(self, sample: Arrays) -> None:
        """Write one more sample."""
        size = sum(array.nbytes for array in sample)
        free = shutil.disk_usage(self._folder).free
        if free < size + RESERVE:
            raise InvalidInput(
                f"the calibration data can be read only once, and {self._folder} has no room "
                f"for more than its first {len(self._offsets)} samples: give fewer (a limit), or a "
                "folder of files"
            )
        with self._path.open("ab") as file:
            self._offsets.append(file.tell())
            for array in sample:
                np.save(file, storable(array))
        self._types.append([array.dtype.name for array in sample])

    def since(self, start: int) -> Iterator[Arrays]:
        """The samples from index `start` on, one in memory at a time."""
        if start >= len(self._offsets):
            return
        with self._path.open("rb") as file:
            file.seek(self._offsets[start])
            for names in self._types[start:]:
                yield [restored(np.load(file), name) for name in names]
