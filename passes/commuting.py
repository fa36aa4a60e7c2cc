"""Which ops a linear map of the feature axis commutes with: what residual streams are made of.

`joined_operands` answers for an op and one of its results, through which operands the map passes;
`moved_axis` answers where an axis of the result was on the first operand of an op that moves.
"""

from collections.abc import Sequence

from ..graph import Op, Value
from ..graph.ops import (
    Affine,
    Cast,
    Concat,
    Elementwise,
    Expand,
    Gather,
    Identity,
    Put,
    Reduce,
    Reshape,
    Slice,
    Split,
    Squeeze,
    Take,
    Transpose,
    Unbind,
    Unsqueeze,
)
from .axes import carried

MOVES = (
    Cast,
    Identity,
    Transpose,
    Slice,
    Split,
    Unbind,
    Gather,
    Take,
    Reduce,
    Expand,
    Reshape,
    Squeeze,
    Unsqueeze,
)
"""Ops that leave some axes of their first operand as they are."""

Operands = list[tuple[int, int]]
"""Positions among an op's inputs, with the feature axis of each operand; −1 where it is flat."""


def joined_operands(op: Op, result: Value, axis: int, width: int) -> Operands | None:
    """The operands, with their feature axes, through which `op` lets a linear map pass.

    f(result) along `axis` equals op(f(operands)) for every linear f on the features. None when the
    op does not commute with such maps. An operand that the map does not touch (a flat factor, a
    mask) is not listed.
    """
    match op:
        case Cast() if not op.require(0).is_float:
            return None  # what is stored in integers can hold no map
        case Elementwise(fn="add" | "sub"):
            return _terms(op, (0, 1), result, axis, width)
        case Elementwise(fn="mul" | "div"):
            return _factor(op, result, axis, width)
        case Elementwise(fn="neg"):
            return [(0, axis)]
        case Elementwise(fn="where"):
            condition = op.require(0)
            flat = is_flat(condition, _aligned(condition, result, axis))
            return _terms(op, (1, 2), result, axis, width) if flat else None
        case Affine():
            return _affine(op, result, axis, width)
        case Concat() if op.axis != axis:
            return [(index, axis) for index in range(len(op.inputs))]
        case Put() if axis not in (op.axis, op.batch):
            return [(0, axis), (2, axis)]
        case Gather() if op.x.constant is not None and op.axis == 0:
            return None  # an embedding table: a writer
    moved = moved_axis(op, axis)
    return None if moved is None else [(0, moved)]


def _terms(op: Op, indices: Sequence[int], result: Value, axis: int, width: int) -> Operands | None:
    """Operands that are added up, or chosen between; constants may be flat along the features."""
    found: Operands = []
    for index in indices:
        value = op.require(index)
        shifted = _aligned(value, result, axis)
        whole = shifted >= 0 and value.shape is not None and value.shape[shifted] == width
        if whole and width > 1:
            found.append((index, shifted))
        elif value.constant is not None:
            found.append((index, -1))
        else:
            return None
    return found


def _affine(op: Affine, result: Value, axis: int, width: int) -> Operands | None:
    """s·x + c for a factor s that is constant along the features."""
    scale = op.scale
    if scale is not None and not is_flat(scale, _aligned(scale, result, axis)):
        return None
    return _terms(op, (0,) if op.shift is None else (0, 2), result, axis, width)


def _factor(op: Elementwise, result: Value, axis: int, width: int) -> Operands | None:
    """A product commutes when one factor is constant along the features."""
    for index in (0,) if op.fn == "div" else (0, 1):
        value, other = op.require(index), op.require(1 - index)
        shifted = _aligned(value, result, axis)
        if shifted < 0 or value.shape is None or value.shape[shifted] != width:
            continue
        if is_flat(other, _aligned(other, result, axis)):
            return [(index, shifted)]
    return None


def _aligned(value: Value, result: Value, axis: int) -> int:
    """The operand's axis that broadcasts to the result's `axis`; negative if it has none."""
    return axis - ((result.rank or 0) - (value.rank or 0))


def is_flat(value: Value, axis: int) -> bool:
    """Whether a value is constant along the features; a negative axis says that it has none."""
    return axis < 0 or (value.shape is not None and value.shape[axis] == 1)


def moved_axis(op: Op, axis: int) -> int | None:
    """Where a result's axis was on the first operand, if the op leaves that axis whole."""
    if not isinstance(op, MOVES) or (isinstance(op, Reduce) and op.fn not in ("mean", "sum")):
        return None
    pairs = carried(op, 0, axis) or []
    return next((own for index, own in pairs if index == 0), None)
