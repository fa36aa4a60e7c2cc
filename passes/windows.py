"""Arrays that broadcast to a value, carried through reshapes and placed in parts of a whole."""

import numpy as np

from ..graph import Shape
from ..graph.ops import Slice, Split
from ..graph.shapes import reshape_groups

Moved = np.ndarray | None
"""An array that was carried through an op, or None where it cannot pass."""


def reshaped(array: np.ndarray, before: Shape | None, after: Shape | None) -> Moved:
    """Carry an array through a reshape between two shapes, group by group."""
    if before is None or after is None:
        return None
    spread, target = list(array.shape), [1] * len(after)
    for group in reshape_groups(before, after):
        if all(array.shape[axis] == 1 for axis in group.before):
            continue
        for axis in group.before:
            spread[axis] = number(before[axis])
        for axis in group.after:
            target[axis] = number(after[axis])
    if 0 in spread or 0 in target:
        return None
    return np.broadcast_to(array, spread).reshape(target)


def number(dim: int | str) -> int:
    """The extent, or 0 where it is symbolic (no array can be spread along it)."""
    return dim if isinstance(dim, int) else 0


def slices(op: Slice, rank: int, axes: "tuple[int, ...] | list[int]") -> tuple[slice, ...]:
    """What a Slice keeps of each axis, as far as it concerns these axes."""
    window = [slice(None)] * rank
    starts, ends, steps = op.starts or (), op.ends or (), op.steps or ()
    for axis, start, end, step in zip(op.axes, starts, ends, steps, strict=False):
        if axis in axes:
            window[axis] = slice(start, end, step)
    return tuple(window)


def piece(op: Split, rank: int, result: int) -> tuple[slice, ...]:
    """Where a result of a Split lies in its operand."""
    start = sum(op.sizes[:result])
    window = [slice(None)] * rank
    window[op.axis] = slice(start, start + op.sizes[result])
    return tuple(window)


def embed(
    array: np.ndarray,
    shape: Shape,
    axes: tuple[int, ...],
    window: tuple[slice, ...],
    neutral: float,
) -> Moved:
    """An array over the whole of `axes` that is `array` inside the window, neutral outside."""
    if np.all(array == neutral):
        return np.full((1,) * len(shape), neutral)
    if any(not isinstance(shape[axis], int) for axis in axes):
        return None
    extents = [number(shape[k]) if k in axes else array.shape[k] for k in range(array.ndim)]
    whole = np.full(extents, neutral)
    whole[window] = array
    return whole


def embed_one(
    shape: Shape | None, array: np.ndarray, axis: int, index: int, neutral: float
) -> Moved:
    """An array over the whole of an axis that is `array` at one index, neutral elsewhere."""
    if shape is None:
        return None
    position = slice(index, index + 1 or None)
    window = tuple(position if k == axis else slice(None) for k in range(len(shape)))
    return embed(array, shape, (axis,), window, neutral)
