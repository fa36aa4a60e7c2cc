"""The unscheduled form of a large kernel, in an order that takes less time.

As TVM makes it, a matrix product runs its sum innermost, reads one operand across its rows, and
uses one core: about a billion operations a second. Only TVM's own primitives are used here, and
each of them refuses what would change the result, up to the order of a sum.
"""

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tvm

LARGE = 2e7
"""Operations from which on it is worth it."""
REDUCES = 2
"""The iteration type of a block's reduction axis."""


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
    import tvm_ffi
    from tvm import s_tir

    found = [0.0]

    def block(node: Any) -> None:
        if node.iter_vars:
            extents = [getattr(axis.dom.extent, "value", math.inf) for axis in node.iter_vars]
            found.append(math.prod(map(float, extents)))

    tvm_ffi.structural_walk(function.body, (s_tir.SBlock, block))
    return sum(found)


def terms(function: "tvm.tirx.PrimFunc") -> int:
    """How many terms the longest sum of a kernel has; open sizes count as 64."""
    import tvm_ffi
    from tvm import s_tir

    found = [1]

    def block(node: Any) -> None:
        sizes = [
            getattr(axis.dom.extent, "value", 64)
            for axis in node.iter_vars
            if int(axis.iter_type) == REDUCES
        ]
        found.append(math.prod(map(int, sizes)))

    tvm_ffi.structural_walk(function.body, (s_tir.SBlock, block))
    return max(found)
