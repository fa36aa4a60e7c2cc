"""Score the tokens of a self-attention layer by its own keys.

The scores of all tokens are needed before any can be left out. So the keys get a path of their own,
apart from the queries and values with which a fused projection makes them: those are then computed
for the kept tokens alone.
"""

from dataclasses import fields
from math import inf

import numpy as np

from ..graph import Dim, Graph, Op, Shape, Value
from ..graph.ops import (
    Attention,
    Elementwise,
    Linear,
    MatMul,
    Opaque,
    Reduce,
    Slice,
    Softmax,
    Squeeze,
    Transpose,
    Unsqueeze,
)
from ..graph.shapes import broadcast
from .axes import carried
from .layers import Layer
from .tokens.clone import Place
from .tokens.demand import Context
from .tokens.execute import execute
from .tokens.numbers import MASKED
from .tokens.plan import SELECTING, plan, positions

BOOL = np.dtype(np.bool_)
QUERY, KEY = 0, 1


class Builder:
    """Writes ops before the attention of a layer."""

    def __init__(self, graph: Graph, layer: Layer) -> None:
        self.graph, self.layer = graph, layer
        self.place = Place(graph)
        self.place.before = layer.attention

    def add(self, op: Op, shape: Shape, dtype: np.dtype | None, name: str = "score") -> Value:
        op.scope = self.layer.attention.scope
        return self.place.add(op, shape, dtype, name)

    def pointwise(self, fn: str, *operands: Value, name: str = "score") -> Value:
        """A pointwise function; its type is that of the last operand, bool for a comparison."""
        shape = broadcast(*(value.shape or () for value in operands))
        dtype = BOOL if fn in ("less_equal", "and") else operands[-1].dtype
        return self.add(Elementwise(inputs=list(operands), fn=fn), shape, dtype, name)

    def number(self, number: float, dtype: np.dtype | None) -> Value:
        return self.graph.constant(np.array(number, dtype), "number")

    def first(self, value: Value, axis: int) -> Value:
        """The first position of an axis, which stays."""
        shape = _replaced(value.shape or (), axis, 1)
        cut = Slice(inputs=[value], axes=(axis,), starts=(0,), ends=(1,), steps=(1,))
        return self.add(cut, shape, value.dtype)

    def mean(self, value: Value, axis: int) -> Value:
        shape = tuple(dim for k, dim in enumerate(value.shape or ()) if k != axis)
        mean = Reduce(inputs=[value], fn="mean", axes=(axis,), keepdims=False)
        return self.add(mean, shape, value.dtype)


def _replaced(shape: Shape, axis: int, dim: Dim) -> Shape:
    return tuple(dim if k == axis else old for k, old in enumerate(shape))


# -- scores, [B, N] ------------------------------------------------------------------------------


def key_norm(build: Builder) -> Value:
    """The L2 norm of each token's key, over √E, averaged over the heads."""
    key = _apart(build, KEY)
    square = build.mean(build.pointwise("mul", key, key), 3)  # a sum might overflow in float16
    scores = build.mean(build.pointwise("sqrt", square), 1)
    mask = _first_row(build)
    if mask is None or (mask.constant is not None and not _hidden(mask.array()).any()):
        return scores
    return _where_seen(build, mask, scores)


def class_attention(build: Builder) -> Value:
    """How much the first token attends to each, averaged over the heads."""
    attention = build.layer.attention
    key = _apart(build, KEY)
    query, made = _first_query(build)
    batch, heads, tokens, width = key.shape or ()
    turned = Transpose(inputs=[key], perm=(0, 1, 3, 2))
    flipped = build.add(turned, (batch, heads, width, tokens), key.dtype)
    shape = (batch, heads, 1, tokens)
    logits = build.add(MatMul(inputs=[query, flipped]), shape, key.dtype)
    _narrow(build.graph, made)
    scale = float(width) ** -0.5 if attention.scale is None else attention.scale
    logits = build.pointwise("mul", logits, build.number(scale, key.dtype))
    mask = _first_row(build)
    if mask is not None and mask.dtype == BOOL:
        logits = build.pointwise("where", mask, logits, build.number(-inf, key.dtype))
    elif mask is not None:
        logits = build.pointwise("add", logits, mask)
    shares = build.add(Softmax(inputs=[logits], axis=3), shape, key.dtype)
    return build.mean(build.mean(shares, 2), 1)


