"""Rules for ops that only move elements: drop what does nothing, merge what follows itself."""

from ...graph import Graph, Op, Shape, Value
from ...graph.ops import (
    Cast,
    Concat,
    Elementwise,
    Expand,
    Identity,
    Reshape,
    Slice,
    Squeeze,
    Transpose,
    Unsqueeze,
)
from .rule import Match, Rule, holds_only, substitute

RESHAPES = (Reshape, Squeeze, Unsqueeze)
UNBOUNDED = 1 << 31
"""An end of a Slice that no extent reaches."""


def _static(shape: Shape | None) -> bool:
    return shape is not None and all(isinstance(dim, int) for dim in shape)


def _drop(op: Op, value: Value) -> Match:
    return lambda graph: substitute(graph, op, value)


def _identity(graph: Graph, op: Op) -> Match | None:
    x = op.require(0)
    if graph.is_output(op.output) and (x.producer is None or graph.is_output(x)):
        return None  # an output keeps an op of its own: it may not alias an input or another one
    if op.output in graph.pinned:
        return None
    same = x.shape == op.output.shape and x.shape is not None
    match op:
        case Identity():
            return _drop(op, x)
        case Cast() if op.dtype == x.dtype:
            return _drop(op, x)
        case Transpose() if op.perm == tuple(range(len(op.perm))):
            return _drop(op, x)
        case Concat() if len(op.inputs) == 1:
            return _drop(op, x)
        case Reshape() | Squeeze() | Unsqueeze() | Expand() if same:
            return _drop(op, x)
        case Slice() if same and (_static(x.shape) or _takes_all(op)):
            return _drop(op, x) if all(s == 1 for s in op.steps or (0,)) else None
        case Elementwise():
            return _neutral(op)
    return None


def _takes_all(op: Slice) -> bool:
    """Whether the bounds are those of x[:], whatever the extents."""
    if op.starts is None or op.ends is None:
        return False
    return not any(op.starts) and all(end >= UNBOUNDED for end in op.ends)


def _neutral(op: Elementwise) -> Match | None:
    """x·1, x/1, x + 0, x − 0."""
    if op.fn not in ("mul", "div", "add", "sub") or len(op.inputs) != 2:
        return None
    x, other = op.require(0), op.require(1)
    if op.fn in ("mul", "add") and x.constant is not None:
        x, other = other, x
    neutral = 1.0 if op.fn in ("mul", "div") else 0.0
    if x.constant is not None or not x.is_float or x.shape != op.output.shape:
        return None
    if x.dtype != op.output.dtype or not holds_only(other, neutral):
        return None
    return _drop(op, x)


def _merge_transposes(graph: Graph, op: Op) -> Match | None:
    inner = op.require(0).producer
    if not (isinstance(op, Transpose) and isinstance(inner, Transpose)):
        return None
    perm = tuple(inner.perm[axis] for axis in op.perm)

    def apply(graph: Graph) -> None:
        if perm == tuple(range(len(perm))) and not _ends_on_input(graph, op, inner.require(0)):
            substitute(graph, op, inner.require(0))
            return
        graph.set_input(op, 0, inner.require(0))
        graph.update(op, perm=perm)
        graph.prune(inner)

    return apply


def _ends_on_input(graph: Graph, op: Op, value: Value) -> bool:
    return graph.is_output(op.output) and (value.producer is None or graph.is_output(value))


def _merge_reshapes(graph: Graph, op: Op) -> Match | None:
    """reshape(reshape(x)): the outer one alone, or nothing when x has its shape already."""
    inner = op.require(0).producer
    if not isinstance(inner, RESHAPES):
        return None
    x, shape = inner.require(0), op.output.shape
    if x.shape == shape and shape is not None and not _ends_on_input(graph, op, x):
        return _drop(op, x)
    if not isinstance(op, Reshape) or op.dims is None or not _explicit(op):
        return None

    def apply(graph: Graph) -> None:
        graph.set_input(op, 0, x)
        graph.prune(inner)

    return apply


def _explicit(op: Reshape) -> bool:
    return op.dims is not None and all(dim != 0 for dim in op.dims)


def _transpose_is_reshape(graph: Graph, op: Op) -> Match | None:
    """A transpose that moves only axes of extent 1 is a reshape."""
    shape = op.require(0).shape
    if not isinstance(op, Transpose) or not _static(shape):
        return None
    assert shape is not None
    kept = [axis for axis in op.perm if shape[axis] != 1]
    if kept != sorted(kept) or op.perm == tuple(range(len(op.perm))):
        return None
    target = tuple(int(shape[axis]) for axis in op.perm)

    def apply(graph: Graph) -> None:
        reshape = Reshape(inputs=[op.require(0)], dims=target, scope=op.scope)
        graph.add(reshape, (op.output.shape, op.output.dtype), before=op, name=op.name)
        substitute(graph, op, reshape.output)

    return apply


RULES = (
    Rule(
        "drop-identity",
        (Identity, Cast, Transpose, Concat, *RESHAPES, Expand, Slice, Elementwise),
        _identity,
    ),
    Rule("merge-transposes", (Transpose,), _merge_transposes),
    Rule("merge-reshapes", RESHAPES, _merge_reshapes),
    Rule("transpose-to-reshape", (Transpose,), _transpose_is_reshape),
)
