"""Constants in one file that is mapped, not read: safetensors with every tensor on a boundary.

The format packs tensors without gaps, so the gaps that 64-byte boundaries need are tensors of bytes
themselves, and the header ends in spaces, which the format allows. Any safetensors library reads
the file; here it is mapped, so that several processes share one copy in memory.
"""

import json
import math
import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from ...errors import InvalidModel
from .aligned import BOUNDARY

NAMES: dict[str, np.dtype] = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "I16": np.dtype(np.int16),
    "U16": np.dtype(np.uint16),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "I32": np.dtype(np.int32),
    "U32": np.dtype(np.uint32),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
    "I64": np.dtype(np.int64),
    "U64": np.dtype(np.uint64),
}
"""The element types of safetensors."""
GAP = "gap."
"""How the name of a tensor that only fills a gap begins; constant k is named str(k)."""
LENGTH_BYTES = 8
"""The file begins with the header's length in so many bytes."""


def write_weights(arrays: Sequence[np.ndarray], path: Path) -> None:
    """Write arrays, one at a time.

    Raises:
        TypeError: an element type that the format lacks.
    """
    header, starts, _ = _layout(arrays)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(LENGTH_BYTES + len(text)) % BOUNDARY)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(LENGTH_BYTES, "little") + text)
        base = file.tell()
        for array, start in zip(arrays, starts, strict=True):
            file.write(b"\0" * (base + start - file.tell()))
            np.ascontiguousarray(array).reshape(-1).view(np.uint8).tofile(file)


def _layout(arrays: Sequence[np.ndarray]) -> tuple[dict[str, Any], list[int], int]:
    """The header, where each array starts behind it, and where the last one ends."""
    header: dict[str, Any] = {}
    starts, end = [], 0
    names = {dtype: name for name, dtype in NAMES.items()}
    for index, array in enumerate(arrays):
        if array.dtype not in names:
            raise TypeError(f"expected a type that safetensors has, got {array.dtype.name}")
        gap = -end % BOUNDARY
        if gap:
            header[f"{GAP}{index}"] = _entry("U8", [gap], end, end + gap)
        start = end + gap
        end = start + array.nbytes
        header[str(index)] = _entry(names[array.dtype], list(array.shape), start, end)
        starts.append(start)
    return header, starts, end


def _entry(dtype: str, shape: list[int], start: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def map_weights(path: Path) -> list[np.ndarray]:
    """The arrays of a file that `write_weights` wrote, as read-only views of its map.

    Raises:
        InvalidModel: the file is damaged.
    """
    try:
        with path.open("rb") as file:
            whole = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        base = LENGTH_BYTES + int.from_bytes(whole[:LENGTH_BYTES], "little")
        header = json.loads(whole[LENGTH_BYTES:base])
        count = sum(not name.startswith((GAP, "__")) for name in header)
        return [_view(whole, base, header[str(index)]) for index in range(count)]
    except (ValueError, KeyError, TypeError, IndexError, OverflowError, MemoryError) as error:
        raise InvalidModel(f"load: {str(path)!r} is damaged: {error!r}") from error


def _view(whole: mmap.mmap, base: int, entry: dict[str, Any]) -> np.ndarray:
    dtype, shape = NAMES[entry["dtype"]], [int(extent) for extent in entry["shape"]]
    start, end = entry["data_offsets"]
    count = math.prod(shape)
    if start < 0 or end - start != count * dtype.itemsize or base + end > len(whole):
        raise ValueError(f"expected {count} elements of {dtype.name} at {start}, got {end - start}")
    return np.frombuffer(whole, dtype, count, base + start).reshape(shape)
