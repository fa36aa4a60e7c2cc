"""How one neighbour absorbs an affine map: each function returns the edits, or why it cannot."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..graph import Graph, Op, Value
from ..graph.ops import Affine, Conv, Gather, Linear, Norm
from .affine import Diagonal
from .base import Refusal
from .weights import edit_constant, operand_width, result_width, scale_columns, scale_rows

CONDITION = 1e3
"""A scale may leave [1/CONDITION, CONDITION] only where it need not be inverted."""
MAX_GROWTH = 1 << 16
"""Elements that a constant may have after it was widened to hold a map."""


@dataclass(frozen=True)
class Edit:
    """One step of a plan: `apply` edits `op`."""

    op: Op
    apply: Callable[[Graph], None]


Plan = list[Edit] | Refusal
OVERFLOW = "the folded weight would overflow float16"


def constant_edit(value: Value, diagonal: Diagonal) -> Plan:
    """Fold a map into a constant that one op reads once."""
    ((op, index),) = value.uses
    assert value.constant is not None
    if not value.is_float:
        return Refusal("the constant is not floating-point", value.name)
    stored = value.constant.shape
    wide = np.broadcast_shapes(diagonal.scale.shape, diagonal.shift.shape, stored)
    if math.prod(wide) > max(MAX_GROWTH, math.prod(stored)):
        return Refusal("a constant would grow", value.name)
    if overflows(value, diagonal.scale):
        return Refusal(OVERFLOW, value.name)

    def apply(graph: Graph) -> None:
        current = op.require(index)
        array = diagonal.scale * current.array().astype(np.float64) + diagonal.shift
        graph.set_input(op, index, graph.constant(array.astype(current.dtype), current.name))

    return [Edit(op, apply)]


def columns_edit(op: Linear | Conv, diagonal: Diagonal) -> Plan:
    """Fold a map of the operand into the weight's columns and the bias."""
    axis = diagonal.rank - 1 if isinstance(op, Linear) else 1
    refusal = weight_refusal(op) or _axis_refusal(op, diagonal, axis)
    if refusal is not None:
        return refusal
    if isinstance(op, Conv) and diagonal.shifts and (op.transposed or _pads(op)):
        return Refusal("a shift does not pass the zero padding of a convolution", op.name)
    if overflows(op.weight, diagonal.scale):
        return Refusal(OVERFLOW, op.name)
    scale, shift = diagonal.vectors(axis, operand_width(op))
    return [Edit(op, lambda graph: scale_columns(graph, op, scale, shift))]


def rows_edit(op: Linear | Conv, diagonal: Diagonal) -> Plan:
    """Fold a map of the result into the weight's rows and the bias."""
    axis = diagonal.rank - 1 if isinstance(op, Linear) else 1
    refusal = weight_refusal(op) or _axis_refusal(op, diagonal, axis)
    if refusal is not None:
        return refusal
    if overflows(op.weight, diagonal.scale):
        return Refusal(OVERFLOW, op.name)
    scale, shift = diagonal.vectors(axis, result_width(op))
    return [Edit(op, lambda graph: scale_rows(graph, op, scale, shift))]


def gain_edit(op: Norm, diagonal: Diagonal) -> Plan:
    """Fold a map of the result into the norm's own gain and shift."""
    head = diagonal.rank - op.ndim
    if op.x.shape is None or any(axis < head for axis in diagonal.axes):
        return Refusal("the map does not vary along the normalised axes", op.name)
    if op.norm != "layer" and diagonal.shifts:
        return Refusal("an RMS norm has no shift", op.name)
    width = tuple(dim for dim in op.x.shape[head:] if isinstance(dim, int))
    computed = any(p is not None and p.constant is None for p in (op.scale, op.shift))
    if computed or len(width) != op.ndim:
        return Refusal("the norm's gain is not a constant", op.name)

    def apply(graph: Graph) -> None:
        scale = np.broadcast_to(diagonal.scale.reshape(diagonal.scale.shape[head:]), width)
        shift = np.broadcast_to(diagonal.shift.reshape(diagonal.shift.shape[head:]), width)
        gain = scale if op.scale is None else scale * op.scale.array()
        offset = shift if op.shift is None else scale * op.shift.array() + shift
        graph.set_input(op, 1, graph.constant(gain.astype(op.x.dtype), f"{op.name}_scale"))
        if op.shift is not None or np.any(offset):
            graph.set_input(op, 2, graph.constant(offset.astype(op.x.dtype), f"{op.name}_shift"))
        graph.update(op)

    return [Edit(op, apply)]


def table_edit(op: Gather, diagonal: Diagonal) -> Plan:
    """Fold a map of looked-up rows into the table."""
    if len(op.x.uses) > 1:
        return Refusal("the table has another reader", op.x.name)
    rank = op.x.rank or 0
    trailing = diagonal.drop_leading(rank - 1)
    if trailing is None:
        return Refusal("the map does not vary along the table's columns", op.name)
    if overflows(op.x, trailing.scale):
        return Refusal(OVERFLOW, op.name)

    def apply(graph: Graph) -> None:
        edit_constant(graph, op, 0, lambda rows: trailing.scale * rows + trailing.shift)

    return [Edit(op, apply)]


def write_affine(
    graph: Graph,
    op: Op,
    x: Value,
    diagonal: Diagonal,
    readers: "list[tuple[Op, int]] | None" = None,
) -> None:
    """Compute diagonal(x) right after `op`, for the readers of its result (or only for some)."""
    dtype, result = op.output.dtype, op.output
    scale = graph.constant(diagonal.scale.astype(dtype), f"{op.name}_scale")
    shift = graph.constant(diagonal.shift.astype(dtype), f"{op.name}_shift")
    parts = [x, scale if diagonal.scales else None, shift if diagonal.shifts else None]
    merged = Affine(inputs=list(parts), scope=op.scope)
    # Never the name of `op`: reports tell what was rewritten from what is left of it by name.
    name = op.name if isinstance(op, Affine) else f"{op.name}_affine"
    graph.add(merged, (result.shape, dtype), after=op, name=name)
    if readers is None:
        graph.replace(result, merged.output)
        graph.prune(op)
    else:
        graph.redirect(result, merged.output, readers)


def weight_refusal(op: Linear | Conv) -> Refusal | None:
    """Why the weight of `op` cannot be edited, if it cannot."""
    if op.weight.constant is None or (op.bias is not None and op.bias.constant is None):
        return Refusal("the weight is computed at run time", op.name)
    if len(op.weight.uses) > 1:
        return Refusal("the weight has another reader", op.name, op.weight.name)
    return None


def ill_conditioned(scale: np.ndarray) -> bool:
    """Whether a scale is too far from 1 to be inverted without losing digits."""
    size = np.abs(scale)
    return bool(np.any(size < 1 / CONDITION) or np.any(size > CONDITION))


def overflows(weight: Value, scale: np.ndarray) -> bool:
    """Whether a scaled half-precision weight would hold an infinity (bfloat16 never does)."""
    if weight.dtype != np.float16:
        return False
    peak = float(np.abs(weight.array()).max(initial=0))
    return peak * float(np.abs(scale).max(initial=0)) > float(np.finfo(np.float16).max)


def _axis_refusal(op: Linear | Conv, diagonal: Diagonal, axis: int) -> Refusal | None:
    if any(k != axis for k in diagonal.axes):
        return Refusal("the map does not vary along the channel axis", op.name, op.kind)
    return None


def _pads(op: Conv) -> bool:
    return op.padding is None or any(any(pair) for pair in op.padding)
