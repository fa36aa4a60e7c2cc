"""Plan how the neighbours of an affine map can absorb it, so that the map itself disappears.

`push` goes to the readers: with v = a⊙v' + c, every reader of v must take v' instead. `pull` goes
to the producer: v must become a⊙v + c. Both return the edits that do it, in order, or a `Refusal`;
they change nothing. A residual add lets a map through by asking the other operand for its inverse,
which telescopes post-norm scales down a residual stream.
"""

from functools import partial

import numpy as np

from ..graph import Graph, Op, Value
from ..graph.ops import MOVEMENT, Concat, Conv, Elementwise, Linear, MatMul, Reduce
from .affine import Diagonal, as_affine
from .base import Refusal
from .edits import Edit, Plan, columns_edit, ill_conditioned, write_affine
from .movement import concat_spread, onto_result
from .pull import MAX_DEPTH, Change, Puller


class Planner(Puller):
    """One attempt to absorb a map."""

    def push(self, value: Value, diagonal: Diagonal) -> Plan:
        """Let every reader of `value` take v', where value = diagonal(v')."""
        if self.graph.is_output(value):
            return Refusal("the value is a graph output", value.name)
        if value in self.met:
            return Refusal("two paths from the value meet again", value.name)
        if self.depth > MAX_DEPTH:
            return Refusal("the chain of ops is too long for one step", value.name)
        self.met[value] = Change.PUSHED
        self.depth += 1
        plan = self._push_into_readers(value, diagonal)
        self.depth -= 1
        return plan

    def _push_into_readers(self, value: Value, diagonal: Diagonal) -> Plan:
        edits: list[Edit] = []
        for reader, index in list(value.uses):
            plan = self._push_into(reader, index, diagonal)
            if isinstance(plan, Refusal):
                return plan
            edits += plan
        return edits

    def _push_into(self, op: Op, index: int, diagonal: Diagonal) -> Plan:
        match op:
            case Linear() | Conv() if index == 0:
                return columns_edit(op, diagonal)
            case Concat():
                return self._push_concat(op, index, diagonal)
            case Elementwise(fn="add" | "sub" | "mul" | "div" | "neg"):
                return self._push_arithmetic(op, index, diagonal)
            case Elementwise(fn="relu") if not diagonal.shifts and np.all(diagonal.scale >= 0):
                return self.push(op.output, diagonal)
            case MatMul():
                return self._push_matmul(op, index, diagonal)
            case _ if isinstance(op, (*MOVEMENT, Reduce)) and index == 0:
                return self._push_through(op, diagonal)
        if as_affine(op) is not None:
            return self._push_affine(op, diagonal)
        return Refusal("a reader cannot absorb it", op.name, op.kind)

    def _push_through(self, op: Op, diagonal: Diagonal) -> Plan:
        edits: list[Edit] = []
        for result, output in enumerate(op.outputs):
            moved = diagonal.map(partial(onto_result, op, result=result))
            if moved is None:
                return Refusal("the channel axis is mixed with another", op.name, op.kind)
            plan = self.push(output, moved)
            if isinstance(plan, Refusal):
                return plan
            edits += plan
        return edits

    def _push_affine(self, op: Op, diagonal: Diagonal) -> Plan:
        """Carry on past an affine reader; where that fails, stop and merge into it."""
        found = as_affine(op)
        assert found is not None
        x, combined = found[0], diagonal.then(found[1])
        if op.output in self.met:  # its constants are to change, so what was read is out of date
            return Refusal("two paths from the value meet again", op.name, op.kind)
        mark = len(self.met)
        beyond = self.push(op.output, combined)
        if not isinstance(beyond, Refusal):
            return [*beyond, Edit(op, lambda graph: bypass(graph, op, x))]
        self.retreat(mark)
        if combined.cost >= diagonal.cost + found[1].cost or len(combined.axes) > 1:
            return beyond
        self.met[op.output] = Change.PUSHED
        return [Edit(op, lambda graph: write_affine(graph, op, x, combined))]

    def _push_arithmetic(self, op: Elementwise, index: int, diagonal: Diagonal) -> Plan:
        if as_affine(op) is not None:
            return self._push_affine(op, diagonal)
        other = op.require(1 - index) if len(op.inputs) == 2 else None
        if other is None or other in self.met:
            return Refusal("two paths from the value meet again", op.name, op.kind)
        if op.fn in ("mul", "div"):
            if diagonal.shifts or (op.fn == "div" and index == 1):
                return Refusal("a reader cannot absorb it", op.name, op.kind)
            return self._push_wider(op, diagonal)
        return self._push_add(op, index, other, diagonal)

    def _push_wider(self, op: Elementwise, diagonal: Diagonal) -> Plan:
        """To a result whose rank may be larger than the operand's."""
        rank = op.output.rank
        if rank is None:
            return Refusal("a shape is unknown", op.name)
        return self.push(op.output, Diagonal.of(rank, diagonal.scale, diagonal.shift))

    def _push_add(self, op: Elementwise, index: int, other: Value, diagonal: Diagonal) -> Plan:
        """a⊙v' + c ± f = a⊙(v' ± (f ± c)/a): the other operand takes the inverse."""
        if ill_conditioned(diagonal.scale):
            return Refusal("the scale is too small or too large to invert", op.name)
        sign = -1.0 if op.fn == "sub" else 1.0
        flip = sign if index == 0 else 1.0
        inverse = 1.0 / diagonal.scale
        outward = diagonal.without_shift()
        if op.fn == "sub" and index == 1:  # f − (a⊙v' + c)
            undone = Diagonal(inverse, -diagonal.shift * inverse)
        else:
            undone = Diagonal(inverse, flip * diagonal.shift * inverse)
        narrowed = undone.drop_leading(other.rank or 0)
        if narrowed is None or op.output.rank != diagonal.rank:
            return Refusal("the operands of an add have different ranks", op.name)
        mark = len(self.met)
        plan = self.pull(other, narrowed, op)
        if isinstance(plan, Refusal):
            if diagonal.scales:
                return plan
            self.retreat(mark)
            passed = -diagonal.shift if op.fn == "sub" and index == 1 else diagonal.shift
            return self.push(op.output, Diagonal(diagonal.scale, passed))
        beyond = self.push(op.output, outward)
        return beyond if isinstance(beyond, Refusal) else [*plan, *beyond]

    def _push_concat(self, op: Concat, index: int, diagonal: Diagonal) -> Plan:
        """Along the channels: neutral over the others; along another axis they take the inverse."""
        edits: list[Edit] = []
        if op.axis in diagonal.axes:
            spread = diagonal.map(partial(concat_spread, op, index=index))
            if spread is None:
                return Refusal("a symbolic extent is concatenated", op.name)
            return self.push(op.output, spread)
        if ill_conditioned(diagonal.scale):
            return Refusal("the scale is too small or too large to invert", op.name)
        inverse = 1.0 / diagonal.scale
        undone = Diagonal(inverse, -diagonal.shift * inverse)
        for k, other in enumerate(op.inputs):
            if k == index or other is None:
                continue
            plan = self.pull(other, undone, op)
            if isinstance(plan, Refusal):
                return plan
            edits += plan
        beyond = self.push(op.output, diagonal)
        return beyond if isinstance(beyond, Refusal) else [*edits, *beyond]

    def _push_matmul(self, op: MatMul, index: int, diagonal: Diagonal) -> Plan:
        contracted = diagonal.rank - 1 if index == 0 else diagonal.rank - 2
        if any((value.rank or 0) < 2 for value in op.inputs if value is not None):
            return Refusal("a reader cannot absorb it", op.name, op.kind)
        if diagonal.shifts or contracted in diagonal.axes or op.output.rank != diagonal.rank:
            return Refusal("a reader cannot absorb it", op.name, op.kind)
        return self.push(op.output, diagonal)


def bypass(graph: Graph, op: Op, x: Value) -> None:
    """Let the readers of `op` read `x`, and drop it."""
    graph.replace(op.output, x)
    graph.prune(op)
