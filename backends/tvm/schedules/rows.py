"""Rule: a kernel with reductions runs row by row, in vectors, the rows split over threads.

Where the elements of a row lie side by side, a vector holds neighbours of one row
(`row_columns`); where the rows lie side by side, as in a mean over tokens or in pooling, it holds
the same element of neighbouring rows (`row_lanes`).
"""

from typing import TYPE_CHECKING, Any

from ..machine import Machine
from .elementwise import written
from .expressions import loads_of, number_of, simplified, uses
from .loops import allocate, as_index, index, sequence, serial
from .row_columns import over_rows
from .row_lanes import LaneCode, block_width
from .row_plan import Pass, RowPlan, plan_of
from .stages import Loop, Stage
from .tasks import extent_of, shared, unflattened

if TYPE_CHECKING:
    import tvm

Expr = Any
Stmt = Any


def rows(function: "tvm.tirx.PrimFunc", machine: Machine) -> "tvm.s_tir.Schedule | None":
    """Softmax, norms, means, maxima, pooling."""
    from tvm import s_tir

    plan = plan_of(function)
    if plan is None or is_product(plan):
        return None
    across = _lies_across(plan)
    body = _by_lanes(plan, machine) if across else over_rows(plan, machine, _longest(plan))
    made = [written(Pass(s.loops, (s,)), {s.buffer}, machine) for s in plan.before]
    memory = allocate([stage.buffer for stage in plan.before])
    return s_tir.Schedule(function.with_body(sequence([*memory, *made, body])))


def is_product(plan: RowPlan) -> bool:
    """Whether a reduction is a matrix product: two operands, each without a row that the other has.

    Row by row, such a kernel would read both of them over and over.
    """
    return any(_multiplies(stage, plan) for part in plan.passes for stage in part.stages)


def _multiplies(stage: Stage, plan: RowPlan) -> bool:
    if not stage.reduces:
        return False
    rows = [loop.var for loop in plan.rows]
    along = [loop.var for loop in stage.loops]
    lacking = [
        {k for k, row in enumerate(rows) if not _varies(load, row)}
        for load in loads_of(stage.value)
        if any(_varies(load, column) for column in along)
    ]
    return any(a - b and b - a for a in lacking for b in lacking)


def _varies(load: Expr, var: Any) -> bool:
    return any(uses(index, var) for index in load.indices)


def _lies_across(plan: RowPlan) -> bool:
    """Whether neighbours in memory belong to neighbouring rows, not to one row.

    What the reductions read from outside decides, by the axis that they step through fastest.
    """
    if not plan.rows:
        return False
    row = plan.rows[-1].var
    votes = 0
    for part in plan.passes:
        for stage in part.stages:
            if not stage.reduces:
                continue
            for load in loads_of(stage.value):
                if load.source in plan.kept or not load.indices:
                    continue
                votes += uses(load.indices[-1], row)
                votes -= any(uses(load.indices[-1], loop.var) for loop in _longer(stage, row, load))
    return votes > 0


def _longer(stage: Stage, row: Any, load: Expr) -> tuple[Loop, ...]:
    """The columns that count against the rows: none where a window slides along them."""
    return () if uses(load.indices[-1], row) else stage.loops


def _by_lanes(plan: RowPlan, machine: Machine) -> Stmt:
    width = block_width(plan, machine)
    *outer, last = plan.rows
    extent = as_index(last.extent)
    blocks = simplified((extent + index(width - 1)) // index(width))
    shape = (*outer, Loop(last.var, blocks))
    count = extent_of(shape)

    def share(start: Expr, stop: Expr) -> list[Stmt]:
        code = LaneCode(plan, machine, width)

        def block(i: Expr) -> Stmt:
            at = unflattened(i, shape)
            return _block(code, at, at.pop(last.var) * index(width), extent)

        loop = serial(start, stop, block)
        return [*allocate(code.memory), loop]

    work = count * index(width) * _longest(plan)
    return shared(count, simplified(work), machine.threads, share)


def _block(code: LaneCode, at: dict[Any, Expr], first: Expr, extent: Expr) -> Stmt:
    """A whole block, or what is left of the rows."""
    from tvm import tirx

    size = number_of(extent)
    whole = sequence(code.block(at, first, code.width))
    if size is None:
        single = serial(first, extent, lambda i: sequence(code.block(at, i, 1)))
        return tirx.IfThenElse(first + index(code.width) <= extent, whole, single)
    if size % code.width == 0:
        return whole
    rest = sequence(code.block(at, first, size % code.width))
    return tirx.IfThenElse(first + index(code.width) <= extent, whole, rest)


def _longest(plan: RowPlan) -> Expr:
    """Elements of a row, in the pass that has most; a symbolic pass counts as the longest."""
    sizes = [extent_of(part.columns) for part in plan.passes]
    known = [number_of(size) for size in sizes]
    unknown = [size for size, value in zip(sizes, known, strict=True) if value is None]
    return unknown[0] if unknown else index(max(value for value in known if value is not None))
