"""Follow an axis through an op: which axes of which operands hold the same positions.

`carried` is the one table behind axis tracking: restricting a result along an axis to some
positions is the same op on operands restricted along the axes that it gives. axis_roles.py joins
the axes that are carried into each other over a whole graph.

"""

from functools import singledispatch

from ..graph import Op, Value
from ..graph.ops import (
    Affine,
    Attention,
    BatchNorm,
    Cast,
    Concat,
    Conv,
    Dequantize,
    Elementwise,
    Expand,
    Gather,
    Identity,
    Linear,
    MatMul,
    Norm,
    Put,
    Quantize,
    Reduce,
    Reshape,
    Slice,
    Softmax,
    Split,
    Squeeze,
    Take,
    Transpose,
    Unbind,
    Unsqueeze,
)
from ..graph.shapes import reshape_groups

Carried = list[tuple[int, int]] | None
"""(operand, axis) pairs; operands not listed are the same for all positions. None: the op computes
along the axis, so that one position of the result needs others of an operand."""


@singledispatch
def carried(op: Op, result: int, axis: int) -> Carried:
    """Where `axis` of result number `result` comes from; see the module docstring."""
    return None


@carried.register(Cast)
@carried.register(Identity)
def _(op: Op, result: int, axis: int) -> Carried:
    return [(0, axis)]


@carried.register(Elementwise)
@carried.register(Affine)
def _(op: Elementwise | Affine, result: int, axis: int) -> Carried:
    return aligned(op, range(len(op.inputs)), axis, op.output)


def aligned(op: Op, operands: "range | tuple[int, ...]", axis: int, result: Value) -> Carried:
    """The operands that have the result's axis under broadcasting; None if one may or may not."""
    if result.shape is None:
        return None
    found = []
    for index in operands:
        value = op.operand(index)
        if value is None:
            continue
        if value.shape is None:
            return None
        own = axis - (len(result.shape) - len(value.shape))
        if own < 0 or value.shape[own] == 1:
            continue
        if value.shape[own] != result.shape[axis]:
            return None
        found.append((index, own))
    return found


@carried.register(Quantize)
@carried.register(Dequantize)
def _(op: Quantize | Dequantize, result: int, axis: int) -> Carried:
    grid = [index for index in (1, 2) if op.operand(index) is not None]
    if op.block:  # the grid has every axis of x; one position of it serves a block
        return [(0, axis), *((index, axis) for index in grid)] if axis != op.axis else None
    varying = [(index, 0) for index in grid if op.require(index).rank == 1]
    return [(0, axis), *(varying if axis == op.axis else [])]


@carried.register
def _(op: Linear, result: int, axis: int) -> Carried:
    return [(0, axis)] if axis < (op.output.rank or 0) - 1 else None


@carried.register
def _(op: Norm, result: int, axis: int) -> Carried:
    return [(0, axis)] if axis < (op.output.rank or 0) - op.ndim else None


@carried.register
def _(op: BatchNorm, result: int, axis: int) -> Carried:
    return [(0, axis)] if axis != 1 else None


@carried.register
def _(op: Conv, result: int, axis: int) -> Carried:
    return [(0, 0)] if axis == 0 else None


@carried.register
def _(op: Softmax, result: int, axis: int) -> Carried:
    return [(0, axis)] if axis != op.axis else None


@carried.register
def _(op: MatMul, result: int, axis: int) -> Carried:
    a, b, rank = op.require(0), op.require(1), op.output.rank
    if rank is None or a.rank is None or b.rank is None or a.rank < 2 or b.rank < 2:
        return None
    if axis == rank - 2:
        return [(0, a.rank - 2)]
    if axis == rank - 1:
        return [(1, b.rank - 1)]
    return aligned(op, (0, 1), axis, op.output)


@carried.register
def _(op: Attention, result: int, axis: int) -> Carried:
    q, k = op.require(0), op.require(1)
    shapes = (q.shape, k.shape)
    if axis == 3:
        return [(2, 3)]
    if None in shapes or (axis == 1 and q.shape[1] != k.shape[1]):  # type: ignore[index]
        return None
    mask = _mask_axis(op, axis)
    if mask is None:
        return None
    return [(0, axis), *([(1, axis), (2, axis)] if axis < 2 else []), *mask]


def _mask_axis(op: Attention, axis: int) -> Carried:
    """The mask's axis that runs along the batch, the heads or the queries."""
    mask, q = op.operand(3), op.require(0)
    if mask is None:
        return []
    if mask.shape is None or q.shape is None:
        return None
    own = axis - (4 - len(mask.shape))
    if own < 0 or mask.shape[own] == 1:
        return []
    return [(3, own)] if mask.shape[own] == q.shape[axis] else None


@carried.register
def _(op: Reduce, result: int, axis: int) -> Carried:
    if op.keepdims:
        return None if axis in op.axes else [(0, axis)]
    kept = [k for k in range(op.require(0).rank or 0) if k not in op.axes]
    return [(0, kept[axis])]


@carried.register
def _(op: Transpose, result: int, axis: int) -> Carried:
    return [(0, op.perm[axis])]


@carried.register
def _(op: Slice, result: int, axis: int) -> Carried:
    return [(0, axis)] if axis not in op.axes else None


@carried.register
def _(op: Split, result: int, axis: int) -> Carried:
    return [(0, axis)] if axis != op.axis else None


@carried.register
def _(op: Unbind, result: int, axis: int) -> Carried:
    return [(0, axis + (axis >= op.axis))]


@carried.register
def _(op: Concat, result: int, axis: int) -> Carried:
    return [(k, axis) for k in range(len(op.inputs))] if axis != op.axis else None


@carried.register
def _(op: Gather, result: int, axis: int) -> Carried:
    inserted = op.indices.rank
    if inserted is None:
        return None
    if op.axis <= axis < op.axis + inserted:
        return [(1, axis - op.axis)]
    return [(0, axis if axis < op.axis else axis - inserted + 1)]


@carried.register
def _(op: Take, result: int, axis: int) -> Carried:
    if axis == op.batch:
        return [(0, axis), (1, 0)]
    return [(1, 1)] if axis == op.axis else [(0, axis)]


@carried.register
def _(op: Put, result: int, axis: int) -> Carried:
    if axis == op.axis:
        return None
    return [(0, axis), (2, axis), *([(1, 0)] if axis == op.batch else [])]


@carried.register
def _(op: Expand, result: int, axis: int) -> Carried:
    return aligned(op, (0,), axis, op.output)


@carried.register(Reshape)
@carried.register(Squeeze)
@carried.register(Unsqueeze)
def _(op: Op, result: int, axis: int) -> Carried:
    before, after = op.require(0).shape, op.output.shape
    if before is None or after is None:
        return None
    for group in reshape_groups(before, after):
        if axis in group.after:
            one = len(group.before) == len(group.after) == 1
            return [(0, group.before[0])] if one else [] if not group.before else None
    return None
