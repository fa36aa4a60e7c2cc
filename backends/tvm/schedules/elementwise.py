"""Rule: a kernel without reductions runs in vectors along its last axis, the rest over threads.

Axes that every access steps through as through one are one axis; where that leaves a single axis,
threads get shares of it. Intermediates are variables, unless they are read at another place than
where they are made: those are computed by their readers.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..machine import Machine
from .columns import merged
from .expressions import number_of
from .loops import allocate, index, sequence, serial
from .row_code import lanes_of
from .row_columns import ColumnCode, over_rows
from .row_plan import Pass, RowPlan, aligned, planned
from .stages import Loop, inlined, stages_of
from .tasks import extent_of, shared

if TYPE_CHECKING:
    import tvm

Expr = Any
Stmt = Any


def elementwise(function: "tvm.tirx.PrimFunc", machine: Machine) -> "tvm.s_tir.Schedule | None":
    """Arithmetic, casts, transposes, slices, joins, gathers."""
    from tvm import s_tir

    part = _single_pass(function)
    if part is None:
        return None
    body = written(part, set(function.params), machine)
    return s_tir.Schedule(function.with_body(body))


def _single_pass(function: "tvm.tirx.PrimFunc") -> Pass | None:
    """The kernel as one pass over all of its loops; None where it is not one."""
    stages = stages_of(function)
    outputs = set(function.params)
    while stages and not any(stage.reduces for stage in stages):
        culprit, fitting = aligned(stages, ())
        plan = None if culprit is not None else planned(fitting, (), outputs)
        if plan is not None and len(plan.passes) == 1:
            return plan.passes[0]
        victims = [k for k, stage in enumerate(stages) if stage.buffer not in outputs]
        rest = inlined(stages, victims[-1]) if victims else None
        if rest is None:
            return None
        stages = rest
    return None


def written(part: Pass, outputs: set[Any], machine: Machine) -> Stmt:
    """One pass over all of its columns, over threads; `outputs` has to be stored."""
    if not part.columns:
        return _by_rows(part, (), outputs, machine)
    *outer, inner = merged(part)
    rows = tuple(loop for group in outer for loop in group)
    if rows:
        return _by_rows(Pass(tuple(inner), part.stages), rows, outputs, machine)
    return _flat(part, inner, outputs, machine)


def _by_rows(part: Pass, rows: tuple[Loop, ...], outputs: set[Any], machine: Machine) -> Stmt:
    return over_rows(_plan(part, rows, outputs), machine, extent_of(part.columns))


def _flat(part: Pass, inner: Sequence[Loop], outputs: set[Any], machine: Machine) -> Stmt:
    """All elements in vectors; what is left at the end comes after."""
    plan = _plan(part, (), outputs)
    length = extent_of(inner)
    width = lanes_of(part, machine)

    def share(start: Expr, stop: Expr) -> list[Stmt]:
        code = ColumnCode(plan, machine)
        loop = serial(start, stop, lambda i: code.vector(part, {}, inner, i * index(width), width))
        return [*allocate(code.memory), loop]

    vectors = length // index(width)
    whole = shared(vectors, length, machine.threads, share)
    return sequence([whole, *_rest(part, inner, ColumnCode(plan, machine), length, width)])


def _rest(
    part: Pass, inner: Sequence[Loop], code: ColumnCode, length: Expr, width: int
) -> list[Stmt]:
    size = number_of(length)
    if size is None:
        last = serial(
            length // index(width) * index(width),
            length,
            lambda i: code.vector(part, {}, inner, i, 1),
        )
    elif size % width:
        last = code.vector(part, {}, inner, index(size - size % width), size % width)
    else:
        return []
    return [*allocate(code.memory), last]


def _plan(part: Pass, rows: tuple[Loop, ...], outputs: set[Any]) -> RowPlan:
    intermediates = [stage for stage in part.stages if stage.buffer not in outputs]
    return RowPlan(rows, (part,), {stage.buffer: () for stage in intermediates})
