"""How an array that broadcasts to a value passes through an op that only moves elements.

The array has the value's rank and extent 1 along every axis it does not vary on. `onto_result`
carries it from the first operand to a result, `onto_operand` back; both answer None when it cannot
pass. Folding, streams and later passes share these two functions.
"""

from functools import singledispatch

import numpy as np

from ..graph import Op
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
from .windows import Moved, embed, embed_one, number, piece, reshaped, slices


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
    repeated = any(tail.shape[axis] > 1 and dim == 1 for axis, dim in enumerate(shape))
    return None if repeated else tail


@onto_result.register
def _(op: Slice, array: np.ndarray, neutral: float, result: int) -> Moved:
    varying = [axis for axis in op.axes if array.shape[axis] > 1]
    if varying and op.starts is None:
        return None
    return array[slices(op, array.ndim, varying)]


@onto_operand.register
def _(op: Slice, array: np.ndarray, neutral: float, result: int) -> Moved:
    shape = op.require(0).shape
    if op.starts is None or shape is None:
        return None
    return embed(array, shape, op.axes, slices(op, array.ndim, op.axes), neutral)


@onto_result.register
def _(op: Split, array: np.ndarray, neutral: float, result: int) -> Moved:
    return array if array.shape[op.axis] == 1 else array[piece(op, array.ndim, result)]


@onto_operand.register
def _(op: Split, array: np.ndarray, neutral: float, result: int) -> Moved:
    shape = op.require(0).shape
    if shape is None:
        return None
    return embed(array, shape, (op.axis,), piece(op, array.ndim, result), neutral)


@onto_result.register
def _(op: Unbind, array: np.ndarray, neutral: float, result: int) -> Moved:
    return array.take(result if array.shape[op.axis] > 1 else 0, axis=op.axis)


@onto_operand.register
def _(op: Unbind, array: np.ndarray, neutral: float, result: int) -> Moved:
    return embed_one(op.require(0).shape, np.expand_dims(array, op.axis), op.axis, result, neutral)


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
    return embed_one(op.x.shape, np.expand_dims(array, op.axis), op.axis, index, neutral)


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


def concat_piece(op: Concat, array: np.ndarray, neutral: float, index: int) -> Moved:
    """The part of an array on a concatenation's result that falls on its operand `index`."""
    if array.shape[op.axis] == 1:
        return array
    offset, width = _offset(op, index)
    return None if width == 0 else array.take(range(offset, offset + width), axis=op.axis)


def concat_spread(op: Concat, array: np.ndarray, neutral: float, index: int) -> Moved:
    """An array on operand `index` as one on the result, neutral over the other operands."""
    offset, width = _offset(op, index)
    shape = op.output.shape
    if width == 0 or shape is None:
        return None
    window = [slice(None)] * len(shape)
    window[op.axis] = slice(offset, offset + width)
    return embed(array, shape, (op.axis,), tuple(window), neutral)


def _offset(op: Concat, index: int) -> tuple[int, int]:
    """Where operand `index` starts and how long it is; length 0 when that is symbolic."""
    extents = []
    for value in op.inputs[: index + 1]:
        shape = None if value is None else value.shape
        if shape is None or not isinstance(shape[op.axis], int):
            return 0, 0
        extents.append(number(shape[op.axis]))
    return sum(extents[:-1]), extents[-1]