def _where_seen(build: Builder, mask: Value, scores: Value) -> Value:
    """The scores, −∞ for keys that the attention's mask hides."""
    missing = 4 - (mask.rank or 0)
    if missing > 0:
        wide = (1,) * missing + (mask.shape or ())
        mask = build.add(Unsqueeze(inputs=[mask], axes=tuple(range(missing))), wide, mask.dtype)
    batch, heads, _, keys = mask.shape or ()
    mask = mask if heads == 1 else build.first(mask, 1)
    row = build.add(Squeeze(inputs=[mask], axes=(1, 2)), (batch, keys), mask.dtype)
    never = build.number(-inf, scores.dtype)
    if row.dtype == BOOL:
        return build.pointwise("where", row, scores, never)
    hidden = build.pointwise("less_equal", row, build.number(MASKED, row.dtype))
    return build.pointwise("where", hidden, never, scores)


# -- the attention's mask ------------------------------------------------------------------------


def _first_row(build: Builder) -> Value | None:
    """The attention's mask of the first query, whose axis stays with extent 1."""
    mask = build.layer.attention.operand(3)
    rank = 0 if mask is None else mask.rank or 0
    if mask is None or mask.shape is None or rank < 2 or mask.shape[rank - 2] == 1:
        return mask
    return build.first(mask, rank - 2)


def hides_alike(mask: Value | None) -> bool:
    """Whether an attention's mask hides the same keys from every query."""
    if mask is None or mask.shape is None:
        return mask is None
    axis = len(mask.shape) - 2
    if axis < 0:
        return True
    if mask.constant is None:
        return _same_along(mask, axis)
    hidden = _hidden(mask.array())
    return bool((hidden == hidden[..., :1, :]).all())


def _hidden(mask: np.ndarray) -> np.ndarray:
    return ~mask if mask.dtype == BOOL else mask <= MASKED


def _same_along(value: Value, axis: int) -> bool:
    """Whether a value is the same at every position of an axis."""
    if value.shape is None or value.shape[axis] == 1:
        return value.shape is not None
    if value.constant is not None:
        array = value.array()
        return bool((array == array.take([0], axis)).all())
    op = value.producer
    pairs = None if op is None else carried(op, op.outputs.index(value), axis)
    if op is None or pairs is None:
        return False
    return all(_same_along(op.require(index), own) for index, own in pairs)


# -- a path of their own -------------------------------------------------------------------------


def path(layer: Layer, index: int) -> list[Op]:
    """The ops between an operand of the attention and the Linears that it comes from."""
    seen: dict[Op, None] = {}
    worklist = [layer.attention.require(index)]
    while worklist:
        value = worklist.pop()
        op = value.producer
        if value is layer.base or op is None or op in seen:
            continue
        seen[op] = None
        if not isinstance(op, Linear):
            worklist += [v for v in op.inputs if v is not None]
    return list(seen)


def can_copy(layer: Layer, index: int) -> bool:
    return not any(isinstance(op, Opaque) for op in path(layer, index))


def _apart(build: Builder, index: int) -> Value:
    """An operand of the attention, computed by ops that nothing else reads."""
    graph, attention, ops = build.graph, build.layer.attention, path(build.layer, index)
    value = attention.require(index)
    uses = [use for op in ops for result in op.outputs for use in result.uses]
    if all(reader in ops or (reader, k) == (attention, index) for reader, k in uses):
        return value
    copies = _copied(graph, ops)
    graph.set_input(attention, index, copies[value])
    for op in ops:
        graph.prune(op)
    _narrow(graph, [*ops, *_makers(copies)])
    return attention.require(index)


def _first_query(build: Builder) -> tuple[Value, list[Op]]:
    """The query of the first token; `_narrow` is still to be called on the ops that make it."""
    graph, ops = build.graph, path(build.layer, QUERY)
    copies = _copied(graph, ops)
    query = build.first(copies[build.layer.attention.require(QUERY)], 2)
    return query, [*_makers(copies), *_makers({query: query})]


def _copied(graph: Graph, ops: list[Op]) -> dict[Value, Value]:
    """Copies of ops, each behind its original, by the value that a result is a copy of."""
    order = positions(graph)
    base = {f.name for f in fields(Op)}
    found: dict[Value, Value] = {}
    for op in sorted(ops, key=order.__getitem__):
        kept = {f.name: getattr(op, f.name) for f in fields(op) if f.name not in base}
        inputs = [None if v is None else found.get(v, v) for v in op.inputs]
        copy = type(op)(inputs=inputs, scope=op.scope, **kept)
        results = [(value.shape, value.dtype) for value in op.outputs]
        graph.add(copy, *results, after=op, name=op.name)
        found.update(zip(op.outputs, copy.outputs, strict=True))
    return found


def _makers(values: dict[Value, Value]) -> list[Op]:
    return list(dict.fromkeys(v.producer for v in values.values() if v.producer is not None))


def _narrow(graph: Graph, ops: list[Op]) -> None:
    """Let ops compute just what is read of them, where some select."""
    seeds = [op for op in ops if isinstance(op, SELECTING) and not op.erased]
    execute(graph, plan(graph, positions(graph), seeds, Context()))
