"""Rules that find scaled dot-product attention spelled out, whichever exporter wrote it.

softmax(s·q·kᵀ + mask)·v, with the scale on q, on kᵀ, on the scores or split between them, and with
torch.onnx's guard, which turns the NaN of a row that is masked throughout into 0 as Attention does.
"""

from dataclasses import dataclass

import numpy as np

from ...graph import Dim, Graph, Op, Shape, Value
from ...graph.ops import Attention, Elementwise, MatMul, Reshape, Softmax, Transpose
from ...graph.shapes import reshape_groups
from ..numbers import MASKED
from ..triangles import sides
from .moves import RESHAPES
from .rule import Match, Rule, elementwise, holds_only, scalar, substitute


@dataclass(frozen=True)
class Parts:
    """The operands of an attention."""

    q: Value
    k: Value
    v: Value
    mask: Value | None
    scale: float


def _attention(graph: Graph, op: Op) -> Match | None:
    softmax = _softmax(graph, op.require(0), op)
    if softmax is None:
        return None
    parts = _parts(graph, softmax, op.require(1))
    return None if parts is None else lambda graph: _write(graph, op, parts)


def _write(graph: Graph, op: Op, parts: Parts) -> None:
    operands = [parts.q, parts.k, parts.v]
    if parts.mask is not None:
        operands.append(parts.mask)
    attention = Attention(inputs=list(operands), scale=parts.scale, scope=op.scope)
    graph.add(attention, (op.output.shape, op.output.dtype), before=op, name=op.name)
    substitute(graph, op, attention.output)


def _softmax(graph: Graph, value: Value, reader: Op) -> Softmax | None:
    """The softmax that makes the probabilities, which nothing but `reader` may see."""
    guarded = elementwise(value, "where")
    if guarded is not None and graph.only_reader(value) is reader:
        nan = elementwise(guarded.require(0), "isnan")
        inner = guarded.require(2)
        if nan is None or nan.require(0) is not inner or scalar(guarded.require(1)) != 0.0:
            return None
        seen = set(inner.readers) == {nan, guarded} and graph.only_reader(nan.output) is guarded
        softmax = inner.producer if seen and not graph.is_output(inner) else None
    else:
        softmax = value.producer if graph.only_reader(value) is reader else None
    if isinstance(softmax, Softmax) and softmax.axis == (softmax.output.rank or 0) - 1:
        return softmax
    return None


def _parts(graph: Graph, softmax: Softmax, v: Value) -> Parts | None:
    scores, mask = softmax.require(0), None
    total = elementwise(scores, "add")
    if total is not None:
        for index in (0, 1):
            if isinstance(_unscaled(total.require(index))[0].producer, MatMul):
                scores, mask = total.require(index), total.require(1 - index)
                break
    scores, outer = _unscaled(scores)
    product = scores.producer
    if not isinstance(product, MatMul):
        return None
    q, left = _unscaled(product.require(0))
    transposed, right = _unscaled(product.require(1))
    k = _last_two_swapped(transposed)
    if k is None or not _heads_agree(q, k, v) or not _mask_fits(mask, softmax.output):
        return None
    return Parts(q, k, v, mask, outer * left * right)


def _unscaled(value: Value) -> tuple[Value, float]:
    """`value` without the scalar factors on it, and their product."""
    factor = 1.0
    while isinstance(op := value.producer, Elementwise) and op.fn in ("mul", "div"):
        number = scalar(op.require(1))
        inner = op.require(0)
        if number is None and op.fn == "mul":
            number, inner = scalar(op.require(0)), op.require(1)
        if number is None or number == 0.0 or inner.shape != value.shape:
            break
        factor = factor * number if op.fn == "mul" else factor / number
        value = inner
    return value, factor


def _last_two_swapped(value: Value) -> Value | None:
    op = value.producer
    return op.require(0) if isinstance(op, Transpose) and op.perm == (0, 1, 3, 2) else None


def _heads_agree(q: Value, k: Value, v: Value) -> bool:
    """Whether q, k and v are [batch, heads, tokens, width] of one type and number of heads."""
    if not q.is_float or not q.dtype == k.dtype == v.dtype:
        return False  # GPT-J's queries and keys are float32 whatever the rest is
    shapes = (q.shape or (), k.shape or (), v.shape or ())
    if any(len(shape) != 4 for shape in shapes):
        return False
    return len({shape[:2] for shape in shapes}) == 1 and shapes[1][2] == shapes[2][2]


