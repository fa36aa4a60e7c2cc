"""How a kernel with reductions runs row by row: which loops are rows, and what one pass computes.

The rows are the loops that every stage has in common, as many as a reduction leaves. Everything
else happens within one row, so that a softmax or a norm reads a row from memory once and finds it
in cache from then on, and intermediates never leave the row. Stages over the same columns share a
pass over the row where their dependences allow it: softmax is max; exp and its sum; divide.

Legality: each intermediate is read only at the row at which it was written. A stage that breaks
this, or does not run over the rows, is computed by its readers instead; or, if it chooses by
position, as padding does, once for all rows before the first. Where neither is possible there is
no plan.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from .expressions import calls, loads_of, same, substituted, uses
from .stages import Loop, Stage, inlined, stages_of

if TYPE_CHECKING:
    import tvm

Var = Any


@dataclass(frozen=True)
class Pass:
    """One run over a row.

    Attributes:
        columns: its loops; none where the stages make one number per row.
        stages: in order; their loops are `columns`.
    """

    columns: tuple[Loop, ...]
    stages: tuple[Stage, ...]


@dataclass(frozen=True)
class RowPlan:
    """A kernel row by row.

    Attributes:
        rows: the loops over rows, all of them independent.
        passes: in order.
        kept: intermediates that live for a row, with the axes that they keep.
        before: stages that are computed whole before the first row.
    """

    rows: tuple[Loop, ...]
    passes: tuple[Pass, ...]
    kept: dict[Var, tuple[int, ...]]
    before: tuple[Stage, ...] = ()


def plan_of(function: "tvm.tirx.PrimFunc") -> RowPlan | None:
    """The plan of a kernel; None where it has no reduction, or does not run by rows."""
    stages = stages_of(function)
    reductions = [stage for stage in stages or [] if stage.reduces]
    if not stages or not reductions:
        return None
    rows = _rows(reductions)
    outputs = set(function.params)
    before: list[Stage] = []
    while rows is not None:
        culprit, fitting = aligned(stages, rows)
        if culprit is None:
            return replace(planned(fitting, rows, outputs), before=tuple(before))
        if stages[culprit].buffer in outputs:
            return None
        if _chooses(stages[culprit], stages):
            before.append(stages.pop(culprit))
            outputs.add(before[-1].buffer)
            continue
        rest = inlined(stages, culprit)
        if rest is None:
            return None
        stages = rest
    return None


def _chooses(stage: Stage, stages: Sequence[Stage]) -> bool:
    """Whether a stage of what comes from outside is one value or another by position."""
    made = {other.buffer for other in stages}
    if stage.reduces or any(load.source in made for load in loads_of(stage.value)):
        return False
    return calls(stage.value, "prim.if_then_else")


def _rows(reductions: Sequence[Stage]) -> tuple[Loop, ...] | None:
    """The loops that the reductions keep; None where they differ."""
    kept = [tuple(loop for loop in s.loops if not loop.reduces) for s in reductions]
    rows = kept[0]
    for stage, loops in zip(reductions, kept, strict=True):
        if stage.loops[: len(loops)] != loops or not _extend(loops, rows):
            return None
        if len(loops) != len(rows):
            return None
    return rows


def _extend(loops: Sequence[Loop], rows: Sequence[Loop]) -> bool:
    """Whether loops begin with these rows, by extents."""
    leading = loops[: len(rows)]
    return same([loop.extent for loop in leading], [loop.extent for loop in rows])


def aligned(stages: Sequence[Stage], rows: Sequence[Loop]) -> tuple[int | None, list[Stage]]:
    """Stages with the loops over rows replaced by `rows`; or the first stage that has to go."""
    done: list[Stage] = []
    for position, original in enumerate(stages):
        stage = _rows_first(original, rows, done)
        spatial = [loop for loop in stage.loops if not loop.reduces]
        if not _extend(spatial, rows):
            return position, []
        done.append(_on_rows(stage, rows, done))
        writers = {s.buffer: k for k, s in enumerate(done[:-1])}
        for load in loads_of(done[-1].value):
            writer = writers.get(load.source)
            if writer is not None and not _within_row(done[writer], load, rows):
                return writer, []
    return None, done


def _rows_first(stage: Stage, rows: Sequence[Loop], before: Sequence[Stage]) -> Stage:
    """The stage with its loops over rows in front, where what it reads tells which ones they are.

    After a softmax over the second of three axes, say, the rows are the first and the last loop.
    """
    writers = {s.buffer: s for s in before}
    for load in loads_of(stage.value):
        writer = writers.get(load.source)
        if writer is None:
            continue
        found = [_loop_at(stage, writer, load, row) for row in rows]
        chosen = [loop for loop in found if loop is not None]
        if chosen and len(chosen) == len(rows) and _distinct(chosen):
            rest = [loop for loop in stage.loops if not any(loop is c for c in chosen)]
            return replace(stage, loops=(*chosen, *rest))
    return stage


def _loop_at(stage: Stage, writer: Stage, load: Any, row: Loop) -> Loop | None:
    """The loop of a stage that a load has where the writer has a row."""
    for written, read in zip(writer.indices, load.indices, strict=True):
        if written.same_as(row.var):
            return next((loop for loop in stage.loops if read.same_as(loop.var)), None)
    return None


def _distinct(loops: Sequence[Loop]) -> bool:
    return len({loop.var for loop in loops}) == len(loops)


def _on_rows(stage: Stage, rows: Sequence[Loop], before: Sequence[Stage]) -> Stage:
    """The stage over `rows`, and over the columns of an earlier stage that has the same ones."""
    loops = stage.loops[len(rows) :]
    twins = (s.loops for s in before)
    columns = next((c for c in twins if _extend(c, loops) and len(c) == len(loops)), loops)
    shared = (*rows, *columns)
    renamed = {old.var: new.var for old, new in zip(stage.loops, shared, strict=True)}
    return replace(
        stage,
        indices=tuple(substituted(index, renamed) for index in stage.indices),
        loops=columns,
        value=substituted(stage.value, renamed),
    )


def _within_row(writer: Stage, load: Any, rows: Sequence[Loop]) -> bool:
    """Whether a load wants the row that the writer is at."""
    for written, read in zip(writer.indices, load.indices, strict=True):
        by_row = any(uses(written, row.var) for row in rows)
        if by_row and not same([written], [read]):
            return False
        if by_row and any(uses(written, loop.var) for loop in writer.loops):
            return False
    return True


def planned(stages: Sequence[Stage], rows: tuple[Loop, ...], outputs: set[Var]) -> RowPlan:
    """Passes over stages that run by these rows: as few as their dependences allow."""
    levels = _levels(stages)
    groups: dict[tuple[int, tuple[Var, ...]], list[int]] = {}
    for position, stage in enumerate(stages):
        key = (levels[position], tuple(loop.var for loop in stage.loops))
        groups.setdefault(key, []).append(position)
    ordered = sorted(groups, key=lambda key: (key[0], bool(key[1]), groups[key][0]))
    kept = {
        stage.buffer: _kept_axes(stage, rows) for stage in stages if stage.buffer not in outputs
    }
    together = [tuple(stages[position] for position in groups[key]) for key in ordered]
    return RowPlan(rows, tuple(Pass(some[0].loops, some) for some in together), kept)


def _levels(stages: Sequence[Stage]) -> list[int]:
    """The earliest pass that each stage can be in; within a level, single numbers come first."""
    levels: list[int] = []
    writers: dict[Var, int] = {}
    for position, stage in enumerate(stages):
        level = 0
        for load in loads_of(stage.value):
            writer = writers.get(load.source)
            if writer is not None:
                level = max(level, levels[writer] + _wait(stages[writer], stage, load))
        levels.append(level)
        writers[stage.buffer] = position
    return levels


def _wait(writer: Stage, reader: Stage, load: Any) -> int:
    """How many passes a reader has to be behind what it reads."""
    if not writer.loops:
        return 0
    return 0 if is_pointwise(writer, reader, load) else 1


def is_pointwise(writer: Stage, reader: Stage, load: Any) -> bool:
    """Whether a load wants what the writer makes at the very point where the reader is."""
    return (
        not writer.reduces and writer.loops == reader.loops and same(writer.indices, load.indices)
    )


def _kept_axes(stage: Stage, rows: Sequence[Loop]) -> tuple[int, ...]:
    """The axes of a buffer that vary within a row."""
    return tuple(
        axis
        for axis, written in enumerate(stage.indices)
        if any(uses(written, loop.var) for loop in stage.loops)
    )
