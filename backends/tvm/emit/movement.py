"""How ops that only move, drop, repeat or join elements are spelled."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ....graph import Op
from ....graph.ops import (
    Concat,
    Expand,
    Identity,
    Ref,
    Reshape,
    Slice,
    Split,
    Squeeze,
    Transpose,
    Unbind,
    Unsqueeze,
)
from .bounds import Bounds, clamped, slice_bounds
from .dims import Extent, Unknown
from .expressions import moved

if TYPE_CHECKING:
    from tvm import relax

    from .emitter import Emitter


def reshape(emitter: "Emitter", op: Reshape) -> "list[relax.Expr]":
    """Same elements, new shape."""
    x = emitter[op.require(0)]
    before = emitter.extents(x)
    target = targets(emitter, op, op.dims)
    if op.dims is None and not _allows_zero(op):
        target = [before[k] if isinstance(d, int) and d == 0 else d for k, d in enumerate(target)]
    return [reshaped(emitter, x, _inferred(emitter, before, target))]


def reshaped(emitter: "Emitter", x: "relax.Expr", shape: Sequence[Extent]) -> "relax.Expr":
    """x in another shape of as many elements."""
    from tvm import relax

    return emitter.emit(relax.op.reshape(x, list(shape)))


def expand(emitter: "Emitter", op: Expand) -> "list[relax.Expr]":
    """Broadcast both ways: a 1 in the target keeps the extent of x."""
    x = emitter[op.require(0)]
    before = emitter.extents(x)
    target = targets(emitter, op, op.dims)
    before = [1] * (len(target) - len(before)) + before
    target = [1] * (len(before) - len(target)) + target
    kept = [
        b if isinstance(t, int) and t in (1, -1) else t for b, t in zip(before, target, strict=True)
    ]
    return [broadcast(emitter, x, kept)]


def broadcast(emitter: "Emitter", x: "relax.Expr", shape: Sequence[Extent]) -> "relax.Expr":
    """x repeated along axes where its extent is 1; it may lack leading axes."""
    from tvm import relax

    before = emitter.extents(x)
    if len(before) == len(shape) and all(
        emitter.dims.equal(b, s) is True for b, s in zip(before, shape, strict=True)
    ):
        return x
    return emitter.emit(relax.op.broadcast_to(x, list(shape)))


def targets(
    emitter: "Emitter", op: Op, dims: "tuple[int | Ref, ...] | None", shape: int = 1
) -> list[Extent]:
    """The shape that an op asks for: its dims, or operand `shape`, or else that of its result."""
    try:
        if dims is None:
            return emitter.contents.extents(op.require(shape))
        return [_extent(emitter, op, dim) for dim in dims]
    except (Unknown, AssertionError):
        if op.output.shape is None:
            raise
        return [emitter.dims(dim) for dim in op.output.shape]


def transpose(emitter: "Emitter", op: Transpose) -> "list[relax.Expr]":
    """Result axis i is axis perm[i] of x."""
    return [permuted(emitter, emitter[op.require(0)], op.perm)]


def permuted(emitter: "Emitter", x: "relax.Expr", order: Sequence[int]) -> "relax.Expr":
    """x with its axes in another order."""
    from tvm import relax

    if list(order) == sorted(order):
        return x
    return emitter.emit(relax.op.permute_dims(x, list(order)))


def squeeze(emitter: "Emitter", op: Squeeze) -> "list[relax.Expr]":
    """Drop axes of extent 1."""
    x = emitter[op.require(0)]
    shape = [extent for k, extent in enumerate(emitter.extents(x)) if k not in op.axes]
    return [reshaped(emitter, x, shape)]


def unsqueeze(emitter: "Emitter", op: Unsqueeze) -> "list[relax.Expr]":
    """Insert axes of extent 1."""
    x = emitter[op.require(0)]
    shape = emitter.extents(x)
    for axis in sorted(op.axes):
        shape.insert(axis, 1)
    return [reshaped(emitter, x, shape)]


def slices(emitter: "Emitter", op: Slice) -> "list[relax.Expr]":
    """x restricted along some axes, with bounds as in Python."""
    x = emitter[op.require(0)]
    extents = emitter.extents(x)
    bounds = {
        axis: clamped(emitter.dims, start, end, step, extents[axis])
        for axis, start, end, step in slice_bounds(emitter, op)
    }
    return [cut(emitter, x, bounds)]


def cut(emitter: "Emitter", x: "relax.Expr", bounds: dict[int, Bounds]) -> "relax.Expr":
    """The elements of x at start, start + step, .. along each axis that has bounds."""
    shape = emitter.extents(x)
    for axis, (_, _, count) in bounds.items():
        shape[axis] = count

    def index(*i: Any) -> list[Any]:
        found = list(i)
        for axis, (start, step, _) in bounds.items():
            found[axis] = start + found[axis] * step
        return found

    return moved(emitter, "slice", x, shape, index)


def concat(emitter: "Emitter", op: Concat) -> "list[relax.Expr]":
    """The inputs joined along one axis."""
    dtype = emitter.dtype(op.output)
    parts = [emitter.cast(emitter[value], dtype) for value in op.inputs if value is not None]
    return [joined(emitter, parts, op.axis)]


def joined(emitter: "Emitter", parts: "Sequence[relax.Expr]", axis: int) -> "relax.Expr":
    """Tensors joined along one axis.

    Relax's own operator would say of a symbolic extent what its kernel says in another order.
    """
    from tvm import topi

    if len(parts) == 1:
        return parts[0]
    return emitter.call_te(topi.concatenate, list(parts), axis, name="concatenate")


def split(emitter: "Emitter", op: Split) -> "list[relax.Expr]":
    """One kernel a piece, so that each can become part of what reads it."""
    return divided(emitter, emitter[op.require(0)], op.axis, op.sizes)


def divided(
    emitter: "Emitter", x: "relax.Expr", axis: int, sizes: Sequence[Extent]
) -> "list[relax.Expr]":
    """Pieces of x of these extents, one behind the other along an axis."""
    pieces, at = [], 0
    for size in sizes:
        pieces.append(cut(emitter, x, {axis: (at, 1, size)}))
        at = emitter.dims.simple(at + size)
    return pieces


def unbind(emitter: "Emitter", op: Unbind) -> "list[relax.Expr]":
    """One kernel a slice."""
    x = emitter[op.require(0)]
    return [picked(emitter, x, op.axis, k) for k in range(len(op.outputs))]


def picked(emitter: "Emitter", x: "relax.Expr", axis: int, position: Extent) -> "relax.Expr":
    """x at one position of an axis, which is dropped; the position may count from the end."""
    shape = emitter.extents(x)
    extent = shape.pop(axis)
    if emitter.dims.at_least(position, 0) is not True:
        position = emitter.dims.simple(position + extent)
    return moved(emitter, "select", x, shape, lambda *i: [*i[:axis], position, *i[axis:]])


def identity(emitter: "Emitter", op: Identity) -> "list[relax.Expr]":
    """x itself."""
    return [emitter[op.require(0)]]


def _extent(emitter: "Emitter", op: Op, dim: "int | Ref") -> Extent:
    if isinstance(dim, int):
        return dim
    (found,) = emitter.contents.extents(op.require(dim.index))
    return found


def _inferred(emitter: "Emitter", before: list[Extent], target: list[Extent]) -> list[Extent]:
    """The target with its −1 replaced by what is left of the elements."""
    unknown = [k for k, dim in enumerate(target) if isinstance(dim, int) and dim == -1]
    if not unknown:
        return target
    dims = emitter.dims
    rest = dims.product([dim for k, dim in enumerate(target) if k not in unknown])
    total = dims.product(before)
    if isinstance(rest, int) and rest == 0:
        return [0 if k in unknown else dim for k, dim in enumerate(target)]
    left = dims.simple(total // rest)
    return [left if k in unknown else dim for k, dim in enumerate(target)]


def _allows_zero(op: Reshape) -> bool:
    """Whether a 0 in a computed target is an extent of 0 (ONNX), not a copy of x's."""
    attributes: Any = getattr(op.source, "attributes", None)
    return attributes is not None and bool(attributes.get_int("allowzero", 0))
