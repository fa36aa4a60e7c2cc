"""Attention as one kernel: softmax(scale·q·kᵀ + mask)·v.

q, k and v are read from where they were computed, through the transposes, splits and reshapes that
bring the heads to the front, and where the heads go back behind the tokens, the result is written
that way. So neither q, k, v nor the scores are written to memory.

A row whose keys are all masked out is 0, as torch's attention has it.

The stages of the kernel and their names are what `schedules/attention` reads.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from ....graph import Op, Value
from ....graph.ops import Attention, Reshape, Transpose
from ..machine import Machine
from ..schedules.rule import GROUPS, KERNEL
from .emission import Emission, computed
from .expressions import read
from .kernels import OPAQUE, PATTERN
from .views import View, view_of

if TYPE_CHECKING:
    from tvm import relax

    from .emitter import Emitter

NAME = "attention"
BACK = (0, 2, 1, 3)
"""The permutation between [B, H, S, E] and [B, S, H, E]."""


def attention(op: Op, machine: Machine) -> Emission | None:
    """An attention in float32, with the reshape that joins its heads where there is one."""
    core = op if isinstance(op, Attention) else _joined(op)
    if core is None or not _is_fit(core):
        return None
    views = [view_of(core.require(k)) for k in range(3)]
    reads = computed([*(view.base for view in views), core.operand(3)])
    between = [value for view in views for value in (*view.between, view.base)]

    def emit(emitter: "Emitter") -> "list[relax.Expr]":
        return [_kernel(emitter, core, op, views)]

    return Emission(op, reads, emit, computed(between))


def _joined(op: Op) -> Attention | None:
    """The attention whose heads a reshape joins behind the tokens."""
    if not isinstance(op, Reshape) or op.output.shape is None:
        return None
    turn = op.require(0).producer
    if not isinstance(turn, Transpose) or turn.perm != BACK or len(turn.output.uses) != 1:
        return None
    core = turn.require(0).producer
    if not isinstance(core, Attention) or len(core.output.uses) != 1:
        return None
    return core if _keeps_tokens(turn.output, op.output) else None


def _keeps_tokens(apart: Value, joined: Value) -> bool:
    """Whether [B, S, H, E] becomes [B, S, H·E], or [B·S, H·E] where it is one batch."""
    if apart.shape is None or joined.shape is None:
        return False
    batch, tokens, heads, width = apart.shape
    if not isinstance(heads, int) or not isinstance(width, int):
        return False
    if joined.shape == (batch, tokens, heads * width):
        return True
    flat = batch * tokens if isinstance(batch, int) and isinstance(tokens, int) else tokens
    return joined.shape == (flat, heads * width) and (batch == 1 or isinstance(flat, int))


def _is_fit(op: Attention) -> bool:
    """Whether the kernel can do it: float32, and heads of known number and width."""
    values = [op.require(k) for k in range(3)]
    if any(v.dtype != np.float32 or v.rank != 4 for v in (*values, op.output)):
        return False
    mask = op.operand(3)
    if mask is not None and (mask.rank is None or mask.rank > 4 or not _is_mask(mask)):
        return False
    (_, heads, _, width), (_, groups, _, _), (_, _, _, depth) = (v.shape or () for v in values)
    if not all(isinstance(n, int) for n in (heads, groups, width, depth)):
        return False
    return int(heads) % int(groups) == 0


def _is_mask(mask: Value) -> bool:
    return mask.dtype in (np.float32, np.bool_)


@dataclass(frozen=True)
class Shape:
    """Extents of an attention: batch, query and key heads, queries, keys, widths of k and v."""

    batch: Any
    heads: int
    groups: int
    queries: Any
    keys: Any
    width: int
    depth: int


def _shape(q: Sequence[Any], k: Sequence[Any], v: Sequence[Any]) -> Shape:
    """From the extents of the three operands."""
    return Shape(q[0], int(q[1]), int(k[1]), q[2], k[2], int(q[3]), int(v[3]))


def _kernel(emitter: "Emitter", core: Attention, op: Op, views: Sequence[View]) -> "relax.Expr":
    shape = _shape(*(emitter.shape(core.require(index)) for index in range(3)))
    scale = 1 / sqrt(shape.width) if core.scale is None else core.scale
    mask = core.operand(3)
    operands = [emitter[view.base] for view in views]
    if mask is not None:
        operands.append(emitter[mask])
    result = None if op is core else emitter.shape(op.output)

    def compute(*tensors: Any) -> Any:
        def reader(tensor: Any, view: View) -> Callable[..., Any]:
            return lambda *index: tensor(*view.index(emitter, index))

        q, k, v = (reader(t, view) for t, view in zip(tensors, views, strict=False))
        scores = _scores(shape, q, k)
        adding = None if mask is None else tensors[3]
        masked = _masked(shape, scores, scale, adding, core.causal)
        return _mixed(shape, masked, v, result)

    attributes = {KERNEL: NAME, GROUPS: shape.groups, PATTERN: OPAQUE}
    return emitter.call_te(compute, *operands, name=NAME, attributes=attributes)


def _scores(shape: Shape, q: Callable[..., Any], k: Callable[..., Any]) -> Any:
    from tvm import te

    d = te.reduce_axis((0, shape.width), "d")
    shared = shape.heads // shape.groups
    extents = (shape.batch, shape.heads, shape.queries, shape.keys)

    def score(b: Any, h: Any, s: Any, t: Any) -> Any:
        return te.sum(q(b, h, s, d) * k(b, h // shared, t, d), axis=d)

    return te.compute(extents, score, name="scores")


def _masked(shape: Shape, scores: Any, scale: float, mask: Any, causal: bool) -> Any:
    """scale·scores + mask; −∞ where a mask of truth values is false, or a key after the query."""
    from tvm import te, tirx

    lowest = tirx.const(float("-inf"), "float32")

    def value(*index: Any) -> Any:
        result = scores(*index) * tirx.const(scale, "float32")
        if mask is not None:
            given = read(mask, index)
            if str(mask.dtype) == "bool":
                result = tirx.Select(given, result, lowest)
            else:
                result = result + given
        return tirx.Select(index[3] <= index[2], result, lowest) if causal else result

    name = "causal" if causal else "masked"
    return te.compute((shape.batch, shape.heads, shape.queries, shape.keys), value, name=name)


def _mixed(shape: Shape, masked: Any, v: Callable[..., Any], result: Sequence[Any] | None) -> Any:
    from tvm import te, tirx

    t, u, w = (te.reduce_axis((0, shape.keys), name) for name in "tuw")
    rows = (shape.batch, shape.heads, shape.queries)
    top = te.compute(rows, lambda *i: te.max(masked(*i, t), axis=t), name="top")
    weights = te.compute(
        (*rows, shape.keys), lambda *i: tirx.exp(masked(*i) - top(*i[:3])), name="weights"
    )
    total = te.compute(rows, lambda *i: te.sum(weights(*i, u), axis=u), name="total")
    shared = shape.heads // shape.groups

    def mix(b: Any, h: Any, s: Any, e: Any) -> Any:
        return te.sum(weights(b, h, s, w) * v(b, h // shared, w, e), axis=w)

    mixed = te.compute((*rows, shape.depth), mix, name="mixed")

    def divided(b: Any, h: Any, s: Any, e: Any) -> Any:
        zero, sum_ = tirx.const(0.0, "float32"), total(b, h, s)
        return tirx.Select(sum_.equal(zero), zero, mixed(b, h, s, e) / sum_)

    if result is None:
        return te.compute((*rows, shape.depth), divided, name="attention")

    def joined(*index: Any) -> Any:
        *row, column = index
        b, s = row if len(row) == 2 else (row[0] // shape.queries, row[0] % shape.queries)
        return divided(b, column // shape.depth, s, column % shape.depth)

    return te.compute(list(result), joined, name="attention")
