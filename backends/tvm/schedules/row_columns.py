"""Rows whose elements lie side by side: a vector holds neighbours of one row.

A pass runs over the row in vectors; a sum has several vectors of partial sums, so that one addition
does not wait for the one before, and they are added up at the end of the pass. What is left at the
end of the row is one narrower vector, where the extent is known; else single elements.
"""

from collections.abc import Callable, Sequence
from typing import Any

from ..machine import Machine
from .loops import as_index, index, load, local, sequence, serial, store, vector
from .row_code import RowCode
from .row_plan import Pass, RowPlan
from .segments import segments
from .stages import Loop, Stage, loads_of, number_of, simplified, substituted, uses, with_loads

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
        size = number_of(as_index(inner[-1].extent)) if len(inner) == 1 else _size(inner)
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
            extent = _extent(first)
            return serial(
                index(0),
                extent,
                lambda i: self._nest(part, rest, inner, {**at, **_flat(first, i)}),
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
            lanes, lambda v: self._point(part, {**at, **_flat(inner, position + v)}, v, first)
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
        sums = self.sums[stage.buffer]
        start = neutral(stage)
        return sequence(
            [
                vector(self.lanes(part), lambda v, k=k: store(sums, start, [index(k) + v]))
                for k in range(0, self.partial(part) * self.lanes(part), self.lanes(part))
            ]
        )

    def _added_up(self, part: Pass, stage: Stage) -> list[Stmt]:
        """Combine the partial results into the first of them, half onto half."""
        sums, width, count = self.sums[stage.buffer], self.lanes(part), self.partial(part)

        def onto(offset: int) -> Callable[[Expr], Stmt]:
            def lane(v: Expr) -> Stmt:
                both = stage.combine(load(sums, [v]), load(sums, [v + index(offset)]))  # type: ignore[misc]
                return store(sums, both, [v])

            return lane

        statements = [vector(width, onto(k * width)) for k in range(1, count)]
        half = width // 2
        while half:
            statements.append(vector(half, onto(half)))
            half //= 2
        return statements


def neutral(stage: Stage) -> Expr:
    """What leaves a partial result as it is: 0, 1, or the start of a maximum or minimum."""
    from tvm import tirx

    dtype = str(stage.buffer.dtype)
    if stage.combine is tirx.Add:
        return tirx.const(0, dtype)
    return tirx.const(1, dtype) if stage.combine is tirx.Mul else stage.init


def covered(
    extent: Expr, width: int, unroll: int, point: Callable[[Expr, int, int], Stmt]
) -> list[Stmt]:
    """Statements over [0, extent): `point(position, lanes, slot)`, `unroll` vectors at a time."""
    size = number_of(extent)
    step = width * unroll
    whole, vectors = extent // index(step), extent // index(width)
    wide = [
        serial(
            index(0),
            whole,
            lambda i: sequence(
                [point(i * index(step) + index(k * width), width, k) for k in range(unroll)]
            ),
        )
    ]
    if size is None:
        return [
            *wide,
            serial(whole * index(unroll), vectors, lambda i: point(i * index(width), width, 0)),
            serial(vectors * index(width), extent, lambda i: point(i, 1, 0)),
        ]
    done = size // step * step
    statements = wide if done else []
    for slot, position in enumerate(range(done, size - width + 1, width)):
        statements.append(point(index(position), width, slot))
    rest = size % width
    return [*statements, point(index(size - rest), rest, 0)] if rest else statements


def merged(part: Pass) -> list[list[Loop]]:
    """The columns, in groups that every access sees as one contiguous axis."""
    accesses = [(s.buffer, s.indices) for s in part.stages if not s.reduces]
    accesses += [(x.source, x.indices) for s in part.stages for x in loads_of(s.value)]
    outside = [with_loads(s.value, lambda _: index(0)) for s in part.stages]
    groups = [[part.columns[0]]]
    for before, loop in zip(part.columns, part.columns[1:], strict=False):
        bare = any(uses(value, v.var) for value in outside for v in (before, loop))
        if not bare and all(_contiguous(before, loop, *access) for access in accesses):
            groups[-1].append(loop)
        else:
            groups.append([loop])
    return groups


def _contiguous(outer: Loop, inner: Loop, buffer: Any, indices: Sequence[Expr]) -> bool:
    """Whether an access steps through both loops as through one, or depends on neither."""
    used = [k for k, i in enumerate(indices) if uses(i, outer.var) or uses(i, inner.var)]
    if not used:
        return True
    if len(used) != 2 or used[1] != used[0] + 1:
        return False
    first, second = (indices[k] for k in used)
    extents = (number_of(buffer.shape[used[1]]), inner.size)
    return (
        first.same_as(outer.var)
        and second.same_as(inner.var)
        and extents[0] is not None
        and extents[0] == extents[1]
    )


def _extent(loops: Sequence[Loop]) -> Expr:
    from .tasks import product

    return product([loop.extent for loop in loops])


def _size(loops: Sequence[Loop]) -> int | None:
    return number_of(_extent(loops))


def _flat(loops: Sequence[Loop], position: Expr) -> dict[Var, Expr]:
    """A position along merged loops: they are contiguous, so that the last one may run over."""
    *outer, last = loops
    return {**{loop.var: index(0) for loop in outer}, last.var: position}
