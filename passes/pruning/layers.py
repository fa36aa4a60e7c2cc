"""Find the self-attention layers of residual streams: where each begins, and what follows it.

A layer's `base` is the stream that its attention's result is added to; its `result` is the next
layer's base. Both are found by dataflow, before and after the norm alike.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ...graph import Graph, Op, Value
from ...graph.ops import (
    MOVEMENT,
    Affine,
    Attention,
    Cast,
    Elementwise,
    Gather,
    Identity,
    Linear,
    Norm,
    Put,
    ShapeOf,
    Slice,
    Squeeze,
    Take,
    Unsqueeze,
)
from ..axes import carried
from ..axis_roles import AxisClasses

TOKENS = 1
"""The axis of a residual stream [B, N, D] that runs along its tokens."""
_BRANCH = (Linear, Affine, Norm, Elementwise, *MOVEMENT)
_STREAM = (Elementwise, Affine, Norm, Cast, Identity, Squeeze, Unsqueeze, Put)


@dataclass(frozen=True)
class Layer:
    """One self-attention and what is computed up to the next.

    Attributes:
        base: the residual stream before it, all tokens of it; None where there is none.
        result: the base of the next layer; None for the last one.
        index, depth: which layer of its stream it is, counted from 0, and how many there are.
        over: the attention's keys are the tokens of the stream.
        thinned: its tokens were chosen at run time, so only some of them are computed.
        inside: the ops between base and result.
        mixing: an op outside the attention that reads tokens to compute others.
    """

    attention: Attention
    base: Value | None = None
    result: Value | None = None
    index: int = 0
    depth: int = 1
    over: bool = False
    thinned: bool = False
    inside: tuple[Op, ...] = ()
    mixing: Op | None = None


def find_layers(graph: Graph) -> list[Layer]:
    """One entry per attention, in topological order."""
    return _Finder(graph).run()


class _Finder:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.order: dict[Op, int] = {}
        self.above: dict[Op, int] = {}
        """By op, the set of ops that it is computed from, as bits."""
        for position, op in enumerate(graph.ops):
            self.order[op] = position
            self.above[op] = 1 << position
            for producer in _producers(op):
                self.above[op] |= self.above[producer]
        self.found = [op for op in self.order if isinstance(op, Attention)]
        self.classes = AxisClasses(graph) if self.found else None

    def run(self) -> list[Layer]:
        layers = [self._layer(op) for op in self.found]
        by_base = {one.base: one for one in layers if one.base is not None and one.over}
        before = {base: self._previous(base, by_base) for base in by_base}
        after = {first: base for base, first in reversed(before.items()) if first is not None}
        return [self._placed(one, before, after) if one.over else one for one in layers]

    # -- one attention ---------------------------------------------------------------------------

    def _layer(self, attention: Attention) -> Layer:
        base = self._base(attention)
        if base is None or self.classes is None:
            return Layer(attention)
        key = self.classes.key(attention.require(1), 2)
        over, thinned = base.rank == 3 and key == self.classes.key(base, TOKENS), False
        while (source := _selected_from(base)) is not None and base.producer is not None:
            if _at_run_time(base.producer):
                thinned = over
            elif over:
                break
            base = source
            over = over or (base.rank == 3 and key == self.classes.key(base, TOKENS))
        return Layer(attention, base, over=over, thinned=thinned)

    def _base(self, attention: Attention) -> Value | None:
        """The other operand of the first add that the keys, too, are computed from."""
        value = attention.output
        while True:
            readers = [op for op in value.readers if not isinstance(op, ShapeOf)]
            if len(readers) != 1 or not isinstance(readers[0], _BRANCH):
                return None
            if isinstance(readers[0], Elementwise) and readers[0].fn == "add":
                left, right = readers[0].inputs[:2]
                other = right if left is value else left
                if other is not None and self._feeds(other, attention):
                    return other
            value = readers[0].output

    def _feeds(self, value: Value, attention: Attention) -> bool:
        """Whether the keys are computed from a value, or from what it is a part of."""
        while (source := _selected_from(value)) is not None:
            value = source
        key = attention.require(1).producer
        if key is None or value.constant is not None:
            return False
        if value.producer is None:
            return any(value in op.inputs for op in self._ancestors(key))
        return bool(self.above[key] >> self.order[value.producer] & 1)

    def _ancestors(self, op: Op) -> Iterator[Op]:
        return (other for other, place in self.order.items() if self.above[op] >> place & 1)

    # -- the stream ------------------------------------------------------------------------------

    def _previous(self, base: Value, known: dict[Value, Layer]) -> Value | None:
        """The base of the layer before, along the residual stream."""
        seen: set[Value] = {base}
        worklist = [base]
        while worklist:
            op = worklist.pop().producer
            if not isinstance(op, _STREAM):
                continue
            for value in op.inputs if isinstance(op, Elementwise | Put) else op.inputs[:1]:
                if value in known:
                    return value
                if value is not None and value not in seen:
                    seen.add(value)
                    worklist.append(value)
        return None

    def _placed(
        self, one: Layer, before: dict[Value, Value | None], after: dict[Value, Value]
    ) -> Layer:
        """The layer with its place in the stream."""
        assert one.base is not None
        earlier, later = _chain(one.base, before), _chain(one.base, after)
        result = later[0] if later else None
        inside, mixing = self._between(one, result)
        index, depth = len(earlier), len(earlier) + len(later) + 1
        found = replace(one, result=result, index=index, depth=depth)
        return replace(found, inside=inside, mixing=mixing)

    def _between(self, one: Layer, result: Value | None) -> tuple[tuple[Op, ...], Op | None]:
        """The ops from base to result along the tokens, and one that mixes them, if any does."""
        assert one.base is not None
        assert self.classes is not None
        start = -1 if one.base.producer is None else self.order[one.base.producer]
        seen: dict[Op, None] = {one.attention: None}
        worklist = [] if result is None else [(result, TOKENS)]
        worklist += [(one.attention.require(k), 2) for k in range(3)]
        mixing = None
        while worklist:
            value, axis = worklist.pop()
            op = value.producer
            if value is one.base or op is None or op in seen or self.order[op] <= start:
                continue
            seen[op] = None
            pairs = carried(op, op.outputs.index(value), axis)
            if pairs is None or self._attends(op, one):
                mixing = op
            worklist += [(op.require(index), own) for index, own in pairs or ()]
        return tuple(sorted(seen, key=self.order.__getitem__)), mixing

    def _attends(self, op: Op, one: Layer) -> bool:
        """Whether another attention sees the layer's tokens as keys."""
        assert self.classes is not None
        key = self.classes.key(one.attention.require(1), 2)
        return isinstance(op, Attention) and self.classes.key(op.require(1), 2) == key


def _producers(op: Op) -> list[Op]:
    return [v.producer for v in op.inputs if v is not None and v.producer is not None]


def _selected_from(value: Value) -> Value | None:
    """What a value is a selection of tokens from, if it is one."""
    op = value.producer
    if not isinstance(op, Slice | Gather | Take) or op.require(0).constant is not None:
        return None
    axes = op.axes if isinstance(op, Slice) else (op.axis,)
    return op.require(0) if axes == (TOKENS,) else None


def _at_run_time(op: Op) -> bool:
    return isinstance(op, Take) or (isinstance(op, Gather) and op.indices.constant is None)


def _chain(base: Value, step: "dict[Value, Value | None] | dict[Value, Value]") -> list[Value]:
    """Where the steps from a base lead, one after the other."""
    found: list[Value] = []
    current = step.get(base)
    while current is not None:
        found.append(current)
        current = step.get(current)
    return found
