"""Lift rules for operators that move, drop, repeat or join elements, or change their type."""

from typing import Any

import numpy as np

from .fx_call import Call, Operand, Rule, ints
from .fx_tensor import numpy_dtype
from .ops import (
    Cast,
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
    Transpose,
    Unbind,
    Unsqueeze,
)
from .value import Op

_END = np.iinfo(np.int64).max


def _sized(kind: type[Reshape] | type[Expand], name: str) -> Rule:
    """A rule for an operator whose target shape is a list of numbers and symbolic extents."""

    def rule(call: Call) -> Op | None:
        inputs: list[Any] = [call["self"]]
        dims: list[int | Ref] = []
        for entry in call[name]:
            if isinstance(entry, Operand):
                dims.append(Ref(len(inputs)))
                inputs.append(entry)
            else:
                dims.append(entry)
        return kind(inputs=inputs, dims=tuple(dims))

    return rule


def _sized_as(kind: type[Reshape] | type[Expand]) -> Rule:
    """A rule for an operator whose target shape is another tensor's, where that is static."""

    def rule(call: Call) -> Op | None:
        dims = [extent for extent in call.shape if isinstance(extent, int)]
        if len(dims) < len(call.shape):
            return None
        call.forget("other")
        return kind(inputs=[call["self"]], dims=tuple(dims))

    return rule


def _flatten(call: Call) -> Op | None:
    """The target is the result's shape, with −1 for the one extent that may be symbolic."""
    shape = call.shape
    if sum(isinstance(extent, str) for extent in shape) > 1:
        return None
    dims = tuple(-1 if isinstance(extent, str) else extent for extent in shape)
    return Reshape(inputs=[call["self"]], dims=dims)


def _permute(call: Call) -> Op | None:
    rank = call["self"].rank
    return Transpose(inputs=[call["self"]], perm=tuple(axis % rank for axis in call["dims"]))


def _transpose(first: str | int, second: str | int) -> Rule:
    """A rule for swapping two axes, given by argument name or as numbers."""

    def rule(call: Call) -> Op | None:
        rank = call["self"].rank
        if rank < 2:
            return Identity(inputs=[call["self"]])
        i, j = (call[axis] if isinstance(axis, str) else axis for axis in (first, second))
        perm = list(range(rank))
        perm[i], perm[j] = perm[j], perm[i]
        return Transpose(inputs=[call["self"]], perm=tuple(perm))

    return rule


def _reverse_axes(call: Call) -> Op | None:
    rank = call["self"].rank
    if rank < 2:
        return Identity(inputs=[call["self"]])
    return Transpose(inputs=[call["self"]], perm=tuple(reversed(range(rank))))


def _squeeze(call: Call) -> Op | None:
    x, found = call["self"], call.get("dim")
    rank = x.rank
    named = range(rank) if found is None else [found] if isinstance(found, int) else found
    axes = tuple(sorted({axis % rank for axis in named if x.shape[axis] == 1})) if rank else ()
    if len(axes) != rank - len(call.shape):
        return None
    return Squeeze(inputs=[x], axes=axes) if axes else Identity(inputs=[x])


def _unsqueeze(call: Call) -> Op | None:
    return Unsqueeze(inputs=[call["self"]], axes=(call["dim"] % len(call.shape),))


def _slice(call: Call) -> Op | None:
    x, axis = call["self"], call.axis("dim", call["self"].rank)
    start, end, step = call["start"], call["end"], call["step"]
    bounds = ints((0 if start is None else start, _END if end is None else end, step))
    if bounds is None:
        return Slice(inputs=[x], axes=(axis,))
    starts, ends, steps = ((bound,) for bound in bounds)
    return Slice(inputs=[x], axes=(axis,), starts=starts, ends=ends, steps=steps)


def _select(call: Call) -> Op | None:
    x, index = call["self"], call["index"]
    if type(index) is not int:
        return None
    axis = call.axis("dim", x.rank)
    extent = x.shape[axis]
    if index < 0 and isinstance(extent, int):
        index += extent
    return Gather(inputs=[x, call.literal(index, np.dtype(np.int64))], axis=axis)


