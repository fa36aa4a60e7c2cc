"""The range that a histogram asks for: by percentile, by entropy, by mean squared error.

Why: a candidate range [low, high] gives a grid's scale s and zero point z, and with them the code
q(x) that every bin's centre gets.
    mse      minimises Σ_i n_i (x_i − s(q(x_i) − z))² over the candidates; clipping is in it.
    entropy  minimises KL(P ‖ Q) as in Migacz 2017: P are the counts inside the range, with what
             is clipped added to its outermost bins; Q has the counts of all bins of one code
             spread evenly over those of them that hold something, without what is clipped. Q is
             mixed with 1e-4 of the uniform distribution over P's bins, so that clipped mass which
             falls on an empty bin is dear but not infinitely so.
Exact zeros are left out of both: zero has a code of its own whatever the range, and a padded or
rectified tensor would else look as if nearly all of it were free of error.
A range of fewer bins than the grid has codes would have KL 0 by construction, so it is no
candidate; a grid finer than the histogram gets the extremes.
References: Migacz 2017, GTC S7310; Wu et al. 2020, arXiv:2004.09602; Banner et al. 2019,
arXiv:1810.05723.
"""

import numpy as np

from ..grid import Grid
from .histogram import Bins

CANDIDATES = 128
"""Ranges tried at once."""
SMOOTHING = 1e-4
NARROWEST = 2.0**-6
"""The smallest part of the extremes that the search by mean squared error starts from."""


def percentile_range(bins: Bins, grid: Grid, percentile: float) -> tuple[float, float]:
    """The central `percentile` % of the numbers; of |x| for a symmetric grid."""
    if grid.symmetric or grid.is_float:
        reach = bins.magnitude().quantile(percentile / 100)
        return max(bins.low, -reach), min(bins.high, reach)
    cut = (100 - percentile) / 200
    return bins.quantile(cut), bins.quantile(1 - cut)


def entropy_range(bins: Bins, grid: Grid) -> tuple[float, float]:
    """The range with the least divergence; the widest of equals."""
    width = bins.edges[1] - bins.edges[0]
    reach = max(-bins.low, bins.high)
    least = max(bins.low, -bins.high, 0.0) + _codes(bins, grid) * width
    if least >= reach or not bins.counts.any():
        return bins.low, bins.high
    # On bin edges, so that no bin is cut in two.
    steps = np.unique(np.rint(np.linspace(reach, least, 2 * CANDIDATES) / width))[::-1] * width
    parts = [steps[i : i + CANDIDATES] for i in range(0, len(steps), CANDIDATES)]
    costs = np.concatenate([_divergence(bins, grid, part) for part in parts])
    best = steps[int(costs.argmin())]
    return max(bins.low, -best), min(bins.high, best)


def mse_range(bins: Bins, grid: Grid) -> tuple[float, float]:
    """The range with the least expected squared error."""
    if not bins.counts.any() or 4 * _codes(bins, grid) > len(bins.counts):
        return bins.low, bins.high
    shares = np.geomspace(1.0, NARROWEST, CANDIDATES)
    best = _best(bins, grid, bins.low * shares, bins.high * shares)
    two_sided = not (grid.symmetric or grid.is_float)
    ends = ((1, 1), (1, 0), (0, 1), (1, 0), (0, 1)) if two_sided else ((1, 1),)
    for reach in (0.5, 0.05):
        shares = 1 + np.concatenate([[0.0], np.linspace(-reach, reach, CANDIDATES)])
        for move_low, move_high in ends:
            low = np.maximum(best[0] * shares**move_low, bins.low)
            high = np.minimum(best[1] * shares**move_high, bins.high)
            best = _best(bins, grid, low, high)
    return best


def _codes(bins: Bins, grid: Grid) -> int:
    """How many codes the grid has on the wider side of zero."""
    one_sided = bins.low >= 0 or bins.high <= 0
    whole = not (grid.symmetric or grid.is_float) and one_sided
    return int(2 ** (grid.bits if whole else grid.bits - 1))


def _best(bins: Bins, grid: Grid, low: np.ndarray, high: np.ndarray) -> tuple[float, float]:
    """The candidate with the least error; the first of equals."""
    index = int(squared_error(bins, grid, low, high).argmin())
    return float(low[index]), float(high[index])


def squared_error(bins: Bins, grid: Grid, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Σ n (x − x̂)² of each candidate range, [K]."""
    scale, zero = (array[:, None] for array in grid.fit(low, high))
    x = bins.centres[None, :]
    rounded = scale * (grid.encode(x, scale, zero) - zero)
    result: np.ndarray = ((x - rounded) ** 2) @ bins.counts
    return result


def _divergence(bins: Bins, grid: Grid, reach: np.ndarray) -> np.ndarray:
    """KL(P ‖ Q) of the ranges [−reach, reach] within the extremes, [K]."""
    low, high = np.maximum(bins.low, -reach), np.minimum(bins.high, reach)
    scale, zero = (array[:, None] for array in grid.fit(low, high))
    x = bins.centres[None, :]
    inside = (x >= low[:, None]) & (x <= high[:, None])
    kept = np.where(inside, bins.counts, 0.0)
    p = kept.copy()
    rows = np.arange(len(reach))
    first, last = inside.argmax(axis=1), inside.shape[1] - 1 - inside[:, ::-1].argmax(axis=1)
    p[rows, first] += np.where(x < low[:, None], bins.counts, 0.0).sum(axis=1)
    p[rows, last] += np.where(x > high[:, None], bins.counts, 0.0).sum(axis=1)
    q = _spread(kept, grid.encode(x, scale, zero))
    held = p > 0
    p = p / p.sum(axis=1, keepdims=True)
    q = q / np.maximum(q.sum(axis=1, keepdims=True), 1e-300)
    q = (1 - SMOOTHING) * q + SMOOTHING * held / held.sum(axis=1, keepdims=True)
    terms = np.where(held, p * np.log(np.where(held, p, 1.0) / np.where(held, q, 1.0)), 0.0)
    result: np.ndarray = terms.sum(axis=1)
    return result


def _spread(counts: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """The counts [K, B] of one code, evenly over its bins that hold something."""
    change = np.diff(codes, axis=1, prepend=codes[:, :1]) != 0
    group = np.cumsum(change, axis=1) + np.arange(len(codes))[:, None] * codes.shape[1]
    held = counts > 0
    total = np.bincount(group.ravel(), counts.ravel(), counts.size)
    number = np.bincount(group.ravel(), held.ravel(), counts.size)
    return np.where(held, (total / np.maximum(number, 1))[group], 0.0)
