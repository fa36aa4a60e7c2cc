"""Round to nearest: scales from each block's extremes, codes by rounding half to even.

Why: with Δ the step, every weight is off by at most Δ/2; the baseline that all others must beat.
References: Jacob et al. 2018, arXiv:1712.05877.
"""

import numpy as np

from ..grid import settle
from ..layer import LayerData
from ..rounded import Format, Part, Rounded


def rtn(layer: LayerData, wanted: Format, start: Rounded | None = None) -> Rounded:
    """The weight on the grid that spans each block; `start` is replaced."""
    low, high = wanted.ranges(layer.weight.astype(np.float64))
    scale, zero = wanted.grid.fit(low, high)
    return nearest(layer.weight, wanted, scale, zero, method="rtn")


def nearest(
    weight: np.ndarray, wanted: Format, scale: np.ndarray, zero: np.ndarray, *, method: str
) -> Rounded:
    """The nearest codes at given scales (rounded to float32 first) and zero points."""
    scale = settle(scale)
    width = weight.shape[1]
    codes = wanted.grid.encode(
        weight.astype(np.float64), wanted.spread(scale, width), wanted.spread(zero, width)
    )
    part = Part(codes.astype(np.float32), scale, zero, wanted)
    return Rounded((part,), (weight.shape[0], width), method=method)
