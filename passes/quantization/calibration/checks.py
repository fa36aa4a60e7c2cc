"""One calibration sample against the graph's inputs: names, ranks, extents, dtypes, NaN and Inf."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import ml_dtypes
import numpy as np

from ....errors import InvalidInput
from ....graph import Shape, is_float

Arrays = list[np.ndarray]
"""One sample: an array a graph input, in order."""


class Input(Protocol):
    """What is known of one graph input."""

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> Shape | None: ...
    @property
    def dtype(self) -> np.dtype | None: ...


class Checker:
    """Turns samples as users give them into arrays a graph takes; collects notes on the way."""

    def __init__(self, inputs: Sequence[Input]) -> None:
        self.inputs = tuple(inputs)
        self.names = tuple(value.name for value in inputs)
        self._notes: dict[str, None] = {}

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(self._notes)

    def checked(self, raws: Iterable[object]) -> Iterator[Arrays]:
        """Every sample as arrays, those with more rows than a static batch extent split."""
        given = 0
        for index, raw in enumerate(raws):
            where = f"calibration sample {index}"
            items = self._items(raw, where)
            arrays = [self._array(*pair, where) for pair in zip(items, self.inputs, strict=True)]
            for piece in self._pieces(arrays, where, given > 0):
                check_shapes(piece, self.inputs, where)
                given += 1
                yield piece

    def _items(self, raw: object, where: str) -> list[object]:
        """What the sample has for each input."""
        if isinstance(raw, Mapping):
            keys = match_names(raw.keys(), self.names, where)
            self._surplus(len(raw) - len(keys))
            return [raw[key] for key in keys]
        if not isinstance(raw, tuple | list):
            raw = (raw,)
        if raw and isinstance(raw[0], tuple | list | Mapping) and _holds_arrays(raw[0]):
            self._surplus(len(raw) - 1)  # ((inputs ...), labels)
            return self._items(raw[0], where)
        if len(raw) < len(self.inputs):
            raise InvalidInput(
                f"{where}: expected {len(self.inputs)} inputs {list(self.names)}, got {len(raw)}"
            )
        self._surplus(len(raw) - len(self.inputs))
        return list(raw[: len(self.inputs)])

    def _surplus(self, count: int) -> None:
        if count > 0:
            self._notes[
                f"calibration samples have {count} more entries than the model has inputs (labels?)"
                ": left out"
            ] = None

    def _array(self, item: object, value: Input, where: str) -> np.ndarray:
        """The item as an array of the input's dtype, with its leading axis, finite."""
        where = f"{where}, input {value.name!r}"
        array = to_array(item, where)
        _check_finite(array, where)
        array = cast(array, value.dtype, where)
        if value.shape is not None and array.ndim == len(value.shape) - 1:
            array = array[None]  # a sample of a dataset, without the batch axis
        if value.shape is not None and array.ndim != len(value.shape):
            raise InvalidInput(
                f"{where}: expected {len(value.shape)} axes {_shown(value.shape)}, got "
                f"{array.ndim} {_shown(array.shape)}"
            )
        return array

    def _pieces(self, arrays: Arrays, where: str, later: bool) -> list[Arrays]:
        """The sample split by the static leading extents that it has more rows than."""
        leads = [_lead(value) or 0 for value in self.inputs]
        pairs = [(len(a), n) for a, n in zip(arrays, leads, strict=True) if n]
        if later and any(rows < lead for rows, lead in pairs):
            self._notes["a short batch is left out: the model's batch extent is fixed"] = None
            return []
        counts = {rows // lead for rows, lead in pairs if rows > lead}
        if not counts:
            return [arrays]
        if len(counts) > 1:
            raise InvalidInput(f"{where}: inputs disagree on the batch: {self._sizes(arrays)}")
        if any(rows > lead and rows % lead for rows, lead in pairs):
            self._notes["rows that do not fill the model's fixed batch are left out"] = None
        return [
            [
                a[i * n : (i + 1) * n] if n and len(a) > n else a
                for a, n in zip(arrays, leads, strict=True)
            ]
            for i in range(counts.pop())
        ]

    def _sizes(self, arrays: Arrays) -> str:
        pairs = zip(self.names, arrays, strict=True)
        return ", ".join(f"{name} {_shown(a.shape)}" for name, a in pairs)


def match_names(keys: Collection[str], names: Sequence[str], where: str) -> list[str]:
    """The key for each input: its name; or "arr_0", ..; or the only key of the only input."""
    if set(names) <= set(keys):
        return list(names)
    positions = [f"arr_{index}" for index in range(len(names))]
    if set(positions) <= set(keys):
        return positions
    if len(names) == 1 and len(keys) == 1:
        return list(keys)
    raise InvalidInput(
        f"{where}: expected arrays named {list(names)} as the model's inputs, got {sorted(keys)}"
    )


def to_array(item: object, where: str) -> np.ndarray:
    """An array, tensor or number as an array; torch itself is not imported."""
    try:
        detach = getattr(item, "detach", None)
        tensor = detach().cpu() if callable(detach) else item
        if str(getattr(tensor, "dtype", "")) == "torch.bfloat16":
            wide = getattr(tensor, "float")()  # noqa: B009
            return np.asarray(wide).astype(ml_dtypes.bfloat16)
        array = np.asarray(tensor)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidInput(f"{where}: expected an array, got {type(item).__name__}: {error}") from (
            error
        )
    if _kind(array.dtype) == "other":
        raise InvalidInput(
            f"{where}: expected an array of numbers, got {type(item).__name__} of {array.dtype}"
        )
    return array


def cast(array: np.ndarray, dtype: np.dtype | None, where: str) -> np.ndarray:
    """The array in another dtype of the same kind, if its values fit."""
    if dtype is None or array.dtype == dtype:
        return array
    if _kind(array.dtype) != _kind(dtype):
        raise InvalidInput(
            f"{where}: expected {dtype.name}, got {array.dtype.name}: convert it as in training"
        )
    if _kind(dtype) == "int" and array.size:
        bounds = np.iinfo(dtype)
        if int(array.min()) < bounds.min or int(array.max()) > bounds.max:
            raise InvalidInput(f"{where}: a value of {array.dtype.name} does not fit {dtype.name}")
    with np.errstate(over="ignore"):
        result = array.astype(dtype)
    if _kind(dtype) == "float" and not np.isfinite(result).all():
        raise InvalidInput(f"{where}: a value of {array.dtype.name} does not fit {dtype.name}")
    return result


def check_shapes(arrays: Arrays, inputs: Sequence[Input], where: str) -> None:
    """Raise unless every static extent fits and extents of one name are the same."""
    named: dict[str, tuple[int, str]] = {}
    for array, value in zip(arrays, inputs, strict=True):
        if 0 in array.shape:
            raise InvalidInput(f"{where}, input {value.name!r}: it is empty, {_shown(array.shape)}")
        for extent, size in zip(value.shape or array.shape, array.shape, strict=True):
            if isinstance(extent, int) and extent != size:
                raise InvalidInput(
                    f"{where}, input {value.name!r}: expected shape {_shown(value.shape or ())}, "
                    f"got {_shown(array.shape)}"
                )
            if isinstance(extent, str) and extent.isidentifier():
                seen, other = named.setdefault(extent, (size, value.name))
                if seen != size:
                    raise InvalidInput(
                        f"{where}: inputs {other!r} and {value.name!r} disagree on {extent!r}: "
                        f"{seen} and {size}"
                    )


def _check_finite(array: np.ndarray, where: str) -> None:
    if _kind(array.dtype) == "float" and not np.isfinite(array).all():
        bad = "NaN" if np.isnan(array).any() else "Inf"
        raise InvalidInput(f"{where}: it holds {bad}: remove or repair this sample")


def _holds_arrays(group: Iterable[object]) -> bool:
    values = group.values() if isinstance(group, Mapping) else group
    return any(hasattr(item, "shape") for item in values)


def _lead(value: Input) -> int | None:
    """The leading extent, if it is static."""
    lead = value.shape[0] if value.shape else None
    return lead if isinstance(lead, int) else None


def _kind(dtype: np.dtype) -> str:
    if is_float(dtype):
        return "float"
    return {"i": "int", "u": "int", "b": "bool", "c": "complex"}.get(dtype.kind, "other")


def _shown(shape: Shape) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"
