"""A grid of powers: fine near 0, coarse far out, W ≈ m·sign(k)·(|k|/n)^(1/a).

Rewrite: k = the nearest of −n..n, n = 2^(bits−1) − 1, with one exponent a a layer and m a block.
Why: powers are the continuous automorphisms of the positive numbers under multiplication, so
(|w|/m)^a is the one-parameter family of grids between even (a = 1) and near binary (a -> 0); bell
shapes want a < 1. For scales m fixed, the weighted error Σ E[x_j²]·(W − Ŵ)²_ij depends on a alone
and has one valley, with small dips where codes are many and weights few: the best of a fine scan
of exponents is refined between its two neighbours. Outliers set m, so m is then clipped per block
for that a, and both are repeated.
Exactness: approximate; 0 stays 0. Never above the even grid of the same m and n (a = 1 is tried),
and each repetition is kept only if the error falls. Codes are nearest by value, not by power as
in the paper, which can only lower the error.
Legality: integer formats of 2 to 8 bits, symmetric or not; one plain tensor before it at most,
whose scales then say what m is.
Effect: a table of 2·n + 1 float32 a layer. Gaussian weights at 4 bits: a ≈ 0.64, 0.63 of the even
grid's squared error.
References: Yvinec et al. 2023, PowerQuant, arXiv:2301.09858; Yvinec et al. 2023, NUPES,
arXiv:2308.05600.
"""

import numpy as np
from scipy.optimize import minimize_scalar

from ..layer import LayerData
from ..rounded import Format, Part, Rounded
from .checks import column_weights, finite_weight, plain_part, table_bits
from .kmeans import SortedNumbers
from .rescale import block_errors
from .tables import absolute_peaks, quotient, table_part

EXPONENTS = np.arange(10, 151, 2) / 100
CLIPS = 1 - np.arange(11) / 20


def nupes(
    layer: LayerData, wanted: Format, start: Rounded | None = None, *, parameter: int = 3
) -> Rounded:
    """The power grid of least weighted error.

    Args:
        layer: with or without `second`.
        wanted: an integer format; its bits give n.
        start: whose ranges are taken for m; where None, each block's largest |W|.
        parameter: how often clipping and the exponent are searched in turn after the first
            exponent; 0 never clips.
    """
    if parameter < 0:
        raise ValueError(f"nupes expected a number of rounds of at least 0, got {parameter}")
    weight, columns = finite_weight(layer), column_weights(layer)
    reach = 2 ** (table_bits(layer, wanted, "nupes", least=2) - 1) - 1
    peaks = first_peaks(layer, weight, wanted, start)
    exponent = best_exponent(weight, peaks, columns, wanted, reach)
    found = table_part(weight, wanted, peaks, power_table(exponent, reach))
    for _ in range(parameter):
        peaks = clipped_peaks(weight, found, columns)
        exponent = best_exponent(weight, peaks, columns, wanted, reach)
        better = table_part(weight, wanted, peaks, power_table(exponent, reach))
        if not total(better, weight, columns) < total(found, weight, columns) * (1 - 1e-4):
            break
        found = better
    before = f"{start.method}+" if start else ""
    return Rounded((found,), layer.weight.shape, method=f"{before}nupes")


def first_peaks(
    layer: LayerData, weight: np.ndarray, wanted: Format, start: Rounded | None
) -> np.ndarray:
    """The m of each block: the largest |value| that `start` has a code for, else max|W|."""
    part = plain_part(layer, start, "nupes")
    if part is None:
        return absolute_peaks(weight, wanted)
    if part.format.block != wanted.block:
        raise ValueError(
            f"{layer.name}: nupes expected scales for blocks of {wanted.block},"
            f" got blocks of {part.format.block}"
        )
    if part.table is not None:
        return part.scale * np.abs(part.table).max()
    grid = part.format.grid
    return part.scale * np.maximum(grid.high - part.zero, part.zero - grid.low)


def power_table(exponent: float, reach: int) -> np.ndarray:
    """sign(k)·(|k|/n)^(1/a) for k = −n..n; n is `reach`."""
    k = np.arange(-reach, reach + 1)
    return np.sign(k) * (np.abs(k) / reach) ** (1 / exponent)


def best_exponent(
    weight: np.ndarray, peaks: np.ndarray, columns: np.ndarray, wanted: Format, reach: int
) -> float:
    """The a of least Σ columns·(W − Ŵ)² at scales m."""
    spread = np.broadcast_to(wanted.spread(peaks, weight.shape[1]), weight.shape)
    data = SortedNumbers(quotient(weight, spread), columns * spread**2)

    def error(exponent: float) -> float:
        return data.error(power_table(exponent, reach))

    errors = [error(exponent) for exponent in EXPONENTS]
    at = int(np.argmin(errors))
    bounds = EXPONENTS[max(at - 1, 0)], EXPONENTS[min(at + 1, len(EXPONENTS) - 1)]
    refined = minimize_scalar(error, bounds=bounds, method="bounded", options={"xatol": 1e-3})
    return float(refined.x) if refined.fun < errors[at] else float(EXPONENTS[at])


def clipped_peaks(weight: np.ndarray, part: Part, columns: np.ndarray) -> np.ndarray:
    """For each block the best m among shrunk ones, at the table of `part`."""
    assert part.table is not None
    candidates = np.stack([part.scale * clip for clip in CLIPS])
    parts = (table_part(weight, part.format, scale, part.table) for scale in candidates)
    errors = np.stack([block_errors(one, weight, columns) for one in parts])
    return np.take_along_axis(candidates, errors.argmin(axis=0)[None], axis=0)[0]


def total(part: Part, weight: np.ndarray, columns: np.ndarray) -> float:
    """Σ columns·(W − Ŵ)²."""
    return float(block_errors(part, weight, columns).sum())
