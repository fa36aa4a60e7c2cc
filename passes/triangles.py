"""Constants that tell, of their last two axes, only whether the column is after the row."""

import numpy as np

from ..graph import Value

SEARCHED = 1 << 24
"""Elements of a constant that are looked through."""

Sides = tuple[np.ndarray, np.ndarray]


def sides(value: Value) -> Sides | None:
    """What a constant [.., n, n] holds up to the diagonal and after it, each [.., 1, 1].

    None where it is no such constant: a causal mask is one, a table of relative positions is not.
    """
    payload = value.constant
    if payload is None or len(payload.shape) < 2 or not 0 < np.prod(payload.shape) <= SEARCHED:
        return None
    rows, columns = payload.shape[-2:]
    if rows != columns or rows < 2:
        return None
    array = payload.array()
    found = array[..., :1, :1], array[..., :1, columns - 1 :]
    return found if np.array_equal(triangle(found, rows), array) else None


def triangle(found: Sides, count: int) -> np.ndarray:
    """The constant [.., count, count] of these two sides."""
    return np.where(np.tri(count, dtype=bool), *found)
