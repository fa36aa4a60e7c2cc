"""Find the attentions of a graph, as one op or spelled out, and what of them a cache would hold.

Spelled out: a product with two computed operands, whose first comes from a softmax over the last
axis, which comes from such a product itself; scales, masks, casts and moves may stand between. This
only counts; what may be rewritten as one op is for `canonicalize` to decide, more strictly.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from .cost_extents import Extents
from .graph import Graph
from .movement_ops import MOVEMENT, Expand, Identity, Reshape, Squeeze, Transpose, Unsqueeze
from .ops import Affine, Attention, Elementwise, MatMul, Softmax
from .value import Dim, Op, Value

STEPS = 16
"""Ops that the way back from a product to what it is about may take."""
BETWEEN = (Elementwise, Affine, *MOVEMENT)
SPREADING = (Reshape, Squeeze, Unsqueeze, Transpose, Expand, Identity)
"""Ops that at most repeat elements: what a cache holds may be taken before them."""


@dataclass(frozen=True)
class Found:
    """One attention.

    Attributes:
        op: the op that makes the result.
        q, k, v: [..., S, D], [..., T, D] (or its transpose) and [..., T, E].
    """

    op: Op
    q: Value
    k: Value
    v: Value

    @property
    def queries(self) -> Dim:
        return self.q.shape[-2] if self.q.shape else 1

    @property
    def keys(self) -> Dim:
        return self.v.shape[-2] if self.v.shape else 1

    def heads(self, extents: Extents) -> int:
        """Number of query heads."""
        return _heads(self.q, extents)

    def kv_heads(self, extents: Extents) -> int:
        """Number of key heads, before each was repeated for the queries that share it."""
        kept, read = extents.elements(_kept(self.k, extents)), extents.elements(self.k)
        return max(1, _heads(self.k, extents) * kept // max(1, read))

    def kv_bytes(self, extents: Extents) -> int:
        """Size of the keys and values before they were repeated."""
        return sum(extents.nbytes(_kept(value, extents)) for value in (self.k, self.v))


def find_attentions(graph: Graph) -> list[Found]:
    """Every attention in topological order; linear in the ops."""
    return [found for op in graph.ops if (found := _found(op)) is not None]


def _found(op: Op) -> Found | None:
    if isinstance(op, Attention):
        return Found(op, op.require(0), op.require(1), op.require(2))
    if not isinstance(op, MatMul) or not _computed(op):
        return None
    softmaxes = (up for up in _upstream(op.require(0)) if isinstance(up, Softmax))
    softmax = next(softmaxes, None)
    if softmax is None or softmax.axis + 1 != softmax.output.rank:
        return None
    for product in _upstream(softmax.require(0)):
        if isinstance(product, MatMul) and _computed(product) and _meets(product, op):
            return Found(op, product.require(0), product.require(1), op.require(1))
    return None


def _computed(product: MatMul) -> bool:
    return all(product.require(index).constant is None for index in (0, 1))


def _meets(scores: MatMul, result: MatMul) -> bool:
    """Whether there is a score for each row of the values."""
    columns, rows = scores.output.shape, result.require(1).shape
    return bool(columns) and bool(rows) and columns[-1] == rows[-2]  # type: ignore[index]


def _upstream(value: Value) -> Iterator[Op]:
    """Producers from near to far, beyond those that work element by element or only move."""
    front, seen = [value], set[Op]()
    while front and len(seen) < STEPS:
        op = front.pop(0).producer
        if op is None or op in seen:
            continue
        seen.add(op)
        yield op
        if isinstance(op, BETWEEN):
            front += [operand for operand in op.inputs if operand is not None]


def _sources(value: Value) -> Iterator[Value]:
    """A value, and what it was before moves that lose nothing and factors that are numbers."""
    for _ in range(STEPS):
        yield value
        op = value.producer
        scaled = isinstance(op, Elementwise) and op.fn in ("mul", "div")
        same = op is not None and op.inputs and op.require(0).shape == value.shape
        if not (isinstance(op, SPREADING) or (scaled and same)):
            return
        assert op is not None
        if scaled and (op.require(1).constant is None or not _is_number(op.require(1))):
            return
        value = op.require(0)


def _heads(value: Value, extents: Extents) -> int:
    """The third axis from the end, before it was merged with the batch if it was."""
    shape = value.shape or ()
    whole = [one.shape for one in _sources(value) if one.shape and len(one.shape) > 3]
    split = [one for one in whole if set(one[-2:]) == set(shape[-2:])]  # k may be transposed
    if split:
        return extents(split[0][-3])
    return extents(shape[-3]) if len(shape) > 2 else 1


def _is_number(value: Value) -> bool:
    return all(extent == 1 for extent in value.shape or ())


def _kept(value: Value, extents: Extents) -> Value:
    """The smallest of the values that `value` was made from by moving and repeating alone."""
    return min(_sources(value), key=lambda one: extents.elements(one) or float("inf"))
