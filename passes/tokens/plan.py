"""Plan which parts of which values to compute: demand, walked from readers to producers.

A value is computed as the parts that its readers want (`versions`, merged where one part costs less
than two), or whole where something reads all of it or its op cannot compute a part. The walk goes
from the ops where demand begins (`seeds`) in reverse topological order, so that all readers of a
value are known before its producer, and visits only what a part is wanted of.
"""

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

from ...graph import Graph, Op, Value
from ...graph.ops import MOVEMENT, Elementwise, Gather, ShapeOf, Slice, Split, Unbind
from ..axes import carried
from . import demand_attention, demand_moves
from .demand import ALL, UNREAD, Context, Want, Wants, wants
from .off import Off
from .selection import WHOLE, Box, Chosen, merged, same

SELECTING = (Slice, Gather, Split, Unbind)
"""Ops that read a part of their first operand."""

_ = demand_attention, demand_moves  # importing them fills the table of `wanted`


@dataclass(frozen=True)
class Spread:
    """A result that is computed where a choice keeps, and is a copy of an operand elsewhere.

    Attributes:
        box: the part that is computed.
        base: index of the operand that it is a copy of elsewhere.
    """

    box: Box
    base: int


@dataclass
class Plan:
    """What to compute instead of what is there.

    Attributes:
        order: position of every op of the graph.
        versions: by value that was visited, the parts of it to compute.
        reads: by op, result and version, what it reads.
        spreads: by value, how the whole of it is put together.
        blocked: ops that had to stay whole, with the part that was wanted.
    """

    graph: Graph
    context: Context
    order: dict[Op, int]
    versions: dict[Value, list[Box]] = field(default_factory=dict)
    reads: dict[tuple[Op, int], list[tuple[Box, Wants]]] = field(default_factory=dict)
    spreads: dict[Value, Spread] = field(default_factory=dict)
    blocked: list[tuple[Op, Box]] = field(default_factory=list)

    def has_whole(self, value: Value) -> bool:
        """Whether the whole value is still computed."""
        versions = self.versions.get(value)
        return versions is None or any(same(box, WHOLE) for box in versions)

    @cached_property
    def after(self) -> Op | None:
        """The last op that the indices of the enabled choice need."""
        choice = self.context.enabled
        if choice is None:
            return None
        made = [choice, *(part for part, _ in choice.parts if part is not None)]
        needed = [*choice.tops, *(one.indices.producer for one in made)]
        needed += [value.producer for value, _ in choice.joined]
        return max((op for op in needed if op is not None), key=self.order.__getitem__)

    def is_early(self, op: Op) -> bool:
        """Whether the op stands before the indices are known."""
        return (
            self.after is not None and self.order.get(op, len(self.order)) < self.order[self.after]
        )

    @property
    def ops(self) -> list[Op]:
        """The ops visited, in topological order."""
        return sorted({op for op, _ in self.reads}, key=self.order.__getitem__)

    def begins(self, op: Op) -> bool:
        """Whether the op is computed whole, from an operand that no longer is."""
        whole = all(map(self.has_whole, op.outputs))
        return whole and not all(self.has_whole(v) for v in op.inputs if v is not None)

    @property
    def spared(self) -> list[Op]:
        """Ops that compute and of which no result is computed whole any more."""
        return [
            op
            for op in self.ops
            if not isinstance(op, MOVEMENT) and not any(map(self.has_whole, op.outputs))
        ]


def plan(graph: Graph, order: dict[Op, int], seeds: Iterable[Op], context: Context) -> Plan:
    """The demand that begins at the seeds."""
    return _Planner(graph, order, context).run(seeds)


def positions(graph: Graph) -> dict[Op, int]:
    """Where each op stands in the graph."""
    return {op: position for position, op in enumerate(graph.ops)}


