"""How products are spelled: matmul, linear, and attention as products around a softmax.

What is narrower than float32 is summed in float32 and rounded once.
"""

from collections.abc import Sequence
from math import sqrt
from typing import TYPE_CHECKING, Any

from ....graph.ops import Attention, Linear, MatMul
from .expressions import NARROW, align, dtype_of, pointwise
from .movement import broadcast, permuted, reshaped
from .pointwise import applied
from .reductions import normalised

if TYPE_CHECKING:
    from tvm import relax

    from .emitter import Emitter


def matmul(emitter: "Emitter", op: MatMul) -> "list[relax.Expr]":
    """a·b with numpy broadcasting."""
    return [product(emitter, emitter[op.require(0)], emitter[op.require(1)])]


def linear(emitter: "Emitter", op: Linear) -> "list[relax.Expr]":
    """x·Wᵀ + b; a constant W is stored as [I, O]."""
    known = emitter.contents.numbers(op.weight)
    if op.layout == "io":
        weight = emitter[op.weight]
    elif known is not None:
        weight = emitter.constant(known.T, op.weight.name)
    else:
        weight = permuted(emitter, emitter[op.weight], (1, 0))
    result = product(emitter, emitter[op.x], weight)
    if op.bias is None:
        return [result]
    return [applied(emitter, "add", emitter.dtype(op.output), result, emitter[op.bias])]


def product(emitter: "Emitter", a: "relax.Expr", b: "relax.Expr") -> "relax.Expr":
    """A batched matrix product in the operands' type."""
    from tvm import relax

    dtype = dtype_of(a)
    if dtype not in NARROW:
        return emitter.emit(relax.op.matmul(a, b))
    return emitter.cast(emitter.emit(relax.op.matmul(a, b, out_dtype="float32")), dtype)


def contracted(emitter: "Emitter", equation: str, operands: "Sequence[relax.Expr]") -> "relax.Expr":
    """What an equation asks for, such as "bij, bkj -> bik"."""
    from tvm import relax

    return emitter.emit(relax.op.einsum(relax.Tuple(list(operands)), equation.replace(" ", "")))


def attention(emitter: "Emitter", op: Attention) -> "list[relax.Expr]":
    """softmax(scale·q·kᵀ + mask)·v."""
    q, k, v = (emitter[op.require(index)] for index in range(3))
    mask = None if op.operand(3) is None else emitter[op.require(3)]
    dtype = emitter.dtype(op.output)
    return [attend(emitter, q, k, v, mask, op.scale, causal=op.causal, shared=True, dtype=dtype)]


def attend(
    emitter: "Emitter",
    q: "relax.Expr",
    k: "relax.Expr",
    v: "relax.Expr",
    mask: "relax.Expr | None",
    scale: float | None,
    *,
    causal: bool,
    shared: bool,
    dtype: str,
) -> "relax.Expr":
    """Attention over [.., S, D]; if `shared`, keys serve several heads of queries each."""
    shape = emitter.extents(q)
    if scale is None:
        if not isinstance(shape[-1], int):
            raise ValueError("expected the heads to have a known width")
        scale = 1 / sqrt(shape[-1])
    if shared and len(shape) == 4:
        k, v = repeated(emitter, k, shape[1]), repeated(emitter, v, shape[1])
    rank = len(emitter.extents(k))
    keys = permuted(emitter, k, (*range(rank - 2), rank - 1, rank - 2))
    scaled = applied(emitter, "mul", dtype, q, emitter.number(scale, dtype))
    scores = product(emitter, scaled, keys)
    if mask is not None:
        scores = _masked(emitter, scores, mask, dtype)
    if causal:
        scores = _causal(emitter, scores, dtype)
    weights = normalised(emitter, scores, len(shape) - 1, dtype)
    return product(emitter, weights, v)


def repeated(emitter: "Emitter", x: "relax.Expr", heads: Any) -> "relax.Expr":
    """[B, G, T, D] as [B, H, T, D]: each head as often as queries share it."""
    batch, groups, tokens, width = emitter.extents(x)
    if emitter.dims.equal(heads, groups) is True:
        return x
    lone = reshaped(emitter, x, [batch, groups, 1, tokens, width])
    spread = broadcast(emitter, lone, [batch, groups, heads // groups, tokens, width])
    return reshaped(emitter, spread, [batch, heads, tokens, width])


def _masked(
    emitter: "Emitter", scores: "relax.Expr", mask: "relax.Expr", dtype: str
) -> "relax.Expr":
    """Scores plus a mask, or −∞ where a mask of truth values is false."""
    from tvm import tirx

    if dtype_of(mask) != "bool":
        return applied(emitter, "add", dtype, *align(emitter, scores, emitter.cast(mask, dtype)))
    lowest = tirx.const(float("-inf"), dtype)
    return pointwise(
        emitter, "mask", lambda kept, score: tirx.Select(kept, score, lowest), mask, scores
    )


def _causal(emitter: "Emitter", scores: "relax.Expr", dtype: str) -> "relax.Expr":
    """Scores, −∞ where a key is after the query, aligned top-left."""
    from tvm import te, tirx

    shape = emitter.extents(scores)
    lowest = tirx.const(float("-inf"), dtype)

    def compute(x: Any) -> Any:
        return te.compute(
            shape, lambda *i: tirx.Select(i[-1] <= i[-2], x(*i), lowest), name="causal"
        )

    return emitter.call_te(compute, scores, name="causal")
