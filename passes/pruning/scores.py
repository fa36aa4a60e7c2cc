"""Score the tokens of a self-attention layer by its own keys, [B, N]."""

from math import inf, sqrt

from ...graph import Value
from ...graph.ops import MatMul, Softmax, Squeeze, Transpose, Unsqueeze
from ..numbers import MASKED
from .apart import KEY, first_query, narrow, own_path
from .build import BOOL, Builder
from .mask import hidden


def key_norm(build: Builder) -> Value:
    """The L2 norm of each token's key, over √E, averaged over the heads."""
    key = own_path(build, KEY)
    square = build.mean(build.pointwise("mul", key, key), 3)  # a sum might overflow in float16
    scores = build.mean(build.pointwise("sqrt", square), 1)
    mask = _first_row(build)
    if mask is None or (mask.constant is not None and not hidden(mask.array()).any()):
        return scores
    return _where_seen(build, mask, scores)


def class_attention(build: Builder) -> Value:
    """How much the first token attends to each, averaged over the heads."""
    attention = build.layer.attention
    key = own_path(build, KEY)
    query, made = first_query(build)
    batch, heads, tokens, width = key.shape or ()
    turned = Transpose(inputs=[key], perm=(0, 1, 3, 2))
    flipped = build.add(turned, (batch, heads, width, tokens), key.dtype)
    shape = (batch, heads, 1, tokens)
    logits = build.add(MatMul(inputs=[query, flipped]), shape, key.dtype)
    narrow(build.graph, made)
    scale = 1 / sqrt(int(width)) if attention.scale is None else attention.scale
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
    unseen = build.pointwise("less_equal", row, build.number(MASKED, row.dtype))
    return build.pointwise("where", unseen, never, scores)


def _first_row(build: Builder) -> Value | None:
    """The attention's mask of the first query, whose axis stays with extent 1."""
    mask = build.layer.attention.operand(3)
    rank = 0 if mask is None else mask.rank or 0
    if mask is None or mask.shape is None or rank < 2 or mask.shape[rank - 2] == 1:
        return mask
    return build.first(mask, rank - 2)