class _Planner:
    def __init__(self, graph: Graph, order: dict[Op, int], context: Context) -> None:
        self.plan = Plan(graph, context, order)
        self.context, self.order = context, order
        self.fixed = {*graph.outputs, *graph.pinned}
        self.wanted: dict[tuple[Op, int], list[Want]] = {}
        self.queue: list[int] = []
        self.queued: dict[int, Op] = {}

    def run(self, seeds: Iterable[Op]) -> Plan:
        for op in seeds:
            self._push(op)
        while self.queue:
            self._visit(self.queued.pop(-heapq.heappop(self.queue)))
        return self.plan

    def _push(self, op: Op) -> None:
        place = self.order.get(op)  # what earlier rewrites have made stays as it is
        if place is not None and place not in self.queued:
            self.queued[place] = op
            heapq.heappush(self.queue, -place)

    def _visit(self, op: Op) -> None:
        for result, value in enumerate(op.outputs):
            self._result(op, result, value)
        for index, operand in enumerate(op.inputs):
            partly = any(w.box or not w.read for w in self.wanted.get((op, index), ()))
            if operand is not None and operand.producer is not None and partly:
                self._push(operand.producer)

    def _result(self, op: Op, result: int, value: Value) -> None:
        boxes = self._demanded(value)
        if not boxes:
            return
        if any(same(box, WHOLE) for box in boxes):
            spread = self._spread(op, value)
            if spread is not None and self._spread_out(op, result, value, spread):
                return
        found = [(box, self._reads(op, result, box)) for box in boxes]
        if all(reads is not None for _, reads in found):
            self._record(op, result, value, [(box, reads or []) for box, reads in found])
            return
        self.plan.blocked += [(op, box) for box, reads in found if reads is None]
        reads = self._reads(op, result, WHOLE) or [ALL for _ in op.inputs]
        self._record(op, result, value, [(WHOLE, reads)])

    def _reads(self, op: Op, result: int, box: Box) -> Wants | None:
        fixed = not box and (op.outputs[result] in self.plan.graph.pinned or self.plan.is_early(op))
        if fixed or op.effectful:  # it has to stay as it is, where it is
            return [ALL for _ in op.inputs] if not box else None
        return wants(op, result, box, self.context)

    def _spread_out(self, op: Op, result: int, value: Value, spread: Spread) -> bool:
        part = self._reads(op, result, spread.box)
        if part is None or value in self.plan.graph.pinned:
            return False
        whole = [ALL if k == spread.base else UNREAD for k in range(len(part))]
        self.plan.spreads[value] = spread
        self._record(op, result, value, [(WHOLE, whole), (spread.box, part)])
        return True

    def _record(self, op: Op, result: int, value: Value, found: list[tuple[Box, Wants]]) -> None:
        self.plan.versions[value] = [box for box, _ in found]
        self.plan.reads[op, result] = found
        for _, reads in found:
            for index, want in enumerate(reads):
                self.wanted.setdefault((op, index), []).append(want)

    def _demanded(self, value: Value) -> list[Box]:
        """The parts that the readers of a value want, merged."""
        if value in self.fixed or value.shape is None:
            return [WHOLE]
        boxes: list[Box] = []
        asked: list[ShapeOf] = []
        for reader, index in value.uses:
            if isinstance(reader, ShapeOf):
                asked.append(reader)
                continue
            read = self._reading(reader, index)
            boxes += [want.box for want in read if want.read]
            if any(same(box, WHOLE) for box in boxes):
                return [WHOLE]
        found = merged(boxes, value.shape)
        return found if all(_knows(reader, found) for reader in asked) else [WHOLE]

    def _reading(self, reader: Op, index: int) -> list[Want]:
        found = self.wanted.get((reader, index))
        if found is not None:
            return found
        fixed = reader not in self.order or self.plan.is_early(reader)
        if fixed or not isinstance(reader, SELECTING):
            return [ALL]
        for result, value in enumerate(reader.outputs):
            if value.uses or value in self.fixed:
                reads = self._reads(reader, result, WHOLE) or [ALL for _ in reader.inputs]
                self._record(reader, result, value, [(WHOLE, reads)])
        return self.wanted.get((reader, index), [ALL])

    def _spread(self, op: Op, value: Value) -> Spread | None:
        """A sum with an update that is 0 where the choice drops, or a where on the choice."""
        if not isinstance(op, Elementwise) or self.context.enabled is None or value.shape is None:
            return None
        for axis in range(len(value.shape)):
            for index, own in carried(op, 0, axis) or ():
                off = self.context.masks.get(op.require(index), {}).get(own)
                if off is None or off.choice is not self.context.enabled or off.given is not None:
                    continue
                base = _base(op, index, off)
                box = None if base is None else self._box(op, index, axis, off)
                if box is not None and base is not None and op.require(base).shape == value.shape:
                    return Spread(box, base)
        return None

    def _box(self, op: Op, index: int, axis: int, off: Off) -> Box | None:
        if off.batch is None:
            return {axis: Chosen(off.choice)}
        for candidate in range(op.output.rank or 0):
            if (index, off.batch) in (carried(op, 0, candidate) or ()):
                return {axis: Chosen(off.choice, candidate)}
        return None


def _base(op: Elementwise, index: int, off: Off) -> int | None:
    """The operand that the result is where the mask, or the masked update, is off."""
    if op.fn == "where" and index == 0:
        return 1 if off.off else 2
    if op.fn in ("add", "sub") and off.off == 0.0 and (op.fn == "add" or index == 1):
        return 1 - index
    return None


def _knows(reader: ShapeOf, boxes: list[Box]) -> bool:
    """Whether extents that are asked for can be told without the whole value."""
    shape = reader.require(0).shape or ()
    return all(isinstance(shape[k], int) or not any(k in box for box in boxes) for k in reader.axes)
