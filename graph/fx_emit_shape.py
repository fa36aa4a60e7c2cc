"""Emission rules for ops that move, drop, repeat or join elements, or change their type."""

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from ..errors import InvalidGraph
from .fx_tensor import torch_dtype
from .ops import (
    Cast,
    Concat,
    Expand,
    Fill,
    Gather,
    Identity,
    Range,
    Ref,
    Reshape,
    ShapeOf,
    Slice,
    Sort,
    Split,
    Squeeze,
    TopK,
    Transpose,
    Unbind,
    Unsqueeze,
)
from .value import Op, Value

if TYPE_CHECKING:
    from .fx_emit import Emitter

aten = torch.ops.aten


def extents(op: Reshape | Expand | Fill, e: "Emitter") -> list[Any]:
    """The target shape as numbers and symbolic extents."""
    if op.dims is None:
        raise InvalidGraph(f"expected {op.name!r} to name its dims, got one computed tensor")
    return [extent(dim, e) for dim in op.dims]


def extent(dim: int | Ref, e: "Emitter") -> Any:
    """A number, or the symbolic extent that an operand holds."""
    if not isinstance(dim, Ref):
        return dim
    known = e.literal(dim.index)
    return e.arg(dim.index) if known is None else int(known)


def _reshape(op: Reshape, e: "Emitter") -> Any:
    return e.call(aten.reshape.default, e.arg(0), extents(op, e))


def _expand(op: Expand, e: "Emitter") -> Any:
    return e.call(aten.expand.default, e.arg(0), extents(op, e))


def _transpose(op: Transpose, e: "Emitter") -> Any:
    return e.call(aten.permute.default, e.arg(0), list(op.perm))


def _squeeze(op: Squeeze, e: "Emitter") -> Any:
    return e.call(aten.squeeze.dims, e.arg(0), list(op.axes))


def _unsqueeze(op: Unsqueeze, e: "Emitter") -> Any:
    x = e.arg(0)
    for axis in sorted(op.axes):
        x = e.call(aten.unsqueeze.default, x, axis)
    return x


def _slice(op: Slice, e: "Emitter") -> Any:
    if op.starts is None or op.ends is None:
        raise InvalidGraph(f"expected {op.name!r} to know its bounds, got computed ones")
    x, steps = e.arg(0), op.steps or (1,) * len(op.axes)
    for bounds in zip(op.axes, op.starts, op.ends, steps, strict=True):
        x = e.call(aten.slice.Tensor, x, *bounds)
    return x


def _concat(op: Concat, e: "Emitter") -> Any:
    return e.call(aten.cat.default, [e.arg(i) for i in range(len(op.inputs))], op.axis)


def _pieces(op: Op, e: "Emitter", listed: Any) -> list[Any]:
    return [e.call(operator.getitem, listed, index) for index in range(len(op.outputs))]


def _split(op: Split, e: "Emitter") -> Any:
    listed = e.call(aten.split_with_sizes.default, e.arg(0), list(op.sizes), op.axis)
    return _pieces(op, e, listed)


def _unbind(op: Unbind, e: "Emitter") -> Any:
    return _pieces(op, e, e.call(aten.unbind.int, e.arg(0), op.axis))


def _gather(op: Gather, e: "Emitter") -> Any:
    index = e.literal(1)
    if index is not None:
        return e.call(aten.select.int, e.arg(0), op.axis, int(index))
    if op.x.constant is None and not _counts_from_the_front(op.indices):
        return e.call(aten.index.Tensor, e.arg(0), [None] * op.axis + [e.arg(1)])
    if op.axis == 0 and op.x.rank == 2:
        return e.call(aten.embedding.default, e.arg(0), e.arg(1))
    if op.indices.rank == 1:
        return e.call(aten.index_select.default, e.arg(0), op.axis, e.arg(1))
    return e.call(aten.index.Tensor, e.arg(0), [None] * op.axis + [e.arg(1)])


def _counts_from_the_front(indices: Value) -> bool:
    """Whether no index is negative, which only `index.Tensor` takes: known ones, or a top-k's."""
    while isinstance(indices.producer, Cast | Reshape | Squeeze | Unsqueeze | Slice | Sort):
        indices = indices.producer.require(0)
    if indices.constant is not None:
        return bool((indices.array() >= 0).all())
    return isinstance(indices.producer, TopK | Range)


def _cast(op: Cast, e: "Emitter") -> Any:
    return e.call(aten._to_copy.default, e.arg(0), dtype=torch_dtype(op.dtype))


def _identity(op: Identity, e: "Emitter") -> Any:
    return e.arg(0)


def _shape_of(op: ShapeOf, e: "Emitter") -> Any:
    found = [e.call(aten.sym_size.int, e.arg(0), axis) for axis in op.axes]
    if op.scalar:
        return found[0]
    whole = [e.call(aten.full.default, [1], size, dtype=torch.int64) for size in found]
    return e.call(aten.cat.default, whole)


SHAPE_RULES: dict[type[Op], Callable[[Any, Any], Any]] = {
    Cast: _cast,
    Concat: _concat,
    Expand: _expand,
    Gather: _gather,
    Identity: _identity,
    Reshape: _reshape,
    ShapeOf: _shape_of,
    Slice: _slice,
    Split: _split,
    Squeeze: _squeeze,
    Transpose: _transpose,
    Unbind: _unbind,
    Unsqueeze: _unsqueeze,
}
"""How each kind of op that only moves elements is written."""
