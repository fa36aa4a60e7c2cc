"""`clone` for ops that move, select, join or regroup positions."""

import numpy as np

from ...graph import Op, Value
from ...graph.ops import (
    Concat,
    Expand,
    Gather,
    Identity,
    Ref,
    Reshape,
    ShapeOf,
    Slice,
    Split,
    Squeeze,
    Unbind,
)
from ..axes import carried
from .clone import clone, same_op
from .demand import Want
from .demand_moves import gathered
from .place import Place
from .selection import Box, Positions, shape_of


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
        return same_op(op, box, parts, place)
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
    return same_op(op, box, [parts[0], indices], place)


@clone.register
def _(
    op: Concat, result: int, box: Box, parts: "list[Value | None]", reads: list[Want], place: Place
) -> Value:
    left = [part for part, want in zip(parts, reads, strict=True) if want.read]
    if len(left) == 1:
        assert left[0] is not None
        return left[0]
    return same_op(op, box, left, place)


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
    return same_op(op, box, inputs, place, dims=tuple(dims))


def _extent(op: Op, x: Value, axis: int, place: Place) -> Value:
    asked = ShapeOf(inputs=[x], axes=(axis,), scalar=True, scope=op.scope)
    return place.add(asked, (), np.dtype(np.int64), f"{op.name}_extent")
