"""SmoothQuant: move outlier channels of an activation into the weights that read it.

Rewrite: y = W·x → y = (W·diag(s))·(x/s), with s_j = max|x_j|^a / (max_o|W_oj|)^(1−a), scaled to
√(max s·min s) = 1; the maximum over o is over all readers of x.
Why: one step Δ serves all of x, set by its largest channel, so the error of x, Δ²/12 an element, is
large where most channels are small. a = ½ gives both sides of every channel the same range; a = 1
levels x and leaves it all to the weights, a = 0 levels the columns of the weights. With second
moments, a is searched by the error that follows: Σ over readers of
    Σ_j E[x_j²]·‖(W − Ŵ)_j‖²  +  Σ_j min(Δ²/12, E[x_j²]/s_j²)·‖(Ŵ·diag(s))_j‖²,
    Δ = max_j(peak_j/s_j)/(2^(bits−1) − 1),
all rounding errors counted as independent; what is smaller than Δ/2 is lost, and no more than that.
Exactness: exact before rounding; with second moments never worse than s = 1 in the model.
Legality: the same s for all readers of x; see `apply` for where 1/s can go.
Effect: no cost at run time where 1/s folds into what makes x; int8 products instead of float ones
where activations had outliers.
References: Xiao et al. 2022 (SmoothQuant), arXiv:2211.10438, §4.
"""

from collections.abc import Sequence

import numpy as np

from ..layer import LayerData
from ..rounded import Format
from ..rounding import round_weight
from .scaled import Found, bounded, centred, rescaled, width_of

GRID = tuple(round(0.05 * step, 2) for step in range(16))
"""Up to 0.75: beyond it the moments, which count padding like any token, mislead. MiniLM in static
8 bits is off by 8.9 % at 0.6 throughout, 6.2 % at 0.7, 7.1 % at 0.8, and by 8.2 % with
the a between 0 and 1 that the model prefers (without scales: 11.1 %)."""
USUAL = 0.5
"""The a of the paper, where nothing tells which is best."""


def smooth(
    readers: Sequence[LayerData],
    wanted: Format,
    stages: Sequence[str] = ("rtn",),
    *,
    strength: float | None = None,
    grid: Sequence[float] = GRID,
    bits: int = 8,
    power_of_two: bool = False,
) -> Found:
    """The scales [I] at which the readers of one quantized value lose least.

    Args:
        readers: the layers, all with the same input.
        wanted: the format of the weights.
        stages: the names of the rounding algorithms that will be used.
        strength: a, if it is not to be searched.
        grid: the values of a to try, besides scales of 1 (None among the losses).
        bits: of the activation's codes.
        power_of_two: scales at powers of two, which fold without any rounding of their own.

    Raises:
        ValueError: readers of different widths, or none; a strength outside [0, 1].
    """
    width, peaks = width_of(readers), _peaks(readers)
    if strength is not None and not 0 <= strength <= 1:
        raise ValueError(f"expected a strength in [0, 1], got {strength}")
    if peaks is None:
        return Found(np.ones(width), None, {}, ("no statistics: scales of 1",))
    reach = np.max([np.abs(layer.weight).max(axis=0) for layer in readers], axis=0)
    reach = reach.astype(np.float64)
    if strength is None and any(layer.second is None for layer in readers):
        strength = USUAL
    if strength is not None:
        return Found(migrated(peaks, reach, strength, power_of_two), strength, {})
    scales: dict[float | None, np.ndarray] = {None: np.ones(width)}
    scales.update({a: migrated(peaks, reach, a, power_of_two) for a in grid})
    losses = {
        a: sum(modelled_error(layer, s, peaks, wanted, stages, bits) for layer in readers)
        for a, s in scales.items()
    }
    best = min(losses, key=lambda a: losses[a])
    return Found(scales[best], best, losses)


def migrated(
    peaks: np.ndarray, reach: np.ndarray, strength: float, power_of_two: bool = False
) -> np.ndarray:
    """The s [I] from the peaks of x and of the weights' columns, each kept off 0."""
    return centred(bounded(peaks) ** strength / bounded(reach) ** (1 - strength), power_of_two)


def modelled_error(
    layer: LayerData,
    scale: np.ndarray,
    peaks: np.ndarray,
    wanted: Format,
    stages: Sequence[str],
    bits: int,
) -> float:
    """E‖W·x − Ŵ·Q(x/s)‖² with Ŵ = Q(W·diag(s)), by the model in the module docstring."""
    rounded = round_weight(rescaled(layer, scale), wanted, stages).dense()
    step = float((peaks / scale).max()) / (2 ** (bits - 1) - 1)
    assert layer.second is not None
    power = np.diagonal(layer.second)
    lost = (layer.weight - rounded / scale) ** 2 @ power
    noise = rounded**2 @ np.minimum(step**2 / 12, power / scale**2)
    return float((lost + noise).sum())


def _peaks(readers: Sequence[LayerData]) -> np.ndarray | None:
    known = [layer.peak for layer in readers if layer.peak is not None]
    return np.max(known, axis=0).astype(np.float64) if known else None
