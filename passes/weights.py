"""Edits of constant weights, in float64 and rounded once: scale rows, scale columns, add to a bias.

"Rows" belong to a Linear's or Conv's result channels, "columns" to its operand's. Every edit makes
a new constant for this op alone, so a weight that another op shares is split, never changed. Work
goes by blocks along the first axis, so the float64 copy stays small beside the tensor.
"""

from collections.abc import Callable

import numpy as np

from ..graph import Graph, Op, Value
from ..graph.ops import Conv, Linear

BLOCK_BYTES = 1 << 22
"""Size of the float64 block that an edit works on."""


def edit_constant(
    graph: Graph,
    op: Op,
    index: int,
    function: Callable[[np.ndarray], np.ndarray],
) -> None:
    """Replace operand `index` of `op` by a pointwise `function` of it along the first axis.

    `function` takes and returns float64 blocks [rows, ...]; it must treat rows independently and
    may change trailing extents.
    """
    value = op.require(index)
    _replace(graph, op, index, value, blockwise(value.array(), function))


def blockwise(array: np.ndarray, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """function(array) in the array's dtype, computed in float64 a block of rows at a time."""
    if array.ndim == 0 or array.size * 8 <= BLOCK_BYTES:
        return function(array.astype(np.float64)).astype(array.dtype)
    rows = max(1, BLOCK_BYTES * array.shape[0] // (array.size * 8))
    first = function(array[:rows].astype(np.float64))
    result = np.empty((array.shape[0], *first.shape[1:]), dtype=array.dtype)
    result[:rows] = first
    for start in range(rows, array.shape[0], rows):
        result[start : start + rows] = function(array[start : start + rows].astype(np.float64))
    return result


def _replace(graph: Graph, op: Op, index: int, old: Value, array: np.ndarray) -> None:
    graph.set_input(op, index, graph.constant(array, old.name))
    if old.constant is not None:
        old.constant.release()


def scale_rows(graph: Graph, op: Linear | Conv, scale: np.ndarray, shift: np.ndarray) -> None:
    """Let `op` compute scale⊙y + shift per result channel. Vectors [O], float64."""
    if np.any(scale != 1):
        _scale_axis(graph, op, row_axis(op), _grouped_rows(op, scale))
    if op.bias is not None:
        set_bias(graph, op, scale * op.bias.array().astype(np.float64) + shift)
    elif np.any(shift):
        set_bias(graph, op, shift)


def scale_columns(graph: Graph, op: Linear | Conv, scale: np.ndarray, shift: np.ndarray) -> None:
    """Let `op` read scale⊙x + shift in place of x, per operand channel. Vectors [I], float64."""
    if np.any(shift):
        bias = columns_dot(op, shift)
        if op.bias is not None:
            bias = bias + op.bias.array().astype(np.float64)
        set_bias(graph, op, bias)
    if np.any(scale != 1):
        _scale_columns_only(graph, op, scale)


def set_bias(graph: Graph, op: Linear | Conv, bias: np.ndarray) -> None:
    """Give `op` this bias [O], in the type of the one it had, else in the weight's."""
    old = op.bias
    name, dtype = (f"{op.name}_bias", op.weight.dtype) if old is None else (old.name, old.dtype)
    graph.set_input(op, 2, graph.constant(bias.astype(dtype), name))
    if old is None:
        graph.update(op)


def columns_dot(op: Linear | Conv, shift: np.ndarray) -> np.ndarray:
    """What a constant operand `shift` [I] adds to every result: Σ W·shift, [O] in float64."""
    weight = op.weight.array()
    if isinstance(op, Linear):
        matrix = weight if op.layout == "oi" else weight.T
        return blocked_product(matrix, shift)
    taps = weight.astype(np.float64).sum(axis=tuple(range(2, weight.ndim)))  # [O, I/groups]
    parts = np.split(taps, op.groups), np.split(shift, op.groups)
    return np.concatenate([tap @ part for tap, part in zip(*parts, strict=True)])


def blocked_product(matrix: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Matrix @ vector in float64 without a float64 copy of the whole matrix."""
    rows = max(1, BLOCK_BYTES // (8 * max(1, matrix.shape[1])))
    blocks = range(0, matrix.shape[0], rows)
    return np.concatenate([matrix[i : i + rows].astype(np.float64) @ vector for i in blocks])


def row_axis(op: Linear | Conv) -> int:
    """The weight's axis of result channels."""
    if isinstance(op, Linear):
        return 0 if op.layout == "oi" else 1
    return 1 if op.transposed else 0


def result_width(op: Linear | Conv) -> int:
    """Number of result channels."""
    width = op.weight.shape[row_axis(op)] if op.weight.shape is not None else 0
    assert isinstance(width, int)
    return width * op.groups if isinstance(op, Conv) and op.transposed else width


def operand_width(op: Linear | Conv) -> int:
    """Number of operand channels."""
    width = op.weight.shape[1 - row_axis(op)] if op.weight.shape is not None else 0
    assert isinstance(width, int)
    return width * op.groups if isinstance(op, Conv) and not op.transposed else width


def _grouped_rows(op: Linear | Conv, scale: np.ndarray) -> np.ndarray:
    """Row factors as [O], or [C, O/groups] for a transposed conv, whose rows differ by group."""
    if not (isinstance(op, Conv) and op.transposed):
        return scale
    per_group = scale.reshape(op.groups, -1)
    return np.repeat(per_group, operand_width(op) // op.groups, axis=0)


def _scale_axis(graph: Graph, op: Linear | Conv, axis: int, factor: np.ndarray) -> None:
    """Multiply the weight by a vector along one axis, or by a matrix over its first two axes."""
    weight = op.weight.array()
    if factor.ndim == 2 or axis == 0:
        shape = factor.shape + (1,) * (weight.ndim - factor.ndim)
        result = _multiply(weight, factor.reshape(shape))
        _replace(graph, op, 1, op.weight, result)
    else:
        row = factor.reshape((1, -1) + (1,) * (weight.ndim - 2))
        edit_constant(graph, op, 1, lambda block: block * row)


def _multiply(weight: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Weight * factor by blocks, where the factor varies along the first axis."""
    result = np.empty_like(weight)
    rows = max(1, BLOCK_BYTES * weight.shape[0] // max(1, weight.size * 8))
    for start in range(0, weight.shape[0], rows):
        window = slice(start, start + rows)
        result[window] = weight[window].astype(np.float64) * factor[window]
    return result


def _scale_columns_only(graph: Graph, op: Linear | Conv, scale: np.ndarray) -> None:
    if isinstance(op, Conv) and not op.transposed:
        per_group = scale.reshape(op.groups, -1)  # [groups, I/groups]
        factor = np.repeat(per_group, result_width(op) // op.groups, axis=0)
        _scale_axis(graph, op, 0, factor)
    else:
        _scale_axis(graph, op, 1 - row_axis(op), scale)
