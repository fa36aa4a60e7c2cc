"""A GPU schedule as a serial program for the CPU, to compare with the kernel before scheduling.

Before TVM lowers it, a scheduled PrimFunc means the same whether its loops are bound to threads or
run one after the other: data that threads share is complete, in a loop of its own, before another
loop reads it. So the schedule (its tiles, padding, predicates, caches and partial reductions) can
be run, and compared, where there is no GPU. What lowering adds for the GPU (barriers, shuffles) is
not in this form.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tvm


def serial_form(function: "tvm.tirx.PrimFunc") -> "tvm.tirx.PrimFunc | None":
    """The function with every loop serial; None where it holds what only a GPU can do.

    That is a thread axis launched by a statement instead of a loop (TVM's own sort), or an
    instruction of the tensor cores.
    """
    import tvm_ffi
    from tvm import tirx

    if _needs_gpu(function):
        return None

    def serial(loop: "tirx.For") -> "tirx.For":
        if loop.kind == tirx.ForKind.SERIAL and not loop.annotations:
            return loop
        return tirx.For(loop.loop_var, loop.min, loop.extent, tirx.ForKind.SERIAL, loop.body)

    return function.with_body(
        tvm_ffi.structural_map(function.body, (tirx.For, serial), order="post")
    )


def _needs_gpu(function: "tvm.tirx.PrimFunc") -> bool:
    import tvm_ffi
    from tvm import s_tir, tirx

    found = False

    def launch(node: "tirx.AttrStmt") -> None:
        nonlocal found
        found = found or node.attr_key == "thread_extent"

    def block(node: "s_tir.SBlock") -> None:
        nonlocal found
        found = found or any(b.scope().startswith("wmma") for b in node.alloc_buffers)

    tvm_ffi.structural_walk(
        function.body, [(tirx.AttrStmt, launch), (s_tir.SBlock, block)], order="post"
    )
    return found
