"""How an array that broadcasts to a value passes through an op that only moves elements.

The array has the value's rank and extent 1 along every axis it does not vary on. `onto_result`
carries it from the first operand to a result, `onto_operand` back; both answer None when it cannot
pass. Folding, streams and later passes share these two functions.
"""

from functools import singledispatch

import numpy as np

from ..graph import Op, Shape
from ..graph.ops import (
    Cast,
    Concat,
    Expand,
    Gather,
    Identity,
    Reduce,
    Reshape,
    Slice,
    Split,
    Squeeze,
    Transpose,
    Unbind,
    Unsqueeze,
)
from ..graph.shapes import reshape_groups

Moved = np.ndarray | None


@singledispatch
def onto_result(op: Op, array: np.ndarray, neutral: float, result: int) -> Moved:
    """Carry an array on `op`'s first operand to its result; None if it cannot pass."""
    return None


@singledispatch
def onto_operand(op: Op, array: np.ndarray, neutral: float, result: int) -> Moved:
    """Carry an array on a result of `op` to its first operand, `neutral` where nothing is asked."""
    return None


@onto_result.register(Identity)
@onto_result.register(Cast)
@onto_operand.register(Identity)
@onto_operand.register(Cast)
def _same(op: Op, array: np.ndarray, neutral: float, result: int) -> Moved:
    return array if op.require(0).is_float and op.output.is_float else None


@onto_result.register
def _(op: Transpose, array: np.ndarray, neutral: float, result: int) -> Moved:
    return array.transpose(op.perm)


@onto_operand.register
def _(op: Transpose, array: np.ndarray, neutral: float, result: int) -> Moved:
    return array.transpose(np.argsort(op.perm))


@onto_result.register(Reshape)
@onto_result.register(Squeeze)
@onto_result.register(Unsqueeze)
def _reshape_forward(op: Op, array: np.ndarray, neutral: float, result: int) -> Moved:
    return reshaped(array, op.require(0).shape, op.output.shape)


@onto_operand.register(Reshape)
@onto_operand.register(Squeeze)
@onto_operand.register(Unsqueeze)
def _reshape_backward(op: Op, array: np.ndarray, neutral: float, result: int) -> Moved:
    return reshaped(array, op.output.shape, op.require(0).shape)


@onto_result.register
def _(op: Expand, array: np.ndarray, neutral: float, result: int) -> Moved:
    return array.reshape((1,) * ((op.output.rank or 0) - array.ndim) + array.shape)


@onto_operand.register
def _(op: Expand, array: np.ndarray, neutral: float, result: int) -> Moved:
    shape = op.require(0).shape
    if shape is None or any(dim != 1 for dim in array.shape[: array.ndim - len(shape)]):
        return None
    tail = array.reshape(array.shape[array.ndim - len(shape) :])
    repeated = any(a > 1 and dim == 1 for a, dim in zip(tail.shape, shape, strict=True))
    return None if repeated else tail


@onto_result.register
def _(op: Slice, array: np.ndarray, neutral: float, result: int) -> Moved:
    varying = [axis for axis in op.axes if array.shape[axis] > 1]
    if varying and op.starts is None:
        return None
    return array[_slices(op, array.ndim, varying)]


@onto_operand.register
def _(op: Slice, array: np.ndarray, neutral: float, result: int) -> Moved:
    shape = op.require(0).shape
    if op.starts is None or shape is None:
        return None
    return _embed(array, shape, op.axes, _slices(op, array.ndim, op.axes), neutral)


@onto_result.register
def _(op: Split, array: np.ndarray, neutral: float, result: int) -> Moved:
    return array if array.shape[op.axis] == 1 else array[_piece(op, array.ndim, result)]


@onto_operand.register
def _(op: Split, array: np.ndarray, neutral: float, result: int) -> Moved:
    shape = op.require(0).shape
    if shape is None:
        return None
    return _embed(array, shape, (op.axis,), _piece(op, array.ndim, result), neutral)


@onto_result.register
def _(op: Unbind, array: np.ndarray, neutral: float, result: int) -> Moved:
    return array.take(result if array.shape[op.axis] > 1 else 0, axis=op.axis)


@onto_operand.register
def _(op: Unbind, array: np.ndarray, neutral: float, result: int) -> Moved:
    return _embed_one(op.require(0).shape, np.expand_dims(array, op.axis), op.axis, result, neutral)


