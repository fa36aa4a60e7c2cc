"""ATen operators outside the vocabulary that move, drop, repeat or join elements."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .arrays import flipped, padded, repeated_each, rolled, stacked, tiled
from .bounds import clamped
from .movement import broadcast, cut, divided, picked, reshaped
from .opaque import Call, aten

if TYPE_CHECKING:
    from tvm import relax

    from .emitter import Emitter


@aten("stack.default")
def _stack(emitter: "Emitter", call: Call) -> "relax.Expr":
    rank = call.op.output.rank or 1
    parts = [call.expression(one, call.dtype) for one in call["tensors"]]
    return stacked(emitter, parts, int(call["dim"]) % rank)


@aten("repeat.default")
def _repeat(emitter: "Emitter", call: Call) -> "relax.Expr":
    return tiled(emitter, call.tensor("self"), call.extents("repeats"))


@aten("tile.default")
def _tile(emitter: "Emitter", call: Call) -> "relax.Expr":
    counts = call.extents("dims")
    return tiled(
        emitter, call.tensor("self"), [1] * ((call["self"].rank or 0) - len(counts)) + counts
    )


@aten("repeat_interleave.self_int", when=lambda call: isinstance(call["repeats"], int))
def _repeat_interleave(emitter: "Emitter", call: Call) -> "relax.Expr":
    x = call.tensor("self")
    if call["dim"] is None:
        x = reshaped(emitter, x, [emitter.dims.product(emitter.extents(x))])
        return repeated_each(emitter, x, call["repeats"], 0)
    return repeated_each(emitter, x, call["repeats"], call.axis())


@aten("flip.default")
def _flip(emitter: "Emitter", call: Call) -> "relax.Expr":
    rank = call["self"].rank or 1
    return flipped(emitter, call.tensor("self"), [axis % rank for axis in call["dims"]])


@aten("roll.default", when=lambda call: bool(call["dims"]))
def _roll(emitter: "Emitter", call: Call) -> "relax.Expr":
    rank = call["self"].rank or 1
    axes = [axis % rank for axis in call["dims"]]
    return rolled(emitter, call.tensor("self"), call.extents("shifts"), axes)


@aten("flatten.using_ints", "unflatten.int", "view_as.default", "reshape_as.default")
def _reshape(emitter: "Emitter", call: Call) -> "relax.Expr":
    return reshaped(emitter, call.tensor("self"), [emitter.dims(d) for d in _shape(call)])


@aten("expand_as.default")
def _expand_as(emitter: "Emitter", call: Call) -> "relax.Expr":
    return broadcast(emitter, call.tensor("self"), [emitter.dims(d) for d in _shape(call)])


def _shape(call: Call) -> Sequence[Any]:
    """The result's shape as the view knows it."""
    assert call.op.output.shape is not None
    return call.op.output.shape


@aten("select.int")
def _select(emitter: "Emitter", call: Call) -> "relax.Expr":
    return picked(emitter, call.tensor("self"), call.axis(), call.extent(call["index"]))


@aten("narrow.default")
def _narrow(emitter: "Emitter", call: Call) -> "relax.Expr":
    x, axis, start = call.tensor("self"), call.axis(), call.extent(call["start"])
    end = emitter.dims.simple(start + call.extent(call["length"]))
    extent = emitter.extents(x)[axis]
    return cut(emitter, x, {axis: clamped(emitter.dims, start, end, 1, extent)})


@aten("split.Tensor", "split.sizes", "split_with_sizes.default", "chunk.default")
def _split(emitter: "Emitter", call: Call) -> "list[relax.Expr]":
    axis, shapes = call.axis(), [value.shape or () for value in call.op.outputs]
    sizes = [emitter.dims(shape[axis]) for shape in shapes]
    return divided(emitter, call.tensor("self"), axis, sizes)


@aten("pad.default", when=lambda call: all(isinstance(n, int) for n in call["pad"]))
@aten("constant_pad_nd.default")
def _pad(emitter: "Emitter", call: Call) -> "relax.Expr":
    """Torch lists the pairs from the last axis."""
    given = call.extents("pad")
    pairs = list(zip(given[::2], given[1::2], strict=True))[::-1]
    pads = [(0, 0)] * ((call["self"].rank or 0) - len(pairs)) + pairs
    number, mode = float(call["value"] or 0), call.get("mode") or "constant"
    return padded(emitter, call.tensor("self"), pads, number, mode)
