"""Rows whose elements lie side by side: a vector holds neighbours of one row.

A pass runs over the row in vectors; a sum has several vectors of partial sums, so that one addition
does not wait for the one before, and they are added up at the end of the pass. What is left at the
end of the row is one narrower vector, where the extent is known; else single elements.
"""

from collections.abc import Callable, Sequence
from typing import Any

from ..machine import Machine
from .columns import covered, flat, folded, merged
from .expressions import number_of, simplified, substituted
from .loops import allocate, index, load, local, sequence, serial, store, vector
from .row_code import RowCode
from .row_plan import Pass, RowPlan
from .segments import segments
from .stages import Loop, Stage
from .tasks import extent_of, shared, unflattened

Expr = Any
Stmt = Any
Var = Any
PARTIAL = 4
"""Vectors of partial results that a reduction has."""


class ColumnCode(RowCode):
    """The code of one row; `sums` are buffers of partial results, one per reduction."""

    def __init__(self, plan: RowPlan, machine: Machine) -> None:
        super().__init__(plan, machine)
        self.sums: dict[Var, Any] = {}
        for part in plan.passes:
            for stage in part.stages:
                if stage.reduces:
                    shape = [self.partial(part) * self.lanes(part)]
                    self.sums[stage.buffer] = local(shape, str(stage.buffer.dtype), "partial")

    @property
    def memory(self) -> list[Any]:
        """Buffers that a task needs."""
        return [*self.buffers.values(), *self.sums.values(), *self.scratch.values()]

    def partial(self, part: Pass) -> int:
        """Vectors of partial results, as many as a row can fill."""
        if not any(stage.reduces for stage in part.stages):
            return 1
        inner = merged(part)[-1]
        size = number_of(extent_of(inner))
        return PARTIAL if size is None else max(1, min(PARTIAL, size // self.lanes(part)))

    def row(self, at: dict[Var, Expr]) -> Stmt:
        """Everything that one row takes."""
        self.numbers = {}
        statements: list[Stmt] = []
        for part in self.plan.passes:
            statements += self._columns(part, at) if part.columns else self._numbers(part, at)
        return sequence(statements)

    def _numbers(self, part: Pass, at: dict[Var, Expr]) -> list[Stmt]:
        statements: list[Stmt] = []
        for stage in part.stages:
            statements += self._named(stage, self.value(stage, {}, at), at)
        return statements

    def _named(self, stage: Stage, value: Expr, at: dict[Var, Expr]) -> list[Stmt]:
        """Give one number of the row a name, and store it where it is a result."""
        named, name = self.named(stage, value, index(0), 1)
        self.numbers[stage.buffer] = name
        return [named, *self.writing(stage, name, at)]

    def _columns(self, part: Pass, at: dict[Var, Expr]) -> list[Stmt]:
        *outer, inner = merged(part)
        sums = [stage for stage in part.stages if stage.reduces]
        statements = [self._cleared(part, stage) for stage in sums]
        statements.append(self._nest(part, outer, inner, at))
        for stage in sums:
            total = self._added_up(part, stage)
            statements += total
            start = substituted(stage.init, at)
            whole = stage.combine(start, load(self.sums[stage.buffer], [index(0)]))  # type: ignore[misc]
            statements += self._named(stage, whole, at)
        return statements

    def _nest(
        self, part: Pass, outer: Sequence[Sequence[Loop]], inner: Sequence[Loop], at: dict
    ) -> Stmt:
        if outer:
            first, *rest = outer
            extent = extent_of(first)
            return serial(
                index(0),
                extent,
                lambda i: self._nest(part, rest, inner, {**at, **flat(first, i)}),
            )
        statements: list[Stmt] = []
        for start, stop, segment in segments(part, inner):
            statements += self._stretch(segment, inner, at, start, stop)
        return sequence(statements)

    def _stretch(
        self, part: Pass, inner: Sequence[Loop], at: dict[Var, Expr], start: Expr, stop: Expr
    ) -> list[Stmt]:
        """A part of a row, in vectors."""
        return covered(
            simplified(stop - start),
            self.lanes(part),
            self.partial(part),
            lambda position, lanes, slot: self.vector(
                part, at, inner, start + position, lanes, slot
            ),
        )

    def vector(
        self,
        part: Pass,
        at: dict[Var, Expr],
        inner: Sequence[Loop],
        position: Expr,
        lanes: int,
        slot: int = 0,
    ) -> Stmt:
        """One vector of a pass, from this position of the merged columns `inner`."""
        first = slot * self.lanes(part)
        return vector(
            lanes, lambda v: self._point(part, {**at, **flat(inner, position + v)}, v, first)
        )

    def _point(self, part: Pass, at: dict[Var, Expr], lane: Expr, slot: int) -> Stmt:
        bound: dict[Var, Expr] = {}
        statements: list[Stmt] = []
        for stage in part.stages:
            value = self.value(stage, bound, at)
            if stage.combine is not None:
                sums, place = self.sums[stage.buffer], [index(slot) + lane]
                statements.append(store(sums, stage.combine(load(sums, place), value), place))
                continue
            named, bound[stage.buffer] = self.named(stage, value, lane, self.lanes(part))
            statements += [named, *self.writing(stage, bound[stage.buffer], at)]
        return sequence(statements)

    def _cleared(self, part: Pass, stage: Stage) -> Stmt:
        sums, start, width = self.sums[stage.buffer], neutral(stage), self.lanes(part)

        def block(position: int) -> Stmt:
            return vector(width, lambda v: store(sums, start, [index(position) + v]))

        return sequence([block(k * width) for k in range(self.partial(part))])

    def _added_up(self, part: Pass, stage: Stage) -> list[Stmt]:
        """Combine the partial results into the first of them, half onto half."""
        sums, width, count = self.sums[stage.buffer], self.lanes(part), self.partial(part)

        def onto(offset: int) -> Callable[[Expr], Stmt]:
            def lane(v: Expr) -> Stmt:
                both = stage.combine(load(sums, [v]), load(sums, [v + index(offset)]))  # type: ignore[misc]
                return store(sums, both, [v])

            return lane

        onto_first = [vector(width, onto(k * width)) for k in range(1, count)]
        return [*onto_first, *folded(sums, width, stage.combine)]  # type: ignore[arg-type]


def over_rows(plan: RowPlan, machine: Machine, length: Expr) -> Stmt:
    """Every row of a plan, over threads; a row has `length` elements."""
    count = extent_of(plan.rows)

    def share(start: Expr, stop: Expr) -> list[Stmt]:
        code = ColumnCode(plan, machine)
        loop = serial(start, stop, lambda i: code.row(unflattened(i, plan.rows)))
        return [*allocate(code.memory), loop]

    return shared(count, simplified(count * length), machine.threads, share)


def neutral(stage: Stage) -> Expr:
    """What leaves a partial result as it is: 0, 1, or the start of a maximum or minimum."""
    from tvm import tirx

    dtype = str(stage.buffer.dtype)
    if stage.combine is tirx.Add:
        return tirx.const(0, dtype)
    return tirx.const(1, dtype) if stage.combine is tirx.Mul else stage.init
