"""Plan how a value's producer can absorb an affine map (folding backwards)."""

from dataclasses import dataclass, field

import numpy as np

from ..graph import Graph, Op, Value
from ..graph.ops import (
    MOVEMENT,
    Concat,
    Conv,
    Elementwise,
    Gather,
    Linear,
    MatMul,
    Norm,
    Reduce,
    Slice,
)
from .affine import Diagonal
from .base import Refusal
from .edits import Edit, Plan, constant_edit, gain_edit, rows_edit, table_edit
from .movement import concat_piece, onto_operand


@dataclass
class Puller:
    """The backward half of a `Planner`: a value must become diagonal(value), by its producer.

    Attributes:
        gains: whether a norm's own gain and shift may absorb (worth it only as a last resort).
        met: values that the plan already changes; meeting one again refuses.
    """

    graph: Graph
    gains: bool = False
    met: set[Value] = field(default_factory=set)

    def pull(self, value: Value, diagonal: Diagonal, reader: Op) -> Plan:
        """Let `value`, which only `reader` may read, become diagonal(value)."""
        if not diagonal.shifts and not diagonal.scales:
            return []
        if any(op is not reader for op in value.readers) or self.graph.is_output(value):
            return Refusal("the producer's result has another reader", value.name)
        if len(value.uses) > 1:
            return Refusal("an op reads the value twice", reader.name)
        if value in self.met:
            return Refusal("two paths from the value meet again", value.name)
        if value.constant is None and would_widen(value, diagonal):
            return Refusal("the map would widen a value of extent 1", value.name)
        if value.constant is not None:
            return constant_edit(value, diagonal)
        return self._pull_from(value, diagonal)

    def _pull_from(self, value: Value, diagonal: Diagonal) -> Plan:
        op = value.producer
        match op:
            case None:
                return Refusal("the value is a graph input", value.name)
            case Linear() | Conv():
                return rows_edit(op, diagonal)
            case Norm() if self.gains:
                return gain_edit(op, diagonal)
            case Gather() if op.axis == 0 and op.x.constant is not None:
                return table_edit(op, diagonal)
            case Concat():
                return self._pull_concat(op, diagonal)
            case Elementwise(fn="add" | "sub"):
                return self._pull_add(op, diagonal)
            case Elementwise(fn="mul" | "div"):
                return self._pull_first(op, diagonal, range(1 if op.fn == "div" else 2))
            case Elementwise(fn="relu") if not diagonal.shifts and np.all(diagonal.scale > 0):
                return self.pull(op.require(0), diagonal, op)
            case MatMul():
                return self._pull_matmul(op, diagonal)
            case _ if isinstance(op, (*MOVEMENT, Reduce)):
                return self._pull_through(op, value, diagonal)
        return Refusal("the producer cannot absorb it", op.name, op.kind)

    def _pull_through(self, op: Op, value: Value, diagonal: Diagonal) -> Plan:
        result = op.outputs.index(value)
        moved = diagonal.map(lambda a, n: onto_operand(op, a, n, result))
        if moved is None:
            return Refusal("the channel axis is mixed with another", op.name, op.kind)
        source = op.require(0)
        rivals = [reader for reader in source.readers if reader is not op]
        if not rivals or self.graph.is_output(source) or source.constant is not None:
            return self.pull(source, moved, op)
        if all(_disjoint(op, rival) for rival in rivals):
            return self._pull_from(source, moved)
        return Refusal("the producer's result has another reader", source.name)

    def _pull_concat(self, op: Concat, diagonal: Diagonal) -> Plan:
        edits: list[Edit] = []
        for index, operand in enumerate(op.inputs):
            assert operand is not None
            piece = diagonal.map(lambda a, n, k=index: concat_piece(op, a, k))
            if piece is None:
                return Refusal("a symbolic extent is concatenated", op.name)
            plan = self.pull(operand, piece, op)
            if isinstance(plan, Refusal):
                return plan
            edits += plan
        return edits

    def _pull_add(self, op: Elementwise, diagonal: Diagonal) -> Plan:
        """a⊙(x ± f) + c = (a⊙x + c) ± a⊙f; a lone shift needs only one of the two."""
        left, right = op.require(0), op.require(1)
        if not diagonal.scales:
            first = self._pull_narrow(op, left, diagonal)
            sign = -1.0 if op.fn == "sub" else 1.0
            flipped = Diagonal(diagonal.scale, sign * diagonal.shift)
            second = self._pull_narrow(op, right, flipped)
            return second if isinstance(first, Refusal) else first
        plan = self._pull_narrow(op, left, diagonal)
        rest = self._pull_narrow(op, right, diagonal.without_shift())
        if isinstance(plan, Refusal) or isinstance(rest, Refusal):
            return plan if isinstance(plan, Refusal) else rest
        return [*plan, *rest]

    def _pull_narrow(self, op: Op, operand: Value, diagonal: Diagonal) -> Plan:
        narrowed = diagonal.drop_leading(operand.rank if operand.rank is not None else -1)
        if narrowed is None:
            return Refusal("the operands of an add have different ranks", op.name)
        return self.pull(operand, narrowed, op)

    def _pull_first(self, op: Op, diagonal: Diagonal, choices: range) -> Plan:
        """A scale of a product falls on whichever factor can take it."""
        plan: Plan = Refusal("a shift does not pass a product", op.name, op.kind)
        if diagonal.shifts:
            return plan
        for index in choices:
            plan = self._pull_narrow(op, op.require(index), diagonal)
            if not isinstance(plan, Refusal):
                return plan
        return plan

    def _pull_matmul(self, op: MatMul, diagonal: Diagonal) -> Plan:
        if diagonal.shifts:
            return Refusal("a shift does not pass a product", op.name, op.kind)
        plan: Plan = Refusal("the producer cannot absorb it", op.name, op.kind)
        for index, forbidden in ((0, diagonal.rank - 1), (1, diagonal.rank - 2)):
            if forbidden in diagonal.axes:
                continue
            plan = self._pull_narrow(op, op.require(index), diagonal)
            if not isinstance(plan, Refusal):
                return plan
        return plan


def would_widen(value: Value, diagonal: Diagonal) -> bool:
    """Whether the map varies along an axis where the value has extent 1."""
    shape = value.shape
    return shape is None or any(shape[axis] == 1 for axis in diagonal.axes)


def _disjoint(op: Op, rival: Op) -> bool:
    """Whether two slices of one value share no element."""
    if not (isinstance(op, Slice) and isinstance(rival, Slice)) or op.axes != rival.axes:
        return False
    if len(op.axes) != 1 or op.starts is None or rival.starts is None:
        return False
    extent = (op.require(0).shape or ())[op.axes[0]]
    return isinstance(extent, int) and not set(_window(op, extent)) & set(_window(rival, extent))


def _window(op: Slice, extent: int) -> range:
    assert op.starts and op.ends and op.steps
    return range(*slice(op.starts[0], op.ends[0], op.steps[0]).indices(extent))
