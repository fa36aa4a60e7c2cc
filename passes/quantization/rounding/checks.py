"""What the rounding algorithms ask of a layer and of a format before they start."""

import numpy as np

from ..layer import LayerData
from ..rounded import Format, Part, Rounded
from .problem import check


def finite_weight(layer: LayerData) -> np.ndarray:
    """The weight in float64 [O, I].

    Raises:
        ValueError: it is empty or no matrix, or it or the statistics hold NaN or Inf.
    """
    check(layer)
    return layer.weight.astype(np.float64)


def table_bits(layer: LayerData, wanted: Format, method: str, *, least: int) -> int:
    """Bits of a code into a table of values: those of the integer format asked for.

    Raises:
        ValueError: the format is no integer format of `least` to 8 bits.
    """
    grid = wanted.grid
    if grid.is_float or not least <= grid.bits <= 8:
        raise ValueError(
            f"{layer.name}: {method} expected an integer format of {least} to 8 bits,"
            f" got {grid.name!r}"
        )
    return grid.bits


def column_weights(layer: LayerData) -> np.ndarray:
    """E[x_j²] [I], what a squared error in column j costs; ones where nothing was calibrated."""
    if layer.second is None:
        return np.ones(layer.weight.shape[1])
    return np.maximum(np.diagonal(layer.second), 0.0).astype(np.float64)


def plain_part(layer: LayerData, start: Rounded | None, method: str) -> Part | None:
    """The one part that `start` consists of; None where there is no start.

    Raises:
        ValueError: `start` has several parts, factors or a correction, which `method` would drop.
    """
    if start is None:
        return None
    part = start.parts[0]
    corrections = (start.rows, start.columns, start.left, start.right)
    extras = (*corrections, part.columns, part.offset, part.mask)
    if len(start.parts) != 1 or any(extra is not None for extra in extras):
        raise ValueError(
            f"{layer.name}: {method} makes codes of its own and expected one plain tensor"
            f" before it, got what {start.method!r} made; name {method} earlier"
        )
    return part
