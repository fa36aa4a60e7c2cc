"""A kernel as a list of stages: what each block computes, over which loops.

After TVM's own fusion a kernel is a list of blocks, each a loop nest round one store. A stage is
such a block without its loops: `buffer[indices] = value` for every point of its loops, or, where a
loop reduces, `buffer[indices] = combine(buffer[indices], value)`. Loops of extent 1 are dropped.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from .expressions import loads_of, number_of, same, substituted, uses, with_loads

if TYPE_CHECKING:
    import tvm

Expr = Any
Var = Any
REDUCES = 2
"""The iteration type of a block's reduction axis."""


@dataclass(frozen=True)
class Loop:
    """One loop of a stage, from 0 to `extent`."""

    var: Var
    extent: Expr
    reduces: bool = False

    @property
    def size(self) -> int | None:
        """The extent, where it is a number."""
        return number_of(self.extent)


@dataclass(frozen=True)
class Stage:
    """What one block computes; see the module docstring.

    Attributes:
        buffer: what it writes.
        indices: where, in terms of the spatial loops.
        loops: outermost first.
        value: what it writes, or combines with what is there.
        combine: how, for a stage that reduces: an expression class as `tirx.Add`.
        init: what a reduction starts from.
    """

    buffer: Var
    indices: tuple[Expr, ...]
    loops: tuple[Loop, ...]
    value: Expr
    combine: Callable[[Expr, Expr], Expr] | None = None
    init: Expr = None

    @property
    def reduces(self) -> bool:
        return self.combine is not None


def stages_of(function: "tvm.tirx.PrimFunc", *, ones: bool = False) -> list[Stage] | None:
    """The stages of a kernel in order; None where a block is not of the form described.

    `ones` keeps loops of extent 1.
    """
    from tvm import s_tir, tirx

    root = function.body
    if not isinstance(root, s_tir.SBlockRealize) or root.block.match_buffers:
        return None
    body = root.block.body
    found = [_stage(part, ones) for part in (body if isinstance(body, tirx.SeqStmt) else [body])]
    stages = [stage for stage in found if stage is not None]
    return stages if len(stages) == len(found) else None


def _stage(statement: Any, ones: bool) -> Stage | None:
    from tvm import s_tir, tirx

    loops = []
    while isinstance(statement, tirx.For):
        if statement.kind != tirx.ForKind.SERIAL or number_of(statement.min) != 0:
            return None
        loops.append(statement)
        statement = statement.body
    if not isinstance(statement, s_tir.SBlockRealize) or number_of(statement.predicate) != 1:
        return None
    store = statement.block.body
    if not isinstance(store, tirx.BufferStore) or statement.block.alloc_buffers:
        return None
    return _of_block(loops, statement, store, ones)


def _of_block(loops: list[Any], realize: Any, store: Any, ones: bool) -> Stage | None:
    block = realize.block
    bound = {v.var: value for v, value in zip(block.iter_vars, realize.iter_values, strict=True)}
    reduced = [bound[v.var] for v in block.iter_vars if int(v.iter_type) == REDUCES]
    kept = []
    for loop in loops:
        if number_of(loop.extent) == 1 and not ones:
            bound = {v: substituted(e, {loop.loop_var: loop.min}) for v, e in bound.items()}
        else:
            reduces = any(uses(value, loop.loop_var) for value in reduced)
            kept.append(Loop(loop.loop_var, loop.extent, reduces))
    indices = tuple(substituted(index, bound) for index in store.indices)
    value = substituted(store.value, bound)
    plain = Stage(store.buffer, indices, tuple(kept), value)
    if block.init is None:
        return plain
    stage = _reduction(plain, block.init)
    return stage if stage is None or any(loop.reduces for loop in kept) else _of_one(stage)


def _of_one(stage: Stage) -> Stage:
    """A reduction of one element, whose loop has been dropped."""
    assert stage.combine is not None
    return replace(stage, value=stage.combine(stage.init, stage.value), combine=None, init=None)


def _reduction(stage: Stage, init: Any) -> Stage | None:
    """The stage of a block that combines into what it writes; None for other updates."""
    from tvm import ir, tirx

    value = stage.value
    if type(value) not in (tirx.Add, tirx.Mul, tirx.Max, tirx.Min):
        return None
    if not isinstance(init, tirx.BufferStore):
        return None
    for mine, other in ((value.a, value.b), (value.b, value.a)):
        if (
            isinstance(mine, ir.TensorLoad)
            and mine.source.same_as(stage.buffer)
            and same(mine.indices, stage.indices)
            and not any(load.source.same_as(stage.buffer) for load in loads_of(other))
        ):
            return replace(stage, value=other, combine=type(value), init=init.value)
    return None


def inlined(stages: Sequence[Stage], index: int) -> list[Stage] | None:
    """The stages with one of them computed by its readers; None where it cannot be."""
    victim = stages[index]
    variables = [loop.var for loop in victim.loops]
    if victim.reduces or not _is_plain(victim):
        return None

    def computed(load: Expr) -> Expr:
        if not load.source.same_as(victim.buffer):
            return load
        at = {
            var: load.indices[place]
            for place, var in enumerate(victim.indices)
            if any(var.same_as(v) for v in variables)
        }
        return substituted(victim.value, at)

    rest = [stage for position, stage in enumerate(stages) if position != index]
    return [replace(stage, value=with_loads(stage.value, computed)) for stage in rest]


def _is_plain(stage: Stage) -> bool:
    """Whether each index is 0 or a loop of its own, so that a read says which point it wants."""
    left = [loop.var for loop in stage.loops]
    for index in stage.indices:
        position = next((k for k, var in enumerate(left) if index.same_as(var)), None)
        if position is not None:
            left.pop(position)
        elif number_of(index) != 0:
            return False
    return not left