def _index_select(call: Call) -> Op | None:
    x, index = call["self"], call["index"]
    if x.rank == 0 or index.rank != 1:
        return None
    return Gather(inputs=[x, index], axis=call.axis("dim", x.rank))


def _embedding(call: Call) -> Op | None:
    return Gather(inputs=[call["weight"], call["indices"]], axis=0)


def _concat(call: Call) -> Op | None:
    tensors = call["tensors"]
    # ATen still skips empty 1-D tensors among others of any rank.
    if not isinstance(tensors, list | tuple) or any(t.rank != len(call.shape) for t in tensors):
        return None
    return Concat(inputs=list(tensors), axis=call.axis("dim", len(call.shape)))


def _split(call: Call) -> Op | None:
    axis = call.axis("dim", call["self"].rank)
    sizes = [piece.shape[axis] for piece in call.val]
    if any(type(size) is not int for size in sizes):
        return None
    return Split(inputs=[call["self"]], axis=axis, sizes=tuple(sizes))


def _unbind(call: Call) -> Op | None:
    return Unbind(inputs=[call["self"]], axis=call.axis("dim", call["self"].rank))


def _cast(call: Call) -> Op | None:
    x = call["self"]
    before, after = x.node.meta["val"], call.val
    if (before.device, before.layout) != (after.device, after.layout):
        return None
    if before.dtype == after.dtype:
        return Identity(inputs=[x])
    target = numpy_dtype(after.dtype)
    return None if target is None else Cast(inputs=[x], dtype=target)


def _identity(call: Call) -> Op | None:
    x: Any = call.tensor("self") or call.tensor("input")
    return None if x is None else Identity(inputs=[x])


def _dropout(call: Call) -> Op | None:
    if call["train"] is not False and call["p"] != 0:
        return None
    return _identity(call)


def _sym_size(call: Call) -> Op | None:
    return ShapeOf(inputs=[call["self"]], axes=(call.axis("dim", call["self"].rank),), scalar=True)


_CASTS = ("_to_copy.default", "to.dtype", "to.dtype_layout", "to.device", "to.other")
_COPIES = ("contiguous", "clone", "detach", "alias", "lift_fresh_copy", "lift_fresh")
_DROPOUTS = ("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout")
_SPLITS = ("split.Tensor", "split.sizes", "split_with_sizes.default", "chunk.default")

MOVEMENT: dict[str, Rule] = {
    "view.default": _sized(Reshape, "size"),
    "reshape.default": _sized(Reshape, "shape"),
    "_unsafe_view.default": _sized(Reshape, "size"),
    "flatten.using_ints": _flatten,
    "unflatten.int": _flatten,
    "expand.default": _sized(Expand, "size"),
    "permute.default": _permute,
    "transpose.int": _transpose("dim0", "dim1"),
    "swapaxes.default": _transpose("axis0", "axis1"),
    "t.default": _transpose(0, 1),
    "mT.default": _transpose(-1, -2),
    "numpy_T.default": _reverse_axes,
    "squeeze.default": _squeeze,
    "squeeze.dim": _squeeze,
    "squeeze.dims": _squeeze,
    "unsqueeze.default": _unsqueeze,
    "slice.Tensor": _slice,
    "select.int": _select,
    "index_select.default": _index_select,
    "embedding.default": _embedding,
    "cat.default": _concat,
    **{name: _split for name in (*_SPLITS, "unsafe_split.Tensor", "unsafe_chunk.default")},
    "unbind.int": _unbind,
    **{name: _cast for name in _CASTS},
    "type_as.default": _cast,
    **{f"{name}.default": _identity for name in _COPIES},
    **{f"{name}.default": _dropout for name in _DROPOUTS},
    "sym_size.int": _sym_size,
    "expand_as.default": _sized_as(Expand),
    **{f"{name}.default": _sized_as(Reshape) for name in ("view_as", "reshape_as")},
}
