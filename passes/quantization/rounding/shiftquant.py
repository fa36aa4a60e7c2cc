"""Scales of blocks that differ from their row's by a power of two, the same for all rows.

Rewrite: scale [O, blocks]  ->  s_o·2^−e_g, e_g whole numbers from 0 to `MOST_SHIFT`; codes are then
chosen anew.
Why: Σ_g 2^−e_g·Σ_{j in g} K_oj·x_j is one integer sum with shifts, and the 2^−e_g, being the same
in every row, move into the other operand's scales without rounding. With M_g = max_o of
s_og/max_g s_og, ⌊−log₂ M_g⌋ is the most that block g can be shifted without any s_o growing; within
its range the finer grid holds every value of the coarser one, so this costs no accuracy. From
there, in turn each e_g goes to the neighbour of least Σ E[x_j²]·(W − Ŵ)²_ij (blocks are
independent at fixed s_o) and each s_o to the best of a few smaller ones (rows are independent at
fixed e_g).
Exactness: approximate; no step raises the error, which ends at most at that of one scale a row.
Legality: blocks of columns; with one scale a row there is nothing to shift, and a note says so.
Scales stay [O, blocks], so that codes may be chosen at them anew (`gptq`).
Effect: one float32 a row and one small integer a block instead of one float32 for each block of
each row, if the runtime's format knows shifts; else what blocked scales take. It pays where
columns differ in size in all rows alike; where they do not, it is no better than one scale a row.
References: Guo et al. 2024, ShiftQuant in "Towards Accurate and Efficient Sub-8-Bit Integer
Training", arXiv:2411.10948.
"""

from dataclasses import dataclass

import numpy as np

from ..layer import LayerData
from ..rounded import Format, Part, Rounded
from .checks import column_weights, finite_weight
from .rescale import block_errors, block_sums, floor_log2, power_of_two, recoded, rescaled
from .rtn import rtn

MOST_SHIFT = 7
SHRINK = 1 - np.arange(9) / 16
ROUNDS = 4


def shiftquant(layer: LayerData, wanted: Format, start: Rounded | None = None) -> Rounded:
    """Shifted scales near those of `start` (round to nearest where there is none)."""
    weight, columns = finite_weight(layer), column_weights(layer)
    start = start or rtn(layer, wanted)
    if any(part.format.block <= 0 for part in start.parts):
        note = "shiftquant: one scale a row, nothing to shift"
        return start.but("shiftquant", notes=(*start.notes, note))
    if start.columns is not None:
        columns = columns * start.columns**2

    def choose(part: Part, own: np.ndarray) -> np.ndarray:
        weights = columns if part.columns is None else columns[part.columns]
        return shifted_scales(part, own, weights)

    return rescaled(weight, start, choose, "shiftquant")


def shifted_scales(part: Part, weight: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """[O, blocks] of the form s_o·2^−e_g, from the free scales of `part`."""
    free = needed(part, weight)
    shifts = most_shifts(free)
    base = covering(free, shifts)
    for _ in range(ROUNDS):
        before = base, shifts
        shifts = better_shifts(part, weight, columns, base, shifts)
        base = better_base(part, weight, columns, base, shifts)
        if np.array_equal(before[0], base) and np.array_equal(before[1], shifts):
            break
    return base * power_of_two(-shifts)


def needed(part: Part, weight: np.ndarray) -> np.ndarray:
    """The part's scales [O, blocks], 0 for blocks of zeros, which ask for nothing."""
    return np.where(block_sums(np.abs(weight), part.format) > 0, part.scale, 0.0)


def most_shifts(free: np.ndarray) -> np.ndarray:
    """The largest e_g [blocks] with which no row's largest scale has to grow."""
    largest = free.max(axis=1, keepdims=True)
    share = (free / np.where(largest > 0, largest, 1.0)).max(axis=0)
    return np.clip(floor_log2(1 / np.where(share > 0, share, 1.0)), 0, MOST_SHIFT)


def covering(free: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """The least s [O, 1], in float32, with s_o·2^−e_g at least each scale; 1 for rows of zeros."""
    base = (free * power_of_two(shifts)).max(axis=1, keepdims=True)
    return np.where(base > 0, base, 1.0).astype(np.float32).astype(np.float64)


def better_shifts(
    part: Part, weight: np.ndarray, columns: np.ndarray, base: np.ndarray, shifts: np.ndarray
) -> np.ndarray:
    """Each e_g or its neighbour of less error."""
    near = np.clip(np.stack([shifts, shifts - 1, shifts + 1]), 0, MOST_SHIFT)
    parts = (recoded(part, weight, base * power_of_two(-e)) for e in near)
    errors = np.stack([block_errors(one, weight, columns).sum(axis=0) for one in parts])
    return np.take_along_axis(near, errors.argmin(axis=0)[None], axis=0)[0]


def better_base(
    part: Part, weight: np.ndarray, columns: np.ndarray, base: np.ndarray, shifts: np.ndarray
) -> np.ndarray:
    """Each s_o or the smaller one of least error."""
    bases = np.stack([base * factor for factor in SHRINK])
    bases = bases.astype(np.float32).astype(np.float64)
    parts = (recoded(part, weight, each * power_of_two(-shifts)) for each in bases)
    errors = np.stack([block_errors(one, weight, columns).sum(axis=1) for one in parts])
    return np.take_along_axis(bases, errors.argmin(axis=0)[None, :, None], axis=0)[0]


@dataclass(frozen=True)
class Shifts:
    """Scales as s_o·2^−e_g: base [O] float64, shifts [blocks] int64, the least of them 0."""

    base: np.ndarray
    shifts: np.ndarray


def shifts_of(part: Part) -> Shifts:
    """The factors of a part's scales.

    Raises:
        ValueError: they are not of that form.
    """
    base = part.scale.max(axis=1)
    shifts = np.rint(np.log2(base[0] / part.scale[0])).astype(np.int64)
    if not np.array_equal(part.scale, base[:, None] * power_of_two(-shifts)):
        raise ValueError("expected scales that are a row's times a power of two for each block")
    return Shifts(base, shifts)
