"""Second moments, mean and largest magnitudes of what a weight is multiplied with.

Why: for y = W·x the error of a rounded weight Ŵ is E‖(W − Ŵ)x‖² = tr((W − Ŵ)·E[xxᵀ]·(W − Ŵ)ᵀ), so
E[xxᵀ] [I, I] is all that a rounding algorithm needs to know of the data, whatever its size. Where
the model before W is rounded already, W·x_float is wanted and x is seen, and E[x_float·xᵀ] tells
the best answer (`LayerData.target`). Blocks of rows are multiplied in float32 and summed in
float64.
"""

from collections.abc import Mapping

import numpy as np

from ....errors import InvalidInput
from ....graph.ops import Conv
from ..layer import LayerData
from .observers import State
from .patches import patches

ROWS = 1024
"""Rows that are multiplied at once."""
LIMIT = 8192
"""Width above which only the diagonal is kept, unless told otherwise: 512 MiB at this width."""
SAFE = 1e15
"""Magnitude above which squares could overflow float32."""


def bytes_for(width: int, *, cross: bool = False, limit: int = LIMIT) -> int:
    """Bytes that `Moments(width)` takes at its peak: sums, one block's products, a saved copy."""
    vectors = 3 * 8 * width + ROWS * width * 4
    if width > limit:
        return vectors
    return vectors + (1 + cross) * width * width * 8 + width * width * 4


class Moments:
    """E[xxᵀ], E|x| and max|x| of the rows of tensors x [..., I].

    Attributes:
        width: I.
        full: whether E[xxᵀ] is kept, or its diagonal only.
        count: rows seen.
    """

    def __init__(self, width: int, *, cross: bool = False, limit: int = LIMIT) -> None:
        if width < 1:
            raise ValueError(f"expected a width of at least 1, got {width}")
        self.width = width
        self.full = width <= limit
        self.count = 0
        self._sums = np.zeros((width, width) if self.full else width)
        self._cross = np.zeros((width, width)) if cross and self.full else None
        self._absolute = np.zeros(width)
        self._peak = np.zeros(width)

    @property
    def spec(self) -> str:
        """The parameters as text."""
        return f"moments(width={self.width}, full={self.full}, cross={self.crossed})"

    @property
    def crossed(self) -> bool:
        return self._cross is not None

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(array.nbytes for array in self.state().values())

    def update(self, x: np.ndarray, twin: np.ndarray | None = None) -> None:
        """Take in x [..., I], and what the float model has in its place where `cross` is kept.

        Raises:
            InvalidInput: a number that is not finite.
            ValueError: another width; a twin missing, or of another shape.
        """
        rows = self._rows(x)
        twins = None if twin is None else self._rows(twin)
        if self._cross is not None and (twins is None or twins.shape != rows.shape):
            shape = None if twins is None else twins.shape
            raise ValueError(f"expected the float model's rows {rows.shape}, got {shape}")
        for start in range(0, len(rows), ROWS):
            block = _float(rows[start : start + ROWS])
            self._add(block)
            if self._cross is not None and twins is not None:
                self._cross += _float(twins[start : start + ROWS]).T @ block
        self.count += len(rows)

    def _rows(self, x: np.ndarray) -> np.ndarray:
        if x.ndim < 1 or x.shape[-1] != self.width:
            raise ValueError(f"expected a last axis of {self.width}, got {x.shape}")
        return x.reshape(-1, self.width)

    def _add(self, block: np.ndarray) -> None:
        size = np.abs(block)
        peak = size.max(axis=0)
        if not np.isfinite(peak).all():
            raise InvalidInput("it holds NaN or Inf")
        self._peak = np.maximum(self._peak, peak)
        self._absolute += size.sum(axis=0, dtype=np.float64)
        if self.full:
            self._sums += block.T @ block
        else:
            self._sums += np.square(block, dtype=np.float64).sum(axis=0)

    @property
    def second(self) -> np.ndarray | None:
        """E[xxᵀ] [I, I] float64; None when only the diagonal is kept, or nothing was seen."""
        return self._sums / self.count if self.full and self.count else None

    @property
    def diagonal(self) -> np.ndarray:
        """E[x_j²] [I]."""
        sums = np.diagonal(self._sums) if self.full else self._sums
        return sums / max(self.count, 1)

    @property
    def cross(self) -> np.ndarray | None:
        """E[x_float·xᵀ] [I, I] float64, if it is kept."""
        return self._cross / self.count if self._cross is not None and self.count else None

    @property
    def mean_abs(self) -> np.ndarray:
        """E|x_j| [I]."""
        return self._absolute / max(self.count, 1)

    @property
    def peak(self) -> np.ndarray:
        """max|x_j| [I]."""
        return self._peak

    def layer(self, weight: np.ndarray, name: str = "") -> LayerData:
        """The weight [O, I] with these statistics."""
        if not self.count:
            return LayerData(weight, name=name)
        return LayerData(weight, self.second, self.cross, self.mean_abs, self.peak, name)

    def state(self) -> State:
        """All that was gathered; the arrays are the live ones, for saving at once."""
        held = {
            "count": np.array(self.count),
            "sums": self._sums,
            "absolute": self._absolute,
            "peak": self._peak,
        }
        return held if self._cross is None else {**held, "cross": self._cross}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from a saved state; what was gathered before is forgotten."""
        self.count = int(state["count"])
        self._sums = np.array(state["sums"])
        self._absolute, self._peak = np.array(state["absolute"]), np.array(state["peak"])
        self._cross = np.array(state["cross"]) if "cross" in state else None


class PatchMoments(Moments):
    """Moments of a convolution's patches: of each tensor, a seeded choice of `budget` of them."""

    def __init__(
        self, op: Conv, width: int, *, budget: int = 1024, cross: bool = False, limit: int = LIMIT
    ) -> None:
        super().__init__(width, cross=cross, limit=limit)
        self.op = op
        self.budget = budget
        self._updates = 0

    @property
    def spec(self) -> str:
        return f"{super().spec[:-1]}, conv={self.op.name!r}, budget={self.budget})"

    def update(self, x: np.ndarray, twin: np.ndarray | None = None) -> None:
        """Take in x [N, C, *spatial], and the float model's."""
        taken = [
            None if each is None else patches(each, self.op, budget=self.budget, seed=self._updates)
            for each in (x, twin)
        ]
        self._updates += 1
        assert taken[0] is not None
        super().update(taken[0], taken[1])

    def state(self) -> State:
        return {**super().state(), "updates": np.array(self._updates)}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        super().restore(state)
        self._updates = int(state["updates"])


def _float(block: np.ndarray) -> np.ndarray:
    """In float32, or in float64 where squares would not fit."""
    if block.dtype == np.float64 or block.dtype.kind in "iu":
        return block.astype(np.float64)
    block = block.astype(np.float32, copy=False)
    return block.astype(np.float64) if np.abs(block).max(initial=0) > SAFE else block
