"""A rounded weight as plain arrays and back, bit for bit: what .npz can hold, and small.

Codes are kept in the narrowest type that holds them exactly, with a bit for each −0.0 among them,
since a float code has a sign even where it is zero. Types that .npz has no name for (bfloat16,
float8) are kept as their bits.
"""

import json
from collections.abc import Mapping

import ml_dtypes
import numpy as np

from .grid import Grid
from .rounded import Format, Part, Rounded

ARRAYS = ("codes", "scale", "zero", "table", "columns", "offset", "mask")
EXTRAS = ("rows", "columns", "left", "right")
NARROW = (np.int8, np.uint8, np.int16, np.int32)

Arrays = dict[str, np.ndarray]


def pack(rounded: Rounded) -> Arrays:
    """The weight as arrays by name; `meta` holds the rest as JSON."""
    arrays: Arrays = {}
    parts = []
    for number, part in enumerate(rounded.parts):
        fields = {name: getattr(part, name) for name in ARRAYS}
        grid, block = part.format.grid, part.format.block
        kept = {"grid": grid.name, "symmetric": grid.symmetric, "block": block}
        parts.append({**kept, "arrays": _packed(arrays, f"{number}.", fields, grid)})
    extras = _packed(arrays, "", {name: getattr(rounded, name) for name in EXTRAS})
    meta = {
        "shape": list(rounded.shape),
        "method": rounded.method,
        "notes": list(rounded.notes),
        "arrays": extras,
        "parts": parts,
    }
    return {**arrays, "meta": np.array(json.dumps(meta))}


def unpack(arrays: Mapping[str, np.ndarray]) -> Rounded:
    """What `pack` was given."""
    meta = json.loads(str(arrays["meta"]))
    parts = []
    for number, each in enumerate(meta["parts"]):
        wanted = Format(Grid(each["grid"], each["symmetric"]), each["block"])
        parts.append(Part(format=wanted, **_unpacked(arrays, f"{number}.", each["arrays"])))
    rows, width = meta["shape"]
    extras = _unpacked(arrays, "", meta["arrays"])
    return Rounded(
        tuple(parts), (rows, width), method=meta["method"], notes=tuple(meta["notes"]), **extras
    )


def storable(array: np.ndarray) -> np.ndarray:
    """The array, its bits as integers where .npy has no name for its type."""
    known = hasattr(ml_dtypes, array.dtype.name)
    return np.ascontiguousarray(array).view(f"u{array.itemsize}") if known else array


def restored(array: np.ndarray, name: str) -> np.ndarray:
    """What `storable` was given, `name` being its type's."""
    dtype = dtype_named(name)
    return array if array.dtype == dtype else array.view(dtype)


def dtype_named(name: str) -> np.dtype:
    """A type by its name, those of ml_dtypes included."""
    return np.dtype(getattr(ml_dtypes, name, name))


def _packed(
    arrays: Arrays, prefix: str, fields: Mapping[str, np.ndarray | None], grid: Grid | None = None
) -> dict[str, list[str]]:
    """Add the arrays under their names; for each [its type, the type that it is kept in]."""
    types = {}
    for name, array in fields.items():
        if array is None:
            continue
        kept = _narrow(array, grid) if name == "codes" else array
        negative = _negative_zeros(array) if kept is not array else None
        if negative is not None:
            arrays[f"{prefix}{name}.negative"] = np.packbits(negative)
        arrays[f"{prefix}{name}"] = storable(kept)
        types[name] = [array.dtype.name, kept.dtype.name]
    return types


def _unpacked(
    arrays: Mapping[str, np.ndarray], prefix: str, types: Mapping[str, list[str]]
) -> Arrays:
    found = {}
    for name, (wanted, kept) in types.items():
        array = restored(arrays[f"{prefix}{name}"], kept)
        array = array.astype(dtype_named(wanted), copy=False)
        negative = arrays.get(f"{prefix}{name}.negative")
        if negative is not None:
            mask = np.unpackbits(negative, count=array.size).reshape(array.shape).astype(bool)
            array[mask] = -0.0
        found[name] = array
    return found


def _narrow(codes: np.ndarray, grid: Grid | None) -> np.ndarray:
    """The codes in the narrowest type that holds their values."""
    types = [np.dtype(one) for one in NARROW]
    if grid is not None and grid.is_float:
        types.insert(0, grid.dtype)
    if not np.isfinite(codes).all():
        return codes
    for dtype in types:
        if dtype.itemsize < codes.itemsize:
            with np.errstate(invalid="ignore", over="ignore"):
                kept = codes.astype(dtype)
            if np.array_equal(kept.astype(codes.dtype), codes):
                return kept
    return codes


def _negative_zeros(array: np.ndarray) -> np.ndarray | None:
    """Where −0.0 stands; None where it stands nowhere."""
    if array.dtype.kind in "iub":
        return None
    found = np.signbit(array) & (array == 0)
    return found if found.any() else None
