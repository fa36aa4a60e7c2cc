"""Recognise a kernel that is one reduction and then stages over the same elements.

sums[.., m, n] = Σ ..
stage[.., m, n] = f(sums[.., m, n], earlier stages at [.., m, n], other buffers)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .expressions import loads_of, number_of, same
from .stages import Stage, stages_of

if TYPE_CHECKING:
    import tvm


@dataclass(frozen=True)
class Staged:
    """The sums of a product, and what is done to them; see the module docstring.

    Attributes:
        sums: [.., M, N].
        stages: what is done to the sums, in order.
        outputs: those of the sums and the stages' buffers that are parameters of the kernel.
    """

    sums: Any
    stages: tuple[Stage, ...]
    outputs: frozenset[Any]


def staged_of(function: "tvm.tirx.PrimFunc") -> tuple[Stage, Staged] | None:
    """The reduction of a kernel, and the elementwise stages behind it."""
    stages = stages_of(function)
    if not stages:
        return None
    first, *rest = stages
    if not first.reduces or not _is_own_place(first) or not _are_elementwise(first, rest):
        return None
    written = frozenset(stage.buffer for stage in stages)
    return first, Staged(first.buffer, tuple(rest), written & set(function.params))


def _are_elementwise(first: Stage, rest: Sequence[Stage]) -> bool:
    """Whether each stage is about single elements of what the first one makes."""
    known = {first.buffer}
    for stage in rest:
        if stage.reduces or not _is_own_place(stage):
            return False
        if not same(stage.buffer.shape, first.buffer.shape):
            return False
        for load in loads_of(stage.value):
            if load.source in known and not same(load.indices, stage.indices):
                return False
        known.add(stage.buffer)
    return True


def _is_own_place(stage: Stage) -> bool:
    """Whether a stage's spatial loops are the axes of what it writes, in order, and whole."""
    axes = [
        (index, extent)
        for index, extent in zip(stage.indices, stage.buffer.shape, strict=True)
        if not (number_of(index) == 0 and number_of(extent) == 1)
    ]
    loops = [loop for loop in stage.loops if not loop.reduces]
    return len(axes) == len(loops) and all(
        index.same_as(loop.var) and same([extent], [loop.extent])
        for (index, extent), loop in zip(axes, loops, strict=True)
    )
