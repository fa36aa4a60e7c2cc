"""Arrays in .npz and .npy files, read a few rows at a time."""

import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

import numpy as np

from ....errors import InvalidInput

UNREADABLE = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile)


class Rows(Protocol):
    """An array that is read along its first axis."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def blocks(self, size: int) -> Iterator[np.ndarray]:
        """Consecutive blocks of `size` rows; what does not fill one at the end is left out."""
        ...


@dataclass(frozen=True)
class ArrayRows:
    """The rows of an array in memory or of a memory map."""

    array: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    def blocks(self, size: int) -> Iterator[np.ndarray]:
        for start in range(0, len(self.array) - size + 1, size):
            yield np.asarray(self.array[start : start + size])


@dataclass(frozen=True)
class MemberRows:
    """The rows of one array of an .npz file, decompressed as they are needed."""

    path: Path
    member: str
    shape: tuple[int, ...]
    dtype: np.dtype

    def blocks(self, size: int) -> Iterator[np.ndarray]:
        shape = (size, *self.shape[1:])
        wanted = int(np.prod(shape)) * self.dtype.itemsize
        with zipfile.ZipFile(self.path) as file, file.open(self.member) as stream:
            _header(stream)
            for _ in range(self.shape[0] // size):
                data = _read(stream, wanted, self.path)
                yield np.frombuffer(data, self.dtype).reshape(shape)


def archive(path: Path) -> Mapping[str, Rows]:
    """The arrays of an .npz file by name.

    Raises:
        InvalidInput: it is truncated, or holds something other than arrays of numbers.
    """
    try:
        with zipfile.ZipFile(path) as file:
            names = [name for name in file.namelist() if name.endswith(".npy")]
            return {name.removesuffix(".npy"): _member(path, file, name) for name in names}
    except UNREADABLE as error:
        raise _broken(path, error) from error


def read_file(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an .npz file, or the memory map of an .npy file under "arr_0"."""
    try:
        if path.suffix == ".npy":
            return {"arr_0": np.load(path, mmap_mode="r", allow_pickle=False)}
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except UNREADABLE as error:
        raise _broken(path, error) from error


def _member(path: Path, file: zipfile.ZipFile, name: str) -> Rows:
    with file.open(name) as stream:
        shape, by_column, dtype = _header(stream)
    if dtype.hasobject:
        raise ValueError(f"{name} holds Python objects")
    if by_column or not shape:  # rows of such an array are not consecutive in the file
        return ArrayRows(read_file(path)[name.removesuffix(".npy")])
    return MemberRows(path, name, shape, dtype)


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """(shape, whether it is in Fortran order, dtype); leaves the stream at the first row."""
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(stream)
    return np.lib.format.read_array_header_2_0(stream)


def _read(stream: IO[bytes], size: int, path: Path) -> bytes:
    try:
        data = stream.read(size)
    except UNREADABLE as error:
        raise _broken(path, error) from error
    if len(data) < size:
        raise _broken(path, EOFError("it ends within a row"))
    return data


def _broken(path: Path, error: Exception) -> InvalidInput:
    return InvalidInput(f"calibration data: {path} cannot be read, it is damaged: {error}")
