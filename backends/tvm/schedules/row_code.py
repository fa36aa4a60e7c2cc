"""What the two ways to run a row plan have in common: where intermediates are, and how they read.

An intermediate is a variable within the pass that makes it; it has memory, for one row, only where
a later pass or another column reads it.
"""

from collections.abc import Sequence
from typing import Any

from ..machine import Machine
from .expressions import loads_of, substituted, with_loads
from .loops import index, load, local, store
from .row_plan import Pass, RowPlan, is_pointwise
from .stages import Stage

Expr = Any
Stmt = Any
Var = Any
WORD = 32
"""Bits that a lane has at least: narrower results are computed in float32 or int32."""


class RowCode:
    """Buffers and reads of one copy of a kernel's code.

    Attributes:
        plan: what to compute.
        machine: what for.
        buffers: memory of intermediates for one row, with the axes that they keep.
        numbers: intermediates of the current row that are one variable.
        scratch: a vector of memory for each stage that needs it; complete once code is made.
    """

    def __init__(self, plan: RowPlan, machine: Machine, trailing: Sequence[Expr] = ()) -> None:
        """Intermediates with memory get the axes `trailing` behind those that they keep."""
        self.plan = plan
        self.machine = machine
        self.escaping = _escaping(plan)
        self.buffers = {
            stage.buffer: local(
                [*(stage.buffer.shape[axis] for axis in plan.kept[stage.buffer]), *trailing],
                stored(stage.buffer),
                "row",
            )
            for part in plan.passes
            for stage in part.stages
            if stage.buffer in plan.kept and self.in_memory(part, stage, bool(trailing))
        }
        self.numbers: dict[Var, Expr] = {}
        self.scratch: dict[Var, Any] = {}

    def in_memory(self, part: Pass, stage: Stage, lanes: bool) -> bool:
        """Whether an intermediate needs memory; single numbers do where a row is a lane."""
        if lanes and (stage.reduces or not part.columns):
            return True
        return bool(self.plan.kept[stage.buffer]) and stage.buffer in self.escaping

    def lanes(self, part: Pass) -> int:
        """Elements that a vector of this pass has."""
        return lanes_of(part, self.machine)

    def value(
        self, stage: Stage, bound: dict[Var, Expr], at: dict[Var, Expr], lane: Sequence[Expr] = ()
    ) -> Expr:
        """What a stage computes at one point; `bound` holds what this point has made already."""

        def read(source: Expr) -> Expr:
            if source.source in bound:
                return bound[source.source]
            return self.reading(source, lane)

        return substituted(with_loads(stage.value, read), at)

    def reading(self, source: Expr, lane: Sequence[Expr] = ()) -> Expr:
        """A load, from where an intermediate is."""
        if source.source in self.numbers:
            return self.numbers[source.source]
        memory = self.buffers.get(source.source)
        if memory is None:
            return source
        return taken(load(memory, self._kept(source.source, source.indices, lane)), source.source)

    def _kept(self, buffer: Var, indices: Sequence[Expr], lane: Sequence[Expr]) -> list[Expr]:
        """Where in an intermediate's memory an element of it is."""
        kept = [indices[axis] for axis in self.plan.kept[buffer]]
        return [*kept, *lane] or [index(0)]

    def named(self, stage: Stage, value: Expr, lane: Expr, width: int) -> tuple[Stmt, Expr]:
        """A statement that gives a value a name in this lane of a vector, and the name.

        The name is memory, which LLVM turns into a register. TVM would copy a variable into all
        that read it, simplify it as if floats were real numbers, and lose it where it gives up a
        vector.
        """
        dtype = stored(stage.buffer)
        memory = self.scratch.setdefault(stage.buffer, local([width], dtype, "scratch"))
        kept = store(memory, value.astype(dtype), [lane])
        return kept, taken(load(memory, [lane]), stage.buffer)

    def writing(
        self, stage: Stage, value: Expr, at: dict[Var, Expr], lane: Sequence[Expr] = ()
    ) -> list[Stmt]:
        """The stores of a stage's value: none, or one."""
        memory = self.buffers.get(stage.buffer)
        if memory is not None:
            kept = self._kept(stage.buffer, stage.indices, lane)
            place = [substituted(i, at) for i in kept]
            return [store(memory, value.astype(stored(stage.buffer)), place)]
        if stage.buffer in self.plan.kept:
            return []
        return [store(stage.buffer, value, [substituted(i, at) for i in stage.indices])]


def lanes_of(part: Pass, machine: Machine) -> int:
    """Elements that a vector of a pass has, by the widest type in it."""
    types = [stage.buffer.dtype for stage in part.stages]
    types += [x.source.dtype for stage in part.stages for x in loads_of(stage.value)]
    return machine.lanes(max([WORD, *(dtype.bits for dtype in map(_type, types))]))


def stored(buffer: Any) -> str:
    """The type that a value of a buffer has in memory of ours: TVM mixes up vectors of bool."""
    dtype = str(buffer.dtype)
    return "int8" if dtype == "bool" else dtype


def taken(value: Expr, buffer: Any) -> Expr:
    """A value from memory of ours in the type of its buffer."""
    from tvm import tirx

    dtype = str(buffer.dtype)
    return tirx.NE(value, tirx.const(0, "int8")) if dtype == "bool" else value


def _type(dtype: Any) -> Any:
    from tvm import ir

    return ir.PrimType(str(dtype)).dtype


def _escaping(plan: RowPlan) -> set[Var]:
    """Intermediates that are read in another pass, or at another point, than they are made."""
    writers = {s.buffer: (k, s) for k, part in enumerate(plan.passes) for s in part.stages}
    found = set()
    for place, part in enumerate(plan.passes):
        for stage in part.stages:
            for source in loads_of(stage.value):
                made, writer = writers.get(source.source, (place, None))
                if writer is None:
                    continue
                if made != place or (writer.loops and not is_pointwise(writer, stage, source)):
                    found.add(source.source)
    return found
