"""The unscheduled form of a large kernel, in an order that takes less time.

As TVM makes it, a matrix product runs its sum innermost, reads one operand across its rows, and
uses one core: about a billion operations a second. Only TVM's own primitives are used here, and
each of them refuses what would change the result, up to the order of a sum.
"""

import math
from typing import TYPE_CHECKING, Any

from .schedules.expressions import nodes_of
from .schedules.stages import REDUCES

if TYPE_CHECKING:
    import tvm

LARGE = 2e7
"""Operations from which on it is worth it."""


def quicker(function: "tvm.tirx.PrimFunc") -> "tvm.tirx.PrimFunc":
    """The same kernel: sums outside of the last axis, the first axes shared among threads."""
    import tvm
    from tvm import s_tir

    if operations(function) < LARGE:
        return function
    schedule = s_tir.Schedule(tvm.IRModule({"main": function}))
    try:
        blocks = schedule.get_child_blocks(schedule.get_sblock("root"))
        for block in blocks:
            _order(schedule, block)
    except (RuntimeError, ValueError, TypeError):  # what TVM's primitives refuse with
        return function
    return schedule.mod["main"]


def _order(schedule: "tvm.s_tir.Schedule", block: Any) -> None:
    loops = schedule.get_loops(block)
    axes = schedule.get(block).iter_vars
    if len(axes) != len(loops):  # an opaque block, or loops of its own making
        return
    reducing = [
        loop for loop, axis in zip(loops, axes, strict=True) if int(axis.iter_type) == REDUCES
    ]
    spatial = [loop for loop in loops if loop not in reducing]
    if len(spatial) < 2:
        return
    schedule.reorder(*spatial[:-1], *reducing, spatial[-1])
    schedule.parallel(schedule.fuse(*spatial[:-1]) if len(spatial) > 2 else spatial[0])
    if reducing:
        schedule.decompose_reduction(block, reducing[0])


def operations(function: "tvm.tirx.PrimFunc") -> float:
    """About how many arithmetic operations a kernel does; infinite where its size is open."""
    extents = (
        [getattr(axis.dom.extent, "value", math.inf) for axis in axes] for axes in axes_of(function)
    )
    return sum(math.prod(map(float, block)) for block in extents if block)


def terms(function: "tvm.tirx.PrimFunc") -> int:
    """How many terms the longest sum of a kernel has; open sizes count as 64."""
    reduced = (
        [axis.dom.extent for axis in axes if int(axis.iter_type) == REDUCES]
        for axes in axes_of(function)
    )
    sums = (math.prod(int(getattr(e, "value", 64)) for e in extents) for extents in reduced)
    return max(sums, default=1)


def axes_of(function: "tvm.tirx.PrimFunc") -> list[Any]:
    """The axes of each block of a kernel."""
    from tvm import s_tir

    return [block.iter_vars for block in nodes_of(function.body, s_tir.SBlock)]
