"""Which attention layer each op belongs to, told by dataflow, whatever the ops are called.

With the attentions numbered in topological order, an op belongs to

1. attention j, if all its readers do (transitively), or are j: projections of q, k and v, their
   norms and rotations, and the norm before them. Not the residual stream: it goes on past j, or
   where it does not (attention as pooling), it ends with an add on the way to v;
2. else the attention i that is the last upstream of it: the output projection, the MLP, the adds;
3. but the one after i, if it lies beside that one and not upstream of it (a parallel MLP): if the
   next attention downstream is preceded by the one that i precedes.

What no attention is upstream of is the stem. What none is downstream of ends with its last residual
add, or scatter, or with the norm of it where those before are normed too (post-norm): what follows
(a final norm, the head) belongs to no layer. In a model that has no residual stream the ops between
two attentions all go to the second. What two blocks share is counted in neither, or in the first; a
router goes with the block before it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .cost_attention import Found
from .graph import Graph
from .movement_ops import MOVEMENT
from .ops import (
    Affine,
    Attention,
    BatchNorm,
    Conv,
    Elementwise,
    Linear,
    MatMul,
    Norm,
    Reduce,
    ShapeOf,
    Softmax,
)
from .value import Op, Value

NONE = -1
NO_JOIN = (Affine, Attention, BatchNorm, Conv, Linear, MatMul, Norm, Reduce, Softmax, *MOVEMENT)
"""Ops that do not put a branch on a residual stream, whatever they read."""


def layer_owners(graph: Graph, attentions: Sequence[Found]) -> dict[Op, int]:
    """The layer of each op that is not dead, NONE for the stem and the head; linear in the ops."""
    ops = _live(graph)
    anchors = {one.op: index for index, one in enumerate(attentions)}
    ahead = _Forward.of(ops, anchors)
    back = _Backward.of(ops, anchors, ahead.after, {one.v for one in attentions})
    owners = {op: anchors.get(op, _owner(op, ahead, back)) for op in ops}
    ends = [op for op in ops if back.before[op] == NONE and op not in anchors]
    last = _last_ops(ends, owners)
    position = {op: index for index, op in enumerate(ops)}
    for op in ends:
        if position[op] > position[last.get(owners[op], op)]:
            owners[op] = NONE
    return owners


def _live(graph: Graph) -> "list[Op]":
    """The ops that an output or an effect needs: what is dead would lead nowhere."""
    needed = {*graph.outputs, *graph.pinned}
    live = []
    for op in reversed(list(graph.ops)):
        if op.effectful or not needed.isdisjoint(op.outputs):
            live.append(op)
            needed.update(value for value in op.inputs if value is not None)
    return live[::-1]


def _last_ops(ends: "list[Op]", owners: Mapping[Op, int]) -> dict[int, Op]:
    """Of layers that no attention follows: the last residual add, or the norm of it (post-norm)."""
    last: dict[int, Op] = {}
    normed: dict[int, int] = {}
    for op in filter(_joins, ends):
        owner, norm = owners[op], _readers(op.output)
        last[owner] = op
        if len(norm) == 1 and isinstance(norm[0], Norm):
            normed[owner] = normed.get(owner, 0) + 1
            if normed[owner] > 1:  # one more could be the final norm of a pre-norm model
                last[owner] = norm[0]
    return last


def _owner(op: Op, ahead: "_Forward", back: "_Backward") -> int:
    inside = back.inside[op]
    if inside != NONE:
        return inside
    last, following = ahead.after[op], back.before[op]
    beside = back.joined[op] if following == NONE else ahead.previous[following]
    if beside not in (NONE, last) and ahead.previous[beside] == last:
        return beside
    return last


@dataclass
class _Forward:
    """What is upstream.

    Attributes:
        after: for each op, the last attention upstream of its results (itself, if it is one).
        previous: for each attention, the last one upstream of it.
    """

    after: dict[Op, int]
    previous: dict[int, int]

    @classmethod
    def of(cls, ops: "list[Op]", anchors: Mapping[Op, int]) -> "_Forward":
        found = cls({}, {})
        for op in ops:
            producers = [v.producer for v in op.inputs if v is not None and v.producer is not None]
            last = max((found.after.get(one, NONE) for one in producers), default=NONE)
            if op in anchors:
                found.previous[anchors[op]] = last
            found.after[op] = anchors.get(op, last)
        return found


@dataclass
class _Backward:
    """What is downstream, not counting what reads only extents.

    Attributes:
        before: for each op, the first attention downstream of it.
        inside: the attention that every way from it leads to.
        joined: the last attention upstream of what it first meets, where that is a later one.
    """

    before: dict[Op, int]
    inside: dict[Op, int]
    joined: dict[Op, int]

    @classmethod
    def of(
        cls,
        ops: "list[Op]",
        anchors: Mapping[Op, int],
        after: Mapping[Op, int],
        values: "set[Value]",
    ) -> "_Backward":
        found, valued = cls({}, {}, {}), set[Op]()
        for op in reversed(ops):
            every = [one for value in op.outputs for one in _readers(value)]
            readers = [one for one in every if one in found.before]  # not those that are dead
            if not values.isdisjoint(op.outputs) or not valued.isdisjoint(readers):
                valued.add(op)  # on the way to a v
            found.before[op] = _first(anchors.get(one, found.before[one]) for one in readers)
            ends = {anchors.get(one, found.inside[one]) for one in readers}
            stream = op in valued and _joins(op)
            found.inside[op] = ends.pop() if len(ends) == 1 and not stream else NONE
            found.joined[op] = _first(
                after[one] if after[one] > after[op] else found.joined[one] for one in readers
            )
            if op in anchors:
                valued.discard(op)
        return found


def _first(found: Iterable[int]) -> int:
    return min((one for one in found if one != NONE), default=NONE)


def _joins(op: Op) -> bool:
    """Whether `op` puts a branch on a residual stream: adds or scatters it to where it came from.

    Of two computed operands one has another reader: the branch.
    """
    if isinstance(op, NO_JOIN) or (isinstance(op, Elementwise) and op.fn not in ("add", "where")):
        return False
    parts = {v for v in op.inputs if v is not None and v.is_float and v.constant is None}
    return len(parts) > 1 and any(len(_readers(value)) > 1 for value in parts)


def _readers(value: Value) -> "list[Op]":
    """The ops that read elements of a value, not only its extents."""
    return [op for op in value.readers if not isinstance(op, ShapeOf)]
