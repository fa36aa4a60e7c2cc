"""Write an op anew for a part of its result, from the parts of its operands that it reads."""

from collections.abc import Sequence
from dataclasses import fields
from functools import singledispatch

import numpy as np

from ...graph import Graph, Op, Shape, Value
from ...graph.ops import (
    Attention,
    Concat,
    Elementwise,
    Expand,
    Gather,
    Identity,
    Linear,
    Ref,
    Reshape,
    ShapeOf,
    Slice,
    Split,
    Squeeze,
    Unbind,
)
from ...graph.shapes import broadcast
from ..axes import carried
from .demand import Want
from .demand_moves import gathered
from .selection import Box, Chosen, Positions, shape_of

ARITY: dict[str, int] = {"Linear": 3, "LayerNorm": 3, "RMSNorm": 3, "CRMSNorm": 3, "Affine": 3}
"""Operands of the ops that have more than one and that do not read all that they list."""


class Place:
    """Where new ops go: before a given op, or one after another behind what they need.

    Attributes:
        before: the op that they precede; None to go after `cursor`.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.before: Op | None = None
        self.cursor: Op | None = None

    def add(self, op: Op, shape: Shape, dtype: np.dtype | None, name: str) -> Value:
        """Insert an op with one result."""
        if self.before is not None:
            self.graph.add(op, (shape, dtype), before=self.before, name=name)
        else:
            self.graph.add(op, (shape, dtype), after=self.cursor, name=name)
            self.cursor = op
        return op.output


@singledispatch
def clone(
    op: Op, result: int, box: Box, parts: "list[Value | None]", reads: list[Want], place: Place
) -> Value:
    """The part `box` of a result, computed from `parts` (None where nothing is read).

    The result of a pointwise op may have extent 1 along the batch, where all operands do.
    """
    return _same_op(op, box, parts, place)


def _same_op(
    op: Op, box: Box, parts: "Sequence[Value | None]", place: Place, **changes: object
) -> Value:
    base = {f.name for f in fields(Op)}
    kept = {f.name: getattr(op, f.name) for f in fields(op) if f.name not in base}
    count = ARITY.get(op.kind, len(parts))
    new = type(op)(inputs=list(parts[:count]), scope=op.scope, **{**kept, **changes})
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
    return _same_op(op, box, parts, place)


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
        return _same_op(op, box, _trimmed(operands), place, causal=causal)
    if isinstance(keys, Chosen):
        return _same_op(op, box, _trimmed(operands), place, causal=False)
    seen = list(keys.index) if isinstance(keys, Positions) else list(range(columns))
    square = list(queries.index) == seen == list(range(len(seen)))
    allowed = np.array(seen)[None, :] <= np.array(list(queries.index))[:, None]
    if not square and not allowed.all():
        operands[3] = _with_mask(op, operands[3], allowed, place)
    return _same_op(op, box, _trimmed(operands), place, causal=square)


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


@clone.register(Slice)
@clone.register(Split)
@clone.register(Identity)
def _(
    op: Op, result: int, box: Box, parts: "list[Value | None]", reads: list[Want], place: Place
) -> Value:
    """The part read is the result."""
    assert parts[0] is not None
    return parts[0]


@clone.register
def _(
    op: Unbind, result: int, box: Box, parts: "list[Value | None]", reads: list[Want], place: Place
) -> Value:
    squeeze = Squeeze(inputs=[parts[0]], axes=(op.axis,), scope=op.scope)
    value = op.outputs[result]
    return place.add(squeeze, shape_of(value.shape or (), box), value.dtype, value.name)


@clone.register
def _(
    op: Gather, result: int, box: Box, parts: "list[Value | None]", reads: list[Want], place: Place
) -> Value:
    named, kept = gathered(op), reads[0].box.get(op.axis)
    if named is None:
        return _same_op(op, box, parts, place)
    part = box.get(op.axis) if op.indices.rank == 1 else None
    if isinstance(part, Positions):
        named = [named[p] for p in part.index]
    places = kept.places(Positions(tuple(named))) if isinstance(kept, Positions) else named
    rank = op.indices.rank or 0
    if rank == 1 and isinstance(kept, Positions) and places == list(range(len(kept))):
        assert parts[0] is not None
        return parts[0]
    extents = (len(places),) if rank == 1 else op.indices.array().shape
    indices = place.graph.constant(np.array(places, np.int64).reshape(extents), "indices")
    return _same_op(op, box, [parts[0], indices], place)


@clone.register
def _(
    op: Concat, result: int, box: Box, parts: "list[Value | None]", reads: list[Want], place: Place
) -> Value:
    left = [part for part, want in zip(parts, reads, strict=True) if want.read]
    if len(left) == 1:
        assert left[0] is not None
        return left[0]
    return _same_op(op, box, left, place)


@clone.register(Reshape)
@clone.register(Expand)
def _(
    op: Reshape | Expand,
    result: int,
    box: Box,
    parts: "list[Value | None]",
    reads: list[Want],
    place: Place,
) -> Value:
    """The target is spelled out: numbers, −1 once, and extents of the operand."""
    x = parts[0]
    assert x is not None
    shape = shape_of(op.output.shape or (), box)
    inputs: list[Value | None] = [x]
    dims: list[int | Ref] = []
    inferred = isinstance(op, Reshape) and sum(isinstance(dim, str) for dim in shape) == 1
    for axis, dim in enumerate(shape):
        own = carried(op, 0, axis)
        if isinstance(dim, int):
            dims.append(dim)
        elif inferred or (isinstance(op, Expand) and own):
            dims.append(-1)
        elif own:
            inputs.append(_extent(op, x, own[0][1], place))
            dims.append(Ref(len(inputs) - 1))
        else:
            assert op.dims is not None
            known = op.dims[axis]
            if isinstance(known, Ref):
                inputs.append(op.require(known.index))
                known = Ref(len(inputs) - 1)
            dims.append(known)
    return _same_op(op, box, inputs, place, dims=tuple(dims))


def _extent(op: Op, x: Value, axis: int, place: Place) -> Value:
    asked = ShapeOf(inputs=[x], axes=(axis,), scalar=True, scope=op.scope)
    return place.add(asked, (), np.dtype(np.int64), f"{op.name}_extent")

