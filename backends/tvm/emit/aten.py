"""ATen operators that torch's models leave outside the vocabulary: shapes, indices, products."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .arrays import (
    cumulated,
    differences,
    extremum_at,
    flipped,
    padded,
    repeated_each,
    rolled,
    stacked,
    tiled,
)
from .bounds import clamped
from .indexing import indexed, picked_along
from .movement import broadcast, cut, joined, picked, reshaped
from .opaque import Call, aten
from .pointwise import applied
from .products import attend, product
from .scatters import scattered
from .tokens import counted, order

if TYPE_CHECKING:
    from tvm import relax

    from .emitter import Emitter


def _counts(call: Call) -> bool:
    """Whether an arange counts in integers."""
    bounds = [call.get(name) for name in ("start", "end", "step")]
    return call.op.output.dtype == np.int64 and not any(isinstance(b, float) for b in bounds)


@aten("arange.default", "arange.start", "arange.start_step", when=_counts)
def _arange(emitter: "Emitter", call: Call) -> "relax.Expr":
    start, end, step = (call.extent(call.get(name) or 0) for name in ("start", "end", "step"))
    step = step or 1
    if not isinstance(step, int):
        raise ValueError("expected arange to have a known step")
    count = emitter.dims.simple((end - start + step - (1 if step > 0 else -1)) // step)
    return counted(emitter, start, step, count, call.dtype)


@aten("argmax.default")
def _argmax(emitter: "Emitter", call: Call) -> "relax.Expr":
    return _extremum(emitter, call, largest=True)


@aten("argmin.default")
def _argmin(emitter: "Emitter", call: Call) -> "relax.Expr":
    return _extremum(emitter, call, largest=False)


def _extremum(emitter: "Emitter", call: Call, *, largest: bool) -> "relax.Expr":
    axis = None if call["dim"] is None else call.axis()
    keepdims = bool(call["keepdim"])
    return extremum_at(emitter, call.tensor("self"), axis, largest=largest, keepdims=keepdims)


@aten("max.dim", "min.dim")
def _extremum_and_place(emitter: "Emitter", call: Call) -> "list[relax.Expr]":
    x, axis, largest = call.tensor("self"), call.axis(), "max" in call.op.kind
    place = extremum_at(emitter, x, axis, largest=largest, keepdims=True)
    value = picked_along(emitter, x, place, axis)
    shape = emitter.extents(place)
    if not call["keepdim"]:
        del shape[axis]
    return [reshaped(emitter, part, shape) for part in (value, place)]


@aten("cumsum.default")
def _cumsum(emitter: "Emitter", call: Call) -> "relax.Expr":
    return cumulated(emitter, call.tensor("self"), call.axis(), call.dtype)


@aten("stack.default")
def _stack(emitter: "Emitter", call: Call) -> "relax.Expr":
    rank = call.op.output.rank or 1
    parts = [call.expression(one, call.dtype) for one in call["tensors"]]
    return stacked(emitter, parts, int(call["dim"]) % rank)


@aten("diff.default")
def _diff(emitter: "Emitter", call: Call) -> "relax.Expr":
    ends = (call["prepend"], call["self"], call["append"])
    x = joined(emitter, [emitter[value] for value in ends if value is not None], call.axis())
    for _ in range(int(call["n"])):
        x = differences(emitter, x, call.axis())
    return x


@aten("gather.default")
def _gather(emitter: "Emitter", call: Call) -> "relax.Expr":
    return picked_along(emitter, call.tensor("self"), call.tensor("index"), call.axis())


@aten("scatter_add.default")
def _scatter_add(emitter: "Emitter", call: Call) -> "relax.Expr":
    x, indices, updates = (call.tensor(name) for name in ("self", "index", "src"))
    return scattered(emitter, x, indices, updates, call.axis(), mode="add")


def _by_positions(call: Call) -> bool:
    """Whether the indices are positions, not masks whose true entries are counted."""
    given = [index for index in call["indices"] if index is not None]
    return bool(given) and all(index.dtype in (np.int64, np.int32) for index in given)


@aten("index.Tensor", when=_by_positions)
def _index(emitter: "Emitter", call: Call) -> "relax.Expr":
    indices = [None if index is None else emitter[index] for index in call["indices"]]
    return indexed(emitter, call.tensor("self"), indices)


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
    x, axis, index = call.tensor("self"), call.axis(), call.extent(call["index"])
    if emitter.dims.at_least(index, 0) is not True:
        index = emitter.dims.simple(index + emitter.extents(x)[axis])
    return picked(emitter, x, axis, index)


@aten("narrow.default")
def _narrow(emitter: "Emitter", call: Call) -> "relax.Expr":
    x, axis, start = call.tensor("self"), call.axis(), call.extent(call["start"])
    end = emitter.dims.simple(start + call.extent(call["length"]))
    extent = emitter.extents(x)[axis]
    return cut(emitter, x, {axis: clamped(emitter.dims, start, end, 1, extent)})


@aten("split.Tensor", "split.sizes", "split_with_sizes.default", "chunk.default")
def _split(emitter: "Emitter", call: Call) -> "list[relax.Expr]":
    x, axis, at = call.tensor("self"), call.axis(), 0
    pieces: list[Any] = []
    for value in call.op.outputs:
        assert value.shape is not None
        size = emitter.dims(value.shape[axis])
        pieces.append(cut(emitter, x, {axis: (at, 1, size)}))
        at = emitter.dims.simple(at + size)
    return pieces


@aten("constant_pad_nd.default")
def _constant_pad(emitter: "Emitter", call: Call) -> "relax.Expr":
    pads = _pads(call)
    return padded(emitter, call.tensor("self"), pads, float(call["value"]))


@aten("pad.default", when=lambda call: all(isinstance(n, int) for n in call["pad"]))
def _pad(emitter: "Emitter", call: Call) -> "relax.Expr":
    number = 0.0 if call["value"] is None else float(call["value"])
    return padded(emitter, call.tensor("self"), _pads(call), number, call["mode"])


def _pads(call: Call) -> list[Any]:
    """Pairs per axis; torch lists them from the last axis."""
    given = call.extents("pad")
    pairs = list(zip(given[::2], given[1::2], strict=True))[::-1]
    return [(0, 0)] * ((call["self"].rank or 0) - len(pairs)) + pairs


@aten("sort.stable", "sort.default")
def _sort(emitter: "Emitter", call: Call) -> "list[relax.Expr]":
    x, axis = call.tensor("self"), call.axis()
    places = order(emitter, x, axis, largest=bool(call["descending"]))
    return [picked_along(emitter, x, places, axis), places]


@aten("matmul.default")
def _matmul(emitter: "Emitter", call: Call) -> "relax.Expr":
    return product(emitter, call.tensor("self"), call.tensor("other"))


@aten("baddbmm.default", "addmm.default")
def _add_product(emitter: "Emitter", call: Call) -> "relax.Expr":
    names = ("batch1", "batch2") if "batch1" in call.args else ("mat1", "mat2")
    found = product(emitter, *(call.tensor(name) for name in names))
    parts = []
    for x, factor in ((call.tensor("self"), call["beta"]), (found, call["alpha"])):
        scaled = call.expression(factor)
        parts.append(x if factor == 1 else applied(emitter, "mul", call.dtype, x, scaled))
    return parts[1] if call["beta"] == 0 else applied(emitter, "add", call.dtype, *parts)


@aten("scaled_dot_product_attention.default", when=lambda call: not call["dropout_p"])
def _attention(emitter: "Emitter", call: Call) -> "relax.Expr":
    q, k, v = (call.tensor(name) for name in ("query", "key", "value"))
    mask = None if call["attn_mask"] is None else call.tensor("attn_mask")
    return attend(
        emitter,
        q,
        k,
        v,
        mask,
        call["scale"],
        causal=bool(call["is_causal"]),
        shared=bool(call["enable_gqa"]),
        dtype=call.dtype,
    )


@aten("einsum.default")
def _einsum(emitter: "Emitter", call: Call) -> "relax.Expr":
    from tvm import relax

    operands = [call.expression(one, call.dtype) for one in call["tensors"]]
    return emitter.emit(relax.op.einsum(relax.Tuple(operands), call["equation"].replace(" ", "")))
