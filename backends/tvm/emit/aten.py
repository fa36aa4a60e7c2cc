"""ATen operators outside the vocabulary that count, choose by index, or multiply matrices."""

from typing import TYPE_CHECKING

import numpy as np

from .arrays import cumulated, differences, extremum_at
from .indexing import indexed, picked_along
from .movement import joined, reshaped
from .opaque import Call, aten
from .pointwise import applied
from .products import attend, contracted, product
from .scatters import scattered
from .tokens import order, stepped

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
    return stepped(emitter, start, end, step or 1, call.dtype)


@aten("argmax.default", "argmin.default")
def _extremum(emitter: "Emitter", call: Call) -> "relax.Expr":
    axis = None if call["dim"] is None else call.axis()
    largest, keepdims = "max" in call.op.kind, bool(call["keepdim"])
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
    parts = [
        x if factor == 1 else applied(emitter, "mul", call.dtype, x, call.expression(factor))
        for x, factor in ((call.tensor("self"), call["beta"]), (found, call["alpha"]))
    ]
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
    operands = [call.expression(one, call.dtype) for one in call["tensors"]]
    return contracted(emitter, call["equation"], operands)
