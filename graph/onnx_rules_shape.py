"""How the ONNX operators that move, drop, repeat or join elements read in the vocabulary."""

from math import prod

import onnx_ir as ir

from .onnx_node import NodeView, normal_axes, rule
from .ops import (
    Cast,
    Concat,
    Expand,
    Gather,
    Identity,
    Reshape,
    ShapeOf,
    Slice,
    Split,
    Squeeze,
    Transpose,
    Unsqueeze,
)
from .value import Dim, Op, Shape


@rule("Identity")
def _identity(view: NodeView) -> Op | None:
    return Identity()


@rule("Dropout")
def _dropout(view: NodeView) -> Op | None:
    training = view.constant(2)
    if not view.only_first_output() or (view.given(2) and (training is None or training.any())):
        return None
    return Identity()


@rule("Cast")
def _cast(view: NodeView) -> Op | None:
    x = view.operand(0)
    target = ir.DataType(view.attr_int("to", 0))
    if x is None or x.dtype is None or ir.DataType.STRING in (target, _dtype_of(view)):
        return None
    dtype = target.numpy()
    return Identity() if dtype == x.dtype else Cast(dtype=dtype)


def _dtype_of(view: NodeView) -> ir.DataType | None:
    source = view.node.inputs[0]
    return None if source is None else source.dtype


@rule("Reshape")
def _reshape(view: NodeView) -> Op | None:
    target, x = view.constant_ints(1), view.operand(0)
    if target is None or x is None:
        return Reshape()
    if 0 not in target or view.attr_int("allowzero", 0):
        return Reshape(dims=target)
    if x.shape is None:
        return Reshape()
    # A zero copies the extent of x at the same place.
    copied = tuple(x.shape[i] if dim == 0 else dim for i, dim in enumerate(target))
    return Reshape(dims=_static(copied))


@rule("Flatten")
def _flatten(view: NodeView) -> Op | None:
    x = view.operand(0)
    if x is None or x.shape is None:
        return None
    axis = view.attr_int("axis", 1)
    axis += len(x.shape) if axis < 0 else 0
    sizes = _size(x.shape[:axis]), _size(x.shape[axis:])
    if sizes == (None, None):
        return None
    return Reshape(dims=tuple(-1 if size is None else size for size in sizes))


def _size(dims: Shape) -> int | None:
    static = _static(dims)
    return None if static is None else prod(static)


def _static(dims: tuple[Dim, ...]) -> tuple[int, ...] | None:
    numbers = tuple(dim for dim in dims if isinstance(dim, int))
    return numbers if len(numbers) == len(dims) else None


@rule("Expand")
def _expand(view: NodeView) -> Op | None:
    target, rank = view.constant_ints(1), view.rank(0)
    if target is None:
        return Expand()
    if rank is None or any(dim < 0 for dim in target):
        return None
    # ONNX broadcasts both ways: a 1 keeps the extent of x, where x has that axis.
    padded = (1,) * (rank - len(target)) + target
    new_axes = len(padded) - rank
    return Expand(dims=tuple(-1 if d == 1 and i >= new_axes else d for i, d in enumerate(padded)))


@rule("Transpose")
def _transpose(view: NodeView) -> Op | None:
    rank = view.rank(0)
    perm = view.attr_ints("perm")
    if perm is None:
        return None if rank is None else Transpose(perm=tuple(reversed(range(rank))))
    return Transpose(perm=perm)


@rule("Squeeze")
def _squeeze(view: NodeView) -> Op | None:
    x = view.operand(0)
    if x is None or x.shape is None:
        return None
    if view.given(1):
        axes = view.constant_ints(1)
        return None if axes is None else Squeeze(axes=normal_axes(axes, len(x.shape)))
    if _static(x.shape) is None:
        return None
    return Squeeze(axes=tuple(axis for axis, dim in enumerate(x.shape) if dim == 1))


@rule("Unsqueeze")
def _unsqueeze(view: NodeView) -> Op | None:
    axes, rank = view.constant_ints(1), view.rank(0)
    if axes is None or rank is None:
        return None
    return Unsqueeze(axes=normal_axes(axes, rank + len(axes)))


@rule("Slice")
def _slice(view: NodeView) -> Op | None:
    rank = view.rank(0)
    starts, ends = view.constant_ints(1), view.constant_ints(2)
    axes = view.constant_ints(3) if view.given(3) else _leading_axes(view)
    steps = view.constant_ints(4) if view.given(4) else (1,) * len(axes or ())
    if rank is None or axes is None:
        return None
    axes = normal_axes(axes, rank)
    if starts is None or ends is None or steps is None:
        return Slice(axes=axes)
    return Slice(axes=axes, starts=starts, ends=ends, steps=steps)


def _leading_axes(view: NodeView) -> tuple[int, ...] | None:
    """The axes of a Slice that names none: as many leading ones as there are starts."""
    starts = view.operand(1)
    if starts is None or starts.shape is None or not isinstance(starts.shape[0], int):
        return None
    return tuple(range(starts.shape[0]))


@rule("Concat")
def _concat(view: NodeView) -> Op | None:
    ranks = [view.rank(index) for index in range(len(view.inputs))]
    axis = view.axis(0, next((rank for rank in ranks if rank is not None), None))
    return None if axis is None else Concat(axis=axis)


@rule("Split")
def _split(view: NodeView) -> Op | None:
    axis = view.axis(0, view.rank(0))
    if axis is None:
        return None
    sizes = view.constant_ints(1)
    if sizes is None:
        pieces = tuple("?" if out.shape is None else out.shape[axis] for out in view.outputs)
        sizes = _static(pieces)
    return None if sizes is None else Split(axis=axis, sizes=sizes)


@rule("Gather")
def _gather(view: NodeView) -> Op | None:
    axis = view.axis(0, view.rank(0))
    return None if axis is None else Gather(axis=axis)


@rule("Shape")
def _shape(view: NodeView) -> Op | None:
    rank = view.rank(0)
    if rank is None:
        return None
    start, end, _ = slice(view.attr_int("start", 0), view.attr_int("end", rank)).indices(rank)
    return ShapeOf(axes=tuple(range(start, end)))
