"""Write an op anew for a part of its result, from the parts of its operands that it reads."""

from collections.abc import Sequence
from functools import singledispatch

import numpy as np

from ...graph import Op, Value
from ...graph.ops import (
    Attention,
    Elementwise,
    Linear,
)
from ...graph.shapes import broadcast
from ...graph.value import own_fields
from .demand import Want
from .place import Place
from .selection import Box, Chosen, Positions, shape_of

ARITY: dict[str, int] = {"Linear": 3, "LayerNorm": 3, "RMSNorm": 3, "CRMSNorm": 3, "Affine": 3}
"""Operands of the ops that have more than one and that do not read all that they list."""


@singledispatch
def clone(
    op: Op, result: int, box: Box, parts: "list[Value | None]", reads: list[Want], place: Place
) -> Value:
    """The part `box` of a result, computed from `parts` (None where nothing is read).

    The result of a pointwise op may have extent 1 along the batch, where all operands do.
    """
    return same_op(op, box, parts, place)


def same_op(
    op: Op, box: Box, parts: "Sequence[Value | None]", place: Place, **changes: object
) -> Value:
    """The op with other operands, and perhaps attributes, for a part of its result."""
    count = ARITY.get(op.kind, len(parts))
    new = type(op)(inputs=list(parts[:count]), scope=op.scope, **{**own_fields(op), **changes})
    shape = shape_of(op.output.shape or (), box)
    return place.add(new, shape, op.output.dtype, op.name)


@clone.register
def _(
    op: Elementwise,
    result: int,
    box: Box,
    parts: "list[Value | None]",
    reads: list[Want],
    place: Place,
) -> Value:
    operands = [
        _scalar(op.require(k), reads[k].number, place) if part is None else part
        for k, part in enumerate(parts)
    ]
    shape = broadcast(*(value.shape or () for value in operands))
    left = _left(op, parts, reads)
    if left is not None and left.shape == shape and left.dtype == op.output.dtype:
        return left
    new = Elementwise(inputs=list(operands), fn=op.fn, scope=op.scope)
    return place.add(new, shape, op.output.dtype, op.name)


def _left(op: Elementwise, parts: "list[Value | None]", reads: list[Want]) -> Value | None:
    """The operand that the op comes to where the others are known numbers."""
    numbers = [want.number for want in reads]
    if op.fn == "where":
        return None if numbers[0] is None else parts[1 if numbers[0] else 2]
    neutral = {"add": 0.0, "sub": 0.0, "mul": 1.0, "div": 1.0, "and": 1.0, "or": 0.0}
    if op.fn not in neutral or len(numbers) != 2:
        return None
    if numbers[1] == neutral[op.fn]:
        return parts[0]
    return parts[1] if numbers[0] == neutral[op.fn] and op.fn not in ("sub", "div") else None


def _scalar(like: Value, number: float | None, place: Place) -> Value:
    assert number is not None, "what is not read is known"
    dtype = like.dtype or np.dtype(np.float32)
    return place.graph.constant(np.array(number).astype(dtype), f"{like.name}_kept")


@clone.register
def _(
    op: Linear, result: int, box: Box, parts: "list[Value | None]", reads: list[Want], place: Place
) -> Value:
    features = box.get((op.output.rank or 0) - 1)
    if isinstance(features, Positions):
        rows, graph = list(features.index), place.graph
        axis = 0 if op.layout == "oi" else 1
        weight = np.take(op.weight.array(), rows, axis)
        parts = [parts[0], graph.constant(weight, f"{op.weight.name}_rows")]
        if op.bias is not None:
            parts.append(graph.constant(op.bias.array()[rows], f"{op.bias.name}_rows"))
    return same_op(op, box, parts, place)


@clone.register
def _(
    op: Attention,
    result: int,
    box: Box,
    parts: "list[Value | None]",
    reads: list[Want],
    place: Place,
) -> Value:
    operands = [*parts[:3], parts[3] if len(parts) > 3 else None]
    queries, keys = box.get(2), reads[1].box.get(2)
    columns = op.require(1).shape[2]  # type: ignore[index]
    if not op.causal or not isinstance(queries, Positions) or not isinstance(columns, int):
        causal = op.causal and not isinstance(queries, Positions)
        return same_op(op, box, _trimmed(operands), place, causal=causal)
    if isinstance(keys, Chosen):
        return same_op(op, box, _trimmed(operands), place, causal=False)
    seen = list(keys.index) if isinstance(keys, Positions) else list(range(columns))
    square = list(queries.index) == seen == list(range(len(seen)))
    allowed = np.array(seen)[None, :] <= np.array(list(queries.index))[:, None]
    if not square and not allowed.all():
        operands[3] = _with_mask(op, operands[3], allowed, place)
    return same_op(op, box, _trimmed(operands), place, causal=square)


def _trimmed(operands: "list[Value | None]") -> "list[Value | None]":
    return operands if operands[3] is not None else operands[:3]


def _with_mask(op: Attention, mask: Value | None, allowed: np.ndarray, place: Place) -> Value:
    """The mask and the causal rows [S, T] that the queries left over see, as one."""
    rows = place.graph.constant(allowed, f"{op.name}_causal")
    if mask is None:
        return rows
    assert mask.shape is not None
    shape = (*mask.shape[:-2], *allowed.shape)
    if mask.dtype == np.bool_:
        both: Op = Elementwise(inputs=[mask, rows], fn="and", scope=op.scope)
    else:
        never = place.graph.constant(np.array(-np.inf, mask.dtype), f"{op.name}_never")
        both = Elementwise(inputs=[rows, mask, never], fn="where", scope=op.scope)
    return place.add(both, shape, mask.dtype, f"{op.name}_mask")
