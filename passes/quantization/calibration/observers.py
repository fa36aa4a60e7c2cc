"""Range observers: what range of a value a quantizer should cover, from a stream of tensors.

Why: with b bits over [low, high] the step is (high − low)/(2^b − 1): a wide range rounds coarsely,
a narrow one clips. The methods differ in where they stop.
    minmax          the extremes of all data: never clips
    moving-average  extremes of each tensor, averaged with momentum 0.9: one odd one weighs less
    percentile      leaves out (100 − p)/2 % at each end; for a symmetric grid (100 − p) % of |x|
    entropy         the range whose codes tell most of the distribution (KL divergence)
    mse             the range with the smallest expected squared error
All hold a fixed number of bytes, whatever the number of tensors. `extremes.py` and `histogram.py`
gather, `histogram_ranges.py` decides.
References: Jacob et al. 2018, arXiv:1712.05877; Wu et al. 2020, arXiv:2004.09602.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np

from ....errors import InvalidInput
from ..grid import Grid
from .extremes import Extremes
from .histogram import Bins, Histogram
from .histogram_ranges import entropy_range, mse_range, percentile_range

State = dict[str, np.ndarray]
"""All that a statistic has gathered, for saving."""


class Store(Protocol):
    """What an observer keeps of the data: arrays [C, ...] named by `fields`."""

    low: np.ndarray
    high: np.ndarray

    @property
    def fields(self) -> tuple[str, ...]: ...

    def update(self, rows: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
        """Add numbers [C, n], NaN for none, whose extremes are `low` and `high` [C]."""
        ...


Finder = Callable[[Bins, Grid], tuple[float, float]]
ALIASES = {
    "minmax": "minmax",
    "entropy": "entropy",
    "kl": "entropy",
    "percentile": "percentile",
} | {
    "movingaverage": "moving-average",
    "mse": "mse",
}
METHODS = tuple(dict.fromkeys(ALIASES.values()))


class Observer:
    """One method on one value; made by `observer`.

    Attributes:
        spec: method and parameters as text: two observers of one spec do the same.
        axis: None for one range a tensor, else one per index of that axis.
        skipped: how many infinite numbers were left out (a mask's −inf, say).
    """

    def __init__(
        self, spec: str, axis: int | None, make: Callable[[int], Store], find: Finder | None
    ) -> None:
        self.spec = spec
        self.axis = axis
        self.skipped = 0
        self._make = make
        self._find = find
        self._store: Store | None = None

    @property
    def nbytes(self) -> int:
        """Bytes held, from the first tensor on."""
        return sum(array.nbytes for array in self.state().values())

    def update(self, array: np.ndarray) -> None:
        """Take one tensor in; infinite numbers are left out.

        Raises:
            InvalidInput: it holds NaN.
            ValueError: another number of channels than before.
        """
        rows = _rows(array, self.axis)
        if rows.size == 0:
            return
        if self._store is None:
            self._store = self._make(len(rows))
        if len(rows) != len(self._store.low):
            raise ValueError(
                f"expected {len(self._store.low)} channels along axis {self.axis}, got {len(rows)}"
            )
        low, high = rows.min(axis=1), rows.max(axis=1)
        if np.isnan(low).any():
            raise InvalidInput("it holds NaN")
        if not (np.isfinite(low) & np.isfinite(high)).all():
            infinite = np.isinf(rows)
            self.skipped += int(infinite.sum())
            rows = np.where(infinite, np.nan, rows)
            low, high = np.fmin.reduce(rows, axis=1), np.fmax.reduce(rows, axis=1)
        self._store.update(rows, low.astype(np.float64), high.astype(np.float64))

    def range(self, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
        """(low, high) float64 for a grid: [] or, along the axis, [C].

        A channel that saw no finite number gets (0, 0).

        Raises:
            InvalidInput: nothing was seen at all.
        """
        store = self._store
        if store is None or np.isnan(store.low).all():
            raise InvalidInput("no finite number was seen during calibration")
        low, high = np.nan_to_num(store.low), np.nan_to_num(store.high)
        if self._find is not None and isinstance(store, Histogram):
            for index in np.flatnonzero(low < high).tolist():
                low[index], high[index] = self._find(store.channel(index), grid)
        return (np.asarray(low[0]), np.asarray(high[0])) if self.axis is None else (low, high)

    def state(self) -> State:
        """Copies of all that was gathered."""
        store = self._store
        held = {} if store is None else {k: np.array(getattr(store, k)) for k in store.fields}
        return {"skipped": np.array(self.skipped), **held}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from a saved state; what was gathered before is forgotten."""
        self.skipped = int(state["skipped"])
        self._store = self._make(len(state["low"])) if "low" in state else None
        if self._store is not None:
            for name in self._store.fields:
                setattr(self._store, name, np.array(state[name]))


def observer(
    method: str,
    axis: int | None = None,
    *,
    percentile: float = 99.99,
    momentum: float = 0.9,
    bins: int | None = None,
) -> Observer:
    """A fresh observer. `method` is one of METHODS, in any case, with or without "-" and "_".

    Raises:
        InvalidInput: an unknown method, or a parameter out of its bounds.
    """
    name = ALIASES.get(method.lower().replace("-", "").replace("_", ""))
    if name is None:
        raise InvalidInput(f"expected a calibration method of {', '.join(METHODS)}, got {method!r}")
    if name == "minmax":
        return Observer(f"minmax(axis={axis})", axis, Extremes, None)
    if name == "moving-average":
        if not 0 <= momentum < 1:
            raise InvalidInput(f"expected a momentum in [0, 1), got {momentum}")
        spec = f"moving-average(axis={axis}, momentum={momentum})"
        return Observer(spec, axis, lambda channels: Extremes(channels, momentum), None)
    if not 50 < percentile <= 100:
        raise InvalidInput(f"expected a percentile in (50, 100], got {percentile}")
    size = bins or (1024 if axis is not None else 2048 if name == "entropy" else 4096)
    spec = f"{name}(axis={axis}, bins={size}"
    spec += f", percentile={percentile})" if name == "percentile" else ")"
    finders: dict[str, Finder] = {
        "percentile": lambda bins, grid: percentile_range(bins, grid, percentile),
        "entropy": entropy_range,
        "mse": mse_range,
    }
    return Observer(spec, axis, lambda channels: Histogram(channels, size), finders[name])


def _rows(array: np.ndarray, axis: int | None) -> np.ndarray:
    """[1, n] or [C, n], in a float type that numpy computes in."""
    if array.dtype not in (np.float32, np.float64):
        array = array.astype(np.float64 if array.dtype.kind in "iub" else np.float32)
    if axis is None:
        return array.reshape(1, -1)
    moved = np.moveaxis(array, axis, 0)
    return moved.reshape(len(moved), -1)