def _mask_fits(mask: Value | None, scores: Value) -> bool:
    """Whether the mask broadcasts to the scores without widening them."""
    if mask is None:
        return True
    if mask.shape is None or scores.shape is None or len(mask.shape) not in (2, 4):
        return False
    tail = scores.shape[-len(mask.shape) :]
    if mask.dtype != scores.dtype or not mask.is_float:
        return False
    return all(m in (1, s) for m, s in zip(mask.shape, tail, strict=True))


def _transpose_between_reshapes(graph: Graph, op: Op) -> Match | None:
    """Merge axes → transpose → split them again: one transpose of the unmerged axes."""
    transpose = op.require(0).producer
    if not isinstance(transpose, Transpose):
        return None
    merge = transpose.require(0).producer
    if not isinstance(merge, RESHAPES):
        return None
    x = merge.require(0)
    if x.shape is None or merge.output.shape is None:
        return None
    found = _composed(x.shape, merge.output.shape, transpose.perm, op.output.shape or ())
    if found is None or sum(isinstance(extent, str) for extent in found[0]) > 1:
        return None
    shape, perm = found
    dims = tuple(extent if isinstance(extent, int) else -1 for extent in shape)

    def apply(graph: Graph) -> None:
        source = x
        if shape != x.shape:
            reshape = Reshape(inputs=[x], dims=dims, scope=op.scope)
            source = graph.add(reshape, (shape, x.dtype), before=op, name=merge.name).output
        direct = Transpose(inputs=[source], perm=perm, scope=op.scope)
        graph.add(direct, (op.output.shape, op.output.dtype), before=op, name=op.name)
        substitute(graph, op, direct.output)

    return apply


def _composed(
    before: Shape, merged: Shape, perm: tuple[int, ...], after: Shape
) -> tuple[Shape, tuple[int, ...]] | None:
    """What merging axes of `before`, permuting them by `perm` and splitting to `after` amounts to.

    A reshape to the shape returned (axes of extent 1 may come or go), and a permutation of it.
    """
    origin: dict[int, list[Dim]] = {}
    for group in reshape_groups(before, merged):
        if len(group.after) > 1:
            return None
        for middle in group.after:
            origin[middle] = [before[axis] for axis in group.before if before[axis] != 1]
    if set(origin) != set(perm):
        return None
    expected = [(extent, middle) for middle in perm for extent in origin[middle]]
    keys, last = [], -1
    for extent in after:
        if extent != 1:
            if not expected or expected[0][0] != extent:
                return None
            last = expected.pop(0)[1]
        keys.append(last)
    if expected:
        return None
    order = sorted(range(len(after)), key=lambda axis: (keys[axis], axis))
    shape = tuple(after[axis] for axis in order)
    return shape, tuple(order.index(axis) for axis in range(len(after)))


def _drop_mask(graph: Graph, op: Op) -> Match | None:
    """A constant mask that lets everything through (exporters write one for "no mask")."""
    mask = op.operand(3)
    if mask is None or mask.dtype is None or not holds_only(mask, 0.0 if mask.is_float else 1.0):
        return None

    def apply(graph: Graph) -> None:
        graph.set_input(op, 3, None)
        graph.update(op)

    return apply


def _causal_mask(graph: Graph, op: Op) -> Match | None:
    """A constant mask that hides just the later keys: what `causal` says."""
    mask = op.operand(3)
    if not isinstance(op, Attention) or op.causal or mask is None or mask.dtype is None:
        return None
    q, k = op.require(0).shape, op.require(1).shape
    if q is None or k is None or mask.shape is None or mask.shape[-2:] != (q[2], k[2]):
        return None
    found = sides(mask)
    if found is None:
        return None
    neutral = 0.0 if mask.is_float else 1.0
    passes = bool(np.all(found.before == neutral) and np.all(found.diagonal == neutral))
    hides = bool(np.all(found.after <= MASKED)) if mask.is_float else not found.after.any()
    if not passes or not hides:
        return None

    def apply(graph: Graph) -> None:
        graph.set_input(op, 3, None)
        graph.update(op, causal=True)

    return apply


RULES = (
    Rule("drop-mask", (Attention,), _drop_mask),
    Rule("causal-mask", (Attention,), _causal_mask),
    Rule("transpose-between-reshapes", (Reshape,), _transpose_between_reshapes),
    Rule("find-attention", (MatMul,), _attention),
)
