"""Change the extent of one axis of values, and of the ops that spell the extent out."""

import numpy as np

from ..graph import Graph, Value
from ..graph.ops import Concat, Expand, Reshape, Slice
from .base import Refusal


def resize_refusal(value: Value, axis: int) -> Refusal | None:
    """Why `value` cannot get another extent along `axis`."""
    op = value.producer
    if isinstance(op, Expand) and op.dims is None and _length(op) is None:
        return Refusal("a shape is computed in a way that cannot be edited", op.name)
    return None


def _length(op: Reshape | Expand) -> int | None:
    """Number of entries of a computed target shape."""
    if isinstance(op, Reshape):
        return op.output.rank
    shape = op.require(1).shape
    return shape[0] if shape and isinstance(shape[0], int) else None


def resize_axis(graph: Graph, value: Value, axis: int, extent: int) -> None:
    """Record a new extent of `value`, and let its producer make it.

    Ops that take their result's shape from their operands follow by themselves.
    """
    shape = value.shape or ()
    value.shape = tuple(extent if k == axis else dim for k, dim in enumerate(shape))
    op = value.producer
    if not isinstance(op, Reshape | Expand):
        return
    if op.dims is None:
        _resize_computed(graph, op, axis, extent)
    else:
        graph.update(op, dims=tuple(extent if k == axis else d for k, d in enumerate(op.dims)))


def _resize_computed(graph: Graph, op: Reshape | Expand, axis: int, extent: int) -> None:
    """Replace one entry of a computed target shape, which for an Expand may lack leading axes."""
    length = _length(op) or 0
    position = axis - (op.output.rank or 0) + length
    if position < 0:
        return
    target = op.require(1)
    entry = graph.constant(np.array([extent], dtype=np.int64), "extent")
    pieces: list[Value] = []
    for start, end in ((0, position), (position + 1, length)):
        if start < end:
            cut = Slice(inputs=[target], axes=(0,), starts=(start,), ends=(end,), steps=(1,))
            pieces.append(graph.add(cut, ((end - start,), target.dtype), before=op).output)
        if start == 0:
            pieces.append(entry)
    joined = Concat(inputs=list(pieces), axis=0)
    graph.set_input(op, 1, graph.add(joined, ((length,), target.dtype), before=op).output)
