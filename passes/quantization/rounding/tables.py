"""Weights as codes into a table of values, W = scale·table[codes], for grids that are not even."""

from dataclasses import replace

import numpy as np

from ..grid import Grid, settle
from ..rounded import Format, Part


def nearest_entries(values: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Index of the nearest entry of a sorted `table` [K], int64, of each value; ties go down."""
    return np.searchsorted((table[1:] + table[:-1]) / 2, values)


def nearest_entries_by_row(values: np.ndarray, tables: np.ndarray) -> np.ndarray:
    """The same with a sorted table for each row: values [O, I], tables [O, K]."""
    return np.stack(
        [nearest_entries(row, table) for row, table in zip(values, tables, strict=True)]
    )


def quotient(weight: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """weight/spread, and 0 where the scale is 0."""
    safe = np.where(spread == 0, 1.0, spread)
    return np.where(spread == 0, 0.0, weight / safe)


def stored_scale(scale: np.ndarray) -> np.ndarray:
    """Scales as they are stored: normal float32 numbers in float64; those of 0 stay 0."""
    return np.where(scale > 0, settle(scale), 0.0)


def table_part(weight: np.ndarray, wanted: Format, scale: np.ndarray, table: np.ndarray) -> Part:
    """The nearest codes of weight [O, I] at scales [O, blocks] or [1, 1].

    Scales and table (sorted, [K] or [O, K]) are rounded to float32 first. Codes count from 0, so
    the format becomes the unsigned integers of as many bits.
    """
    scale = stored_scale(scale)
    table = table.astype(np.float32).astype(np.float64)
    unit = quotient(weight, wanted.spread(scale, weight.shape[1]))
    find = nearest_entries if table.ndim == 1 else nearest_entries_by_row
    stored = replace(wanted, grid=Grid(f"uint{wanted.grid.bits}"))
    codes = find(unit, table).astype(np.uint8)
    return Part(codes, scale, np.zeros_like(scale), stored, table=table)


def absolute_peaks(weight: np.ndarray, wanted: Format) -> np.ndarray:
    """max|W| of every block, [O, blocks] or [1, 1]; 1 for a block of zeros."""
    low, high = wanted.ranges(weight)
    peak = np.maximum(-low, high)
    return np.where(peak > 0, peak, 1.0)
