"""Scales that are powers of two (M1), or power-of-two fractions of one per compute group (M2).

Rewrite:
    M1: s  ->  2^⌈log₂ s⌉
    M2: s_i  ->  s_max/2^q_i, q_i from log₂(s_max/s_i) by rounding it down or up; codes are then
        chosen anew.
Why: going from one block to the next, or from FP4 to FP8 codes, is then an addition to exponents,
exact in any binary floating-point format. Rounding q down makes every scale at least what it was,
so nothing new is clipped; the published rounding up clips, which costs more than the coarser step
in most blocks. Of both, each block takes the one of less Σ_j E[x_j²]·(W − Ŵ)²_ij.
Exactness: approximate. The error of the better of the two is never more than that of rounding down.
Legality: any format of codes, tables included; scales stay within the normal float32 numbers.
Effect: no other storage; 4 bits over 1 for M2's scales is possible. Gaussian rows of log-normal
spread in FP4, block 64: relative squared error 0.0112 free, 0.0144 M1, 0.0134 M2 rounded down,
0.0287 rounded up.
References: Wu et al. 2023, ZeroQuant-FP, arXiv:2307.09782.
"""

import numpy as np

from ..layer import LayerData
from ..rounded import Format, Part, Rounded
from .checks import column_weights, finite_weight
from .rescale import (
    block_errors,
    ceil_log2,
    floor_log2,
    power_of_two,
    recoded,
    rescaled,
)
from .rtn import rtn


def pow2(layer: LayerData, wanted: Format, start: Rounded | None = None) -> Rounded:
    """M1 on the scales of `start` (round to nearest where there is none)."""
    weight = finite_weight(layer)
    start = start or rtn(layer, wanted)
    return rescaled(weight, start, lambda part, own: power_scales(part.scale), "pow2")


def pow2_group(
    layer: LayerData, wanted: Format, start: Rounded | None = None, *, parameter: int = 0
) -> Rounded:
    """M2 on the scales of `start`.

    Args:
        layer: with or without `second`.
        wanted: the format, where there is no start.
        start: whose scales are to be constrained.
        parameter: rows in a compute group; 0 for one row where a row has several scales, and for
            all rows where it has one.
    """
    if parameter < 0:
        raise ValueError(f"pow2-group expected a number of rows of at least 0, got {parameter}")
    weight, columns = finite_weight(layer), column_weights(layer)
    start = start or rtn(layer, wanted)
    if start.columns is not None:
        columns = columns * start.columns**2

    def choose(part: Part, own: np.ndarray) -> np.ndarray:
        weights = columns if part.columns is None else columns[part.columns]
        rows = parameter or (1 if part.scale.shape[1] > 1 else len(part.scale))
        return better_scales(part, own, weights, rows)

    return rescaled(weight, start, choose, "pow2-group")


def power_scales(scale: np.ndarray) -> np.ndarray:
    """2^⌈log₂ s⌉; scales of 0 stay 0."""
    positive = np.where(scale > 0, scale, 1.0)
    return np.where(scale > 0, power_of_two(ceil_log2(positive)), 0.0)


def group_scales(scale: np.ndarray, rows: int, *, up: bool) -> np.ndarray:
    """s_max/2^q for groups of `rows` rows of `scale` [O, blocks]; `up`: q rounded up."""
    heads = np.maximum.reduceat(scale.max(axis=1), np.arange(0, len(scale), rows))
    largest = np.repeat(heads, rows)[: len(scale), None]
    ratio = np.where(scale > 0, largest / np.where(scale > 0, scale, 1.0), 1.0)
    exponent = ceil_log2(ratio) if up else floor_log2(ratio)
    return np.where(scale > 0, largest * power_of_two(-exponent), 0.0)


def better_scales(part: Part, weight: np.ndarray, columns: np.ndarray, rows: int) -> np.ndarray:
    """For each block, of the exponents rounded down and up those of less weighted error."""
    both = [group_scales(part.scale, rows, up=up) for up in (False, True)]
    down, up = (block_errors(recoded(part, weight, scale), weight, columns) for scale in both)
    return np.where(up < down, both[1], both[0])