@onto_result.register
def _(op: Gather, array: np.ndarray, neutral: float, result: int) -> Moved:
    indices = op.indices
    if array.shape[op.axis] > 1:
        return array.take(indices.array(), axis=op.axis) if indices.constant is not None else None
    if indices.rank is None:
        return None
    shape = array.shape
    return array.reshape(shape[: op.axis] + (1,) * indices.rank + shape[op.axis + 1 :])


@onto_operand.register
def _(op: Gather, array: np.ndarray, neutral: float, result: int) -> Moved:
    if op.indices.constant is None or op.indices.rank != 0:
        return None
    index = int(op.indices.array())
    return _embed_one(op.x.shape, np.expand_dims(array, op.axis), op.axis, index, neutral)


@onto_result.register
def _(op: Reduce, array: np.ndarray, neutral: float, result: int) -> Moved:
    if op.fn not in ("mean", "sum") or any(array.shape[axis] > 1 for axis in op.axes):
        return None
    if op.fn == "sum" and neutral == 0.0 and np.any(array):
        return None  # a shift is multiplied by the number of terms
    return array if op.keepdims else array.squeeze(op.axes)


@onto_operand.register
def _(op: Reduce, array: np.ndarray, neutral: float, result: int) -> Moved:
    if op.fn not in ("mean", "sum") or (op.fn == "sum" and neutral == 0.0 and np.any(array)):
        return None
    wide = array if op.keepdims else np.expand_dims(array, op.axes)
    return None if any(wide.shape[axis] > 1 for axis in op.axes) else wide


def reshaped(array: np.ndarray, before: Shape | None, after: Shape | None) -> Moved:
    """Carry an array through a reshape between two shapes, group by group."""
    if before is None or after is None:
        return None
    spread, target = list(array.shape), [1] * len(after)
    for group in reshape_groups(before, after):
        if all(array.shape[axis] == 1 for axis in group.before):
            continue
        for axis in group.before:
            spread[axis] = _number(before[axis])
        for axis in group.after:
            target[axis] = _number(after[axis])
    if 0 in spread or 0 in target:
        return None
    return np.broadcast_to(array, spread).reshape(target)


def _number(dim: int | str) -> int:
    """The extent, or 0 where it is symbolic (no array can be spread along it)."""
    return dim if isinstance(dim, int) else 0


def _slices(op: Slice, rank: int, axes: "tuple[int, ...] | list[int]") -> tuple[slice, ...]:
    window = [slice(None)] * rank
    starts, ends, steps = op.starts or (), op.ends or (), op.steps or ()
    for axis, start, end, step in zip(op.axes, starts, ends, steps, strict=False):
        if axis in axes:
            window[axis] = slice(start, end, step)
    return tuple(window)


def _piece(op: Split, rank: int, result: int) -> tuple[slice, ...]:
    start = sum(op.sizes[:result])
    window = [slice(None)] * rank
    window[op.axis] = slice(start, start + op.sizes[result])
    return tuple(window)


def _embed(
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
    extents = [_number(shape[k]) if k in axes else array.shape[k] for k in range(array.ndim)]
    whole = np.full(extents, neutral)
    whole[window] = array
    return whole


def _embed_one(
    shape: Shape | None, array: np.ndarray, axis: int, index: int, neutral: float
) -> Moved:
    if shape is None:
        return None
    position = slice(index, index + 1 or None)
    window = tuple(position if k == axis else slice(None) for k in range(len(shape)))
    return _embed(array, shape, (axis,), window, neutral)


def concat_piece(op: Concat, array: np.ndarray, index: int) -> Moved:
    """The part of an array on a concatenation's result that falls on its operand `index`."""
    if array.shape[op.axis] == 1:
        return array
    offset, width = _offset(op, index)
    return None if width == 0 else array.take(range(offset, offset + width), axis=op.axis)


def concat_spread(op: Concat, array: np.ndarray, index: int, neutral: float) -> Moved:
    """An array on operand `index` as one on the result, neutral over the other operands."""
    offset, width = _offset(op, index)
    shape = op.output.shape
    if width == 0 or shape is None:
        return None
    window = [slice(None)] * len(shape)
    window[op.axis] = slice(offset, offset + width)
    return _embed(array, shape, (op.axis,), tuple(window), neutral)


def _offset(op: Concat, index: int) -> tuple[int, int]:
    """Where operand `index` starts and how long it is; length 0 when that is symbolic."""
    extents = []
    for value in op.inputs[: index + 1]:
        shape = None if value is None else value.shape
        if shape is None or not isinstance(shape[op.axis], int):
            return 0, 0
        extents.append(_number(shape[op.axis]))
    return sum(extents[:-1]), extents[-1]
