"""Codes chosen anew at scales that obey a constraint (powers of two, shared factors)."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ..grid import settle
from ..rounded import Format, Part, Rounded
from .tables import nearest_entries, nearest_entries_by_row, quotient, stored_scale

LEAST_EXPONENT, MOST_EXPONENT = -126, 127  # of a normal float32
NewScale = Callable[[Part, np.ndarray], np.ndarray]
"""Scales like `part.scale`, given the part and the weight [O, I of its columns] it should hold."""


def rescaled(weight: np.ndarray, start: Rounded, choose: NewScale, method: str) -> Rounded:
    """`start` with each part's scales replaced by `choose`, codes nearest to what is left to hold.

    Factors and low-rank corrections stay; a part answers for the weight less all other parts.

    Raises:
        ValueError: a part has an offset or a mask, which come with scales of their own.
    """
    if any(part.offset is not None or part.mask is not None for part in start.parts):
        raise ValueError(
            f"expected {method} to follow scaled codes without offset or mask,"
            f" got what {start.method!r} made"
        )
    wish = weight
    if start.left is not None and start.right is not None:
        wish = wish - start.left.astype(np.float64) @ start.right.astype(np.float64)
    if start.rows is not None:
        wish = quotient(wish, np.broadcast_to(start.rows[:, None], wish.shape))
    if start.columns is not None:
        wish = quotient(wish, np.broadcast_to(start.columns[None, :], wish.shape))
    left, parts = wish - start.summed(), []
    for part in start.parts:
        columns = slice(None) if part.columns is None else part.columns
        own = left[:, columns] + part.dense()
        parts.append(recoded(part, own, choose(part, own)))
        left[:, columns] = own - parts[-1].dense()
    return start.but(method, parts=tuple(parts))


def recoded(part: Part, weight: np.ndarray, scale: np.ndarray) -> Part:
    """`part` with the nearest codes for weight [O, I] at `scale` (rounded to float32 first).

    A scale of 0 stays with a table, which may have no 0; codes that are numbers need one above.
    """
    scale = settle(scale) if part.table is None else stored_scale(scale)
    spread = part.format.spread(scale, weight.shape[1])
    if part.table is not None:
        find = nearest_entries if part.table.ndim == 1 else nearest_entries_by_row
        order = np.argsort(part.table, axis=-1, kind="stable")
        found = find(quotient(weight, spread), np.take_along_axis(part.table, order, axis=-1))
        codes = order[found] if order.ndim == 1 else np.take_along_axis(order, found, axis=1)
        return replace(part, codes=codes.astype(part.codes.dtype), scale=scale)
    zero = shifted_zero(part, scale)
    codes = part.format.grid.encode(weight, spread, part.format.spread(zero, weight.shape[1]))
    return replace(part, codes=codes.astype(part.codes.dtype), scale=scale, zero=zero)


def shifted_zero(part: Part, scale: np.ndarray) -> np.ndarray:
    """Zero points that keep the lower end of each block's range where it was."""
    grid = part.format.grid
    if grid.symmetric or grid.is_float:
        return part.zero
    return np.clip(
        grid.low + np.rint((part.zero - grid.low) * part.scale / scale), grid.low, grid.high
    )


def block_errors(part: Part, weight: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Σ_j columns_j·(W − Ŵ)²_ij of each block: [O, blocks], [1, 1] for block −1."""
    return block_sums(columns * (weight - part.dense()) ** 2, part.format)


def block_sums(values: np.ndarray, wanted: Format) -> np.ndarray:
    """[O, I] summed over each block: [O, blocks], [1, 1] for block −1."""
    if wanted.block < 0:
        return values.sum(keepdims=True)
    if wanted.block == 0:
        return values.sum(axis=1, keepdims=True)
    return np.add.reduceat(values, np.arange(0, values.shape[1], wanted.block), axis=1)


def power_of_two(exponent: np.ndarray) -> np.ndarray:
    """2^exponent for whole exponents, kept within the normal float32 numbers."""
    return np.ldexp(1.0, np.clip(exponent, LEAST_EXPONENT, MOST_EXPONENT).astype(np.int64))


def ceil_log2(x: np.ndarray) -> np.ndarray:
    """⌈log₂ x⌉ of positive numbers, exactly."""
    mantissa, exponent = np.frexp(x)
    return exponent - (mantissa == 0.5)


def floor_log2(x: np.ndarray) -> np.ndarray:
    """⌊log₂ x⌋ of positive numbers, exactly."""
    return np.frexp(x)[1] - 1
