"""Activation-aware scales: blow up the columns that read large inputs before rounding them.

Rewrite: y = W·x → y = Q(W·diag(s))·(x/s), with s_j = E|x_j|^t, scaled to √(max s·min s) = 1.
Why: Q errs by up to half a step Δ whatever it rounds, so column j, multiplied by s_j and its input
divided by it, costs Δ·|x_j|/s_j. As long as few columns grow, Δ hardly does, and the columns with
the largest inputs gain. How far to go is searched: t over a grid from 0 (s = 1) to 1, by the error
that all readers of x have together once rounded, with the statistics of x/s for those roundings
that use any.
Exactness: exact before rounding. The result is never worse than s = 1 on the statistics, as t = 0
is in the grid.
Legality: the same s for all readers of x; see `apply` for where 1/s can go.
Effect: no cost at run time where 1/s folds into what makes x. Blocks of weights of one sign round
well only because ranges are widened to hold 0 (`Grid.fit`).
References: Lin et al. 2023 (AWQ), arXiv:2306.00978, §3.2.
"""

from collections.abc import Sequence

import numpy as np

from ..layer import LayerData
from ..rounded import Format
from ..rounding import round_weight
from .scaled import Found, bounded, centred, rescaled, width_of

GRID = tuple(round(0.05 * step, 2) for step in range(21))


def awq(
    readers: Sequence[LayerData],
    wanted: Format,
    stages: Sequence[str] = ("rtn",),
    *,
    grid: Sequence[float] = GRID,
    power_of_two: bool = False,
) -> Found:
    """The scales [I] at which the readers of one value lose least when rounded.

    Args:
        readers: the layers, all with the same input.
        wanted: the format to round to.
        stages: the names of the rounding algorithms that will be used.
        grid: the exponents t to try besides 0; on a tie the one that is first.
        power_of_two: scales at powers of two, which fold without any rounding of their own.

    Raises:
        ValueError: readers of different widths, or none.
    """
    width, sizes = width_of(readers), input_sizes(readers)
    if sizes is None:
        return Found(np.ones(width), None, {}, ("no statistics: scales of 1",))
    scales = {t: centred(bounded(sizes) ** t, power_of_two) for t in (0.0, *grid)}
    losses: dict[float | None, float] = {
        t: sum(scaled_error(layer, scale, wanted, stages) for layer in readers)
        for t, scale in scales.items()
    }
    best = min(scales, key=lambda t: losses[t])
    return Found(scales[best], best, losses)


def input_sizes(readers: Sequence[LayerData]) -> np.ndarray | None:
    """E|x_j| [I] where it is known, else √E[x_j²], else None."""
    for layer in readers:
        if layer.mean_abs is not None:
            return layer.mean_abs.astype(np.float64)
    for layer in readers:
        if layer.second is not None:
            return np.sqrt(np.maximum(np.diagonal(layer.second), 0.0))
    return None


def scaled_error(
    layer: LayerData, scale: np.ndarray, wanted: Format, stages: Sequence[str]
) -> float:
    """The error of Q(W·diag(s))·diag(1/s) in place of W."""
    rounded = round_weight(rescaled(layer, scale), wanted, stages)
    return layer.error(rounded.dense() / scale)
