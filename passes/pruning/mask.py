"""Which keys an attention's mask hides, and a mask of the tokens that a layer keeps."""

from math import inf

import numpy as np

from ...graph import Value
from ...graph.ops import Elementwise, Expand, Ref, Scatter, ShapeOf, TopK, Unsqueeze
from ..axes import carried
from ..numbers import MASKED
from .build import BOOL, Builder

INT64 = np.dtype(np.int64)


def hides_alike(mask: Value | None) -> bool:
    """Whether an attention's mask hides the same keys from every query."""
    if mask is None or mask.shape is None:
        return mask is None
    axis = len(mask.shape) - 2
    if axis < 0:
        return True
    if mask.constant is None:
        return _same_along(mask, axis)
    unseen = hidden(mask.array())
    return bool((unseen == unseen[..., :1, :]).all())


def hidden(mask: np.ndarray) -> np.ndarray:
    """Where a mask hides the key."""
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


def keep_only(build: Builder, scores: Value, count: int, always_kept: int) -> Elementwise:
    """Hide the keys of tokens that are not kept, and let those tokens be what they were before.

    Returns the `where` that does the latter, with the base as its last operand.
    """
    layer = build.layer
    assert layer.base is not None
    assert layer.result is not None
    attention, base, result = layer.attention, layer.base, layer.result
    mask = _mask(build, _always(build, scores, always_kept), count)
    batch, tokens = mask.shape or ()
    keys = Unsqueeze(inputs=[mask], axes=(1, 2))
    seen = build.add(keys, (batch, 1, 1, tokens), BOOL, "keys_kept")
    build.graph.set_input(attention, 3, _joined(build, attention.operand(3), seen))
    readers = list(result.uses)
    rows = Unsqueeze(inputs=[mask], axes=(2,))
    kept = build.add(rows, (batch, tokens, 1), BOOL, "tokens_kept")
    where = Elementwise(inputs=[kept, result, base], fn="where", scope=attention.scope)
    build.graph.add(where, (result.shape, result.dtype), after=result.producer, name="pruned")
    build.graph.redirect(result, where.output, readers)
    return where


def _joined(build: Builder, own: Value | None, seen: Value) -> Value:
    """The attention's own mask and the one of keys that are kept."""
    if own is None:
        return seen
    if own.dtype == BOOL:
        return build.pointwise("and", own, seen)
    return build.pointwise("where", seen, own, build.number(-inf, own.dtype))


def _always(build: Builder, scores: Value, always_kept: int) -> Value:
    """The scores, ∞ for the tokens that are always kept."""
    if not always_kept:
        return scores
    first = np.arange(int((scores.shape or ())[1])) < always_kept
    table = build.graph.constant(first[None], "always")
    return build.pointwise("where", table, build.number(inf, scores.dtype), scores)


def _mask(build: Builder, scores: Value, count: int) -> Value:
    """Bool [B, N]: the highest scores of each batch element."""
    batch, tokens = scores.shape or ()
    top = TopK(inputs=[scores], axis=1, k=count, scope=build.layer.attention.scope)
    results = (((batch, count), scores.dtype), ((batch, count), INT64))
    build.graph.add(top, *results, before=build.layer.attention, name="kept")
    none = build.graph.constant(np.zeros((1, int(tokens)), bool), "none")
    inputs: list[Value | None] = [none]
    if not isinstance(batch, int):
        extent = ShapeOf(inputs=[scores], axes=(0,), scalar=True)
        inputs.append(build.add(extent, (), INT64, "batch"))
    dims = (batch if isinstance(batch, int) else Ref(1), int(tokens))
    zeros = build.add(Expand(inputs=inputs, dims=dims), (batch, tokens), BOOL, "none")
    yes = build.graph.constant(np.array(True), "yes")
    scatter = Scatter(inputs=[zeros, top.outputs[1], yes], axis=1)
    return build.add(scatter, (batch, tokens), BOOL, "mask")
