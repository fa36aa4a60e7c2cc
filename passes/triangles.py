"""Constants that depend only on whether the last axis is before, at or after the one before it."""

from typing import NamedTuple

import numpy as np

from ..graph import Value

SEARCHED = 1 << 24
"""Elements of a constant that are looked through."""


class Sides(NamedTuple):
    """What such a constant [.., n, n] holds before, on and after the diagonal, each [.., 1, 1]."""

    before: np.ndarray
    diagonal: np.ndarray
    after: np.ndarray

    def square(self, count: int) -> np.ndarray:
        """The constant [.., count, count] of these sides."""
        column, row = np.arange(count), np.arange(count)[:, None]
        return np.select([column < row, column == row], [self.before, self.diagonal], self.after)


def sides(value: Value) -> Sides | None:
    """The sides of a constant; None where it is no such constant.

    A causal mask and an identity matrix are some, a table of relative positions is not.
    """
    payload = value.constant
    if payload is None or len(payload.shape) < 2 or not 0 < np.prod(payload.shape) <= SEARCHED:
        return None
    rows, columns = payload.shape[-2:]
    if rows != columns or rows < 2:
        return None
    array = payload.array()
    found = Sides(array[..., 1:2, :1], array[..., :1, :1], array[..., :1, 1:2])
    return found if np.array_equal(found.square(rows), array) else None
