"""Rows that lie side by side: a vector holds the same element of neighbouring rows.

So a mean over tokens, or a window of a pooling, adds whole vectors and never adds up the lanes of
one. What is left of the rows is one narrower vector, where their number is known; else single rows.
"""

from collections.abc import Sequence
from typing import Any

from ..machine import Machine
from .expressions import number_of, substituted
from .loops import index, load, sequence, serial, vector
from .row_code import RowCode, lanes_of
from .row_plan import Pass, RowPlan
from .stages import Loop, Stage
from .tasks import extent_of

Expr = Any
Stmt = Any
Var = Any
BLOCK = 4
"""Vectors of rows that go together, so that a line of cache is read whole."""


class LaneCode(RowCode):
    """The code of a block of `width` rows, neighbours along the last loop over rows."""

    def __init__(self, plan: RowPlan, machine: Machine, width: int) -> None:
        super().__init__(plan, machine, trailing=(width,))
        self.width = width

    @property
    def memory(self) -> list[Any]:
        """Buffers that a task needs."""
        return [*self.buffers.values(), *self.scratch.values()]

    def block(self, at: dict[Var, Expr], first: Expr, lanes: int) -> list[Stmt]:
        """Everything that `lanes` rows take, from `first` on along the last loop over rows."""
        statements: list[Stmt] = []
        for part in self.plan.passes:
            for stage in part.stages:
                if stage.reduces:
                    statements.append(self._started(stage, at, first, lanes))
            statements.append(self._nest(part, part.columns, at, first, lanes))
        return statements

    def _nest(
        self, part: Pass, loops: Sequence[Loop], at: dict[Var, Expr], first: Expr, lanes: int
    ) -> Stmt:
        if loops:
            loop, *rest = loops
            return serial(
                index(0),
                loop.extent,
                lambda i: self._nest(part, rest, {**at, loop.var: i}, first, lanes),
            )
        return vector(lanes, lambda v: self._point(part, self._at(at, first, v), v))

    def _at(self, at: dict[Var, Expr], first: Expr, lane: Expr) -> dict[Var, Expr]:
        return {**at, self.plan.rows[-1].var: first + lane}

    def _started(self, stage: Stage, at: dict[Var, Expr], first: Expr, lanes: int) -> Stmt:
        def lane(v: Expr) -> Stmt:
            where = self._at(at, first, v)
            return self.writing(stage, substituted(stage.init, where), where, [v])[0]

        return vector(lanes, lane)

    def _point(self, part: Pass, at: dict[Var, Expr], lane: Expr) -> Stmt:
        bound: dict[Var, Expr] = {}
        statements: list[Stmt] = []
        for stage in part.stages:
            value = self.value(stage, bound, at, [lane])
            if stage.combine is not None:
                both = stage.combine(self._so_far(stage, at, lane), value)
                statements += self.writing(stage, both, at, [lane])
                continue
            named, bound[stage.buffer] = self.named(stage, value, lane, self.width)
            statements += [named, *self.writing(stage, bound[stage.buffer], at, [lane])]
        return sequence(statements)

    def _so_far(self, stage: Stage, at: dict[Var, Expr], lane: Expr) -> Expr:
        memory = self.buffers.get(stage.buffer)
        if memory is not None:
            return load(memory, [lane])
        return load(stage.buffer, [substituted(i, at) for i in stage.indices])


def block_width(plan: RowPlan, machine: Machine) -> int:
    """How many rows go together: whole vectors, fewer where that leaves threads without work."""
    lanes = min(lanes_of(part, machine) for part in plan.passes)
    last = plan.rows[-1].size
    if last is None:
        return lanes * BLOCK
    others = number_of(extent_of(plan.rows[:-1])) or machine.threads
    for width in (lanes * BLOCK, lanes * 2, lanes):
        if last >= width and others * (last // width) >= machine.threads:
            return width
    return lanes if last >= lanes else last
