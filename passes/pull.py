"""Plan how a value's producer can absorb an affine map (folding backwards)."""

from dataclasses import dataclass, field
from enum import Enum
from functools import partial

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

MAX_DEPTH = 150
"""Values that one plan may pass in a row; a longer stream is telescoped in several steps."""


class Change(Enum):
    """What a plan does to a value: its readers take another one, or its producer makes another."""

    PUSHED = 1
    PULLED = 2


@dataclass
class Puller:
    """The backward half of a `Planner`: a value must become diagonal(value), by its producer.

    Attributes:
        gains: whether a norm's own gain and shift may absorb (worth it only as a last resort).
        met: what the plan already does to each value, in order; `retreat` forgets the latest.
        depth: how many values the plan has passed in a row.
    """

    graph: Graph
    gains: bool = False
    met: dict[Value, Change] = field(default_factory=dict)
    depth: int = 0

    def pull(self, value: Value, diagonal: Diagonal, reader: Op) -> Plan:
        """Let `value`, which only `reader` may read, become diagonal(value)."""
        if not diagonal.shifts and not diagonal.scales:
            return []
        if any(op is not reader for op in value.readers) or self.graph.is_output(value):
            return Refusal("the producer's result has another reader", value.name)
        if len(value.uses) > 1:
            return Refusal("an op reads the value twice", reader.name)
        if value.constant is not None:
            return constant_edit(value, diagonal)
        return self._pull_computed(value, diagonal)

    def retreat(self, mark: int) -> None:
        """Forget every change after the first `mark`: the attempt that made them failed."""
        while len(self.met) > mark:
            self.met.popitem()

    def _pull_computed(self, value: Value, diagonal: Diagonal) -> Plan:
        if self.met.get(value) is Change.PUSHED:
            return Refusal("two paths from the value meet again", value.name)
        if would_widen(value, diagonal):
            return Refusal("the map would widen a value of extent 1", value.name)
        if self.depth > MAX_DEPTH:
            return Refusal("the chain of ops is too long for one step", value.name)
        self.met.setdefault(value, Change.PULLED)
        self.depth += 1
        plan = self._pull_from(value, diagonal)
        self.depth -= 1
        return plan

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
            case Elementwise(fn="relu") if not diagonal.shifts and np.all(diagonal.scale >= 0):
                return self.pull(op.require(0), diagonal, op)
            case MatMul():
                return self._pull_matmul(op, diagonal)
            case _ if isinstance(op, (*MOVEMENT, Reduce)):
                return self._pull_through(op, value, diagonal)
        return Refusal("the producer cannot absorb it", op.name, op.kind)

    def _pull_through(self, op: Op, value: Value, diagonal: Diagonal) -> Plan:
        result = op.outputs.index(value)
        moved = diagonal.map(partial(onto_operand, op, result=result))
        if moved is None:
            return Refusal("the channel axis is mixed with another", op.name, op.kind)
        source = op.require(0)
        rivals = [reader for reader in source.readers if reader is not op]
        if not rivals or self.graph.is_output(source) or source.constant is not None:
            return self.pull(source, moved, op)
        if all(_disjoint(op, rival) for rival in rivals):
            return self._pull_computed(source, moved)
        return Refusal("the producer's result has another reader", source.name)

    def _pull_concat(self, op: Concat, diagonal: Diagonal) -> Plan:
        edits: list[Edit] = []
        for index, operand in enumerate(op.inputs):
            assert operand is not None
            piece = diagonal.map(partial(concat_piece, op, index=index))
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
            mark = len(self.met)
            first = self._pull_narrow(op, left, diagonal)
            if not isinstance(first, Refusal):
                return first
            self.retreat(mark)
            sign = -1.0 if op.fn == "sub" else 1.0
            flipped = Diagonal(diagonal.scale, sign * diagonal.shift)
            return self._pull_narrow(op, right, flipped)
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
        mark = len(self.met)
        for index in choices:
            plan = self._pull_narrow(op, op.require(index), diagonal)
            if not isinstance(plan, Refusal):
                return plan
            self.retreat(mark)
        return plan

    def _pull_matmul(self, op: MatMul, diagonal: Diagonal) -> Plan:
        if diagonal.shifts:
            return Refusal("a shift does not pass a product", op.name, op.kind)
        plan: Plan = Refusal("the producer cannot absorb it", op.name, op.kind)
        if any((value.rank or 0) < 2 for value in op.inputs if value is not None):
            return plan  # a product with a vector has axes of its own
        mark = len(self.met)
        for index, forbidden in ((0, diagonal.rank - 1), (1, diagonal.rank - 2)):
            if forbidden in diagonal.axes:
                continue
            plan = self._pull_narrow(op, op.require(index), diagonal)
            if not isinstance(plan, Refusal):
                return plan
            self.retreat(mark)
        return plan


def would_widen(value: Value, diagonal: Diagonal) -> bool:
    """Whether the map varies along an axis where the value has extent 1."""
    shape = value.shape
    return shape is None or any(shape[axis] == 1 for axis in diagonal.axes)


def _disjoint(op: Op, rival: Op) -> bool:
    """Whether two slices or selected entries of one value share no element."""
    if isinstance(op, Gather) and isinstance(rival, Gather):
        first, second = _entry(op), _entry(rival)
        return op.axis == rival.axis and None not in (first, second) and first != second
    if not (isinstance(op, Slice) and isinstance(rival, Slice)) or op.axes != rival.axes:
        return False
    if len(op.axes) != 1 or op.starts is None or rival.starts is None:
        return False
    extent = (op.require(0).shape or ())[op.axes[0]]
    return isinstance(extent, int) and not set(_window(op, extent)) & set(_window(rival, extent))


def _entry(op: Gather) -> int | None:
    """The one position that a Gather selects, from the front; None if it is another kind."""
    extent = None if op.x.shape is None else op.x.shape[op.axis]
    if op.indices.constant is None or op.indices.rank != 0 or not isinstance(extent, int):
        return None
    return int(op.indices.array()) % extent


def _window(op: Slice, extent: int) -> range:
    assert op.starts is not None
    assert op.ends is not None
    assert op.steps is not None
    return range(*slice(op.starts[0], op.ends[0], op.steps[0]).indices(extent))
