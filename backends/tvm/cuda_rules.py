"""GPU schedules: every kernel of a module gets the first of TVM's dlight rules that takes it.

From the particular to the general: products (tiled in shared memory; float16 ones on the tensor
cores), products with one row, products with a few rows of which the number is known only at run
time, reductions along the last axis, what reduces and then uses the result (softmax, norms),
transposes, and then anything else, one element a thread; what must run in order runs on one thread.
A schedule counts only if TVM can lower it for the GPU and the GPU can launch its kernels; else the
next rule is asked. dlight's RMSNorm is left out: it is for rows of 4096 elements, and
GeneralReduction takes the same kernels.
"""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from ...errors import UnsupportedModel
from .cuda_launch import launches
from .refusals import attempted, last_line
from .schedules import Scheduled

if TYPE_CHECKING:
    import tvm

FEW_ROWS = 8
"""Rows that the rule for a few rows takes at a time."""


def cuda_rules() -> list[Any]:
    """Every rule, in the order in which they are asked."""
    from tvm.s_tir.dlight import gpu

    return [
        gpu.Matmul(),
        gpu.GEMV(),
        gpu.LowBatchGEMV(FEW_ROWS),
        gpu.Reduction(),
        gpu.GeneralReduction(),
        gpu.Transpose(),
        fallback(),
        OneThread(),
    ]


class OneThread:
    """What must run in order (a scatter by rows, say) runs on one thread: slow, but right."""

    def apply(self, function: "tvm.tirx.PrimFunc", *_: Any) -> "tvm.s_tir.Schedule | None":
        """A schedule of a function that is one opaque block; None for any other."""
        from tvm import s_tir

        block = function.body.block
        if _holds_blocks(block):
            return None
        body = block.body
        for axis in ("threadIdx.x", "blockIdx.x"):
            body = _on_axis(axis, body)
        whole = s_tir.SBlock(
            block.iter_vars, block.reads, block.writes, "root", body, None, block.alloc_buffers
        )
        return s_tir.Schedule(function.with_body(s_tir.SBlockRealize([], True, whole)))


def _on_axis(axis: str, body: "tvm.tirx.Stmt") -> "tvm.tirx.For":
    """The body on the only thread, or in the only block, of an axis."""
    from tvm import tirx

    thread = tirx.IterVar(None, axis, tirx.IterVar.ThreadIndex, axis)
    kind = tirx.ForKind.THREAD_BINDING
    return tirx.For(tirx.Var(axis[:6], "int32"), 0, 1, kind, body, thread)


def _holds_blocks(block: "tvm.s_tir.SBlock") -> bool:
    import tvm_ffi
    from tvm import s_tir

    found: list[Any] = []
    tvm_ffi.structural_walk(block.body, (s_tir.SBlock, found.append), order="post")
    return bool(found)


def fallback() -> Any:
    """The rule for anything: one element a thread."""
    from tvm.s_tir.dlight import gpu

    return gpu.Fallback()


def schedule_cuda(
    module: "tvm.IRModule", target: "tvm.target.Target", rules: Sequence[Any] | None = None
) -> Scheduled:
    """Schedule every kernel that no GPU can run as it is; by all rules, unless some are given.

    `serial` of the result names the kernels that no rule could take: a GPU cannot run those.
    """
    import tvm
    from tvm import tirx

    result = Scheduled(tvm.IRModule(dict(module.functions_items()), attrs=module.attrs))
    rules = cuda_rules() if rules is None else rules
    for var, function in list(module.functions_items()):
        if not isinstance(function, tirx.PrimFunc):
            continue
        name = var.name_hint
        if refusal(name, function, target) is None:
            result.rules[name] = "itself"  # launches its own threads
            continue
        for rule in rules:
            ask, kind = partial(applied, rule, name, function, target), type(rule).__name__
            done = attempted(ask, f"{name} ({kind})", result.failed, (Exception,))
            if done is not None:
                result.take(var, kind, done)
                break
        else:
            result.serial.append(name)
    return result


def applied(
    rule: Any, name: str, function: "tvm.tirx.PrimFunc", target: "tvm.target.Target"
) -> "tvm.tirx.PrimFunc | None":
    """The function as one rule schedules it; None where the rule does not take it.

    dlight's rules say no in three ways: nothing, an empty list, or an exception of any kind from
    the middle of a schedule.

    Raises:
        UnsupportedModel: a GPU cannot run what the rule made.
    """
    with target:
        found = rule.apply(function.with_attr("global_symbol", "main"), target, False)
    if isinstance(found, list):
        found = found[0] if found else None
    if found is None:
        return None
    done = found.mod["main"]
    why = refusal(name, done, target)
    if why is not None:
        raise UnsupportedModel(why)
    return done


def refusal(name: str, function: "tvm.tirx.PrimFunc", target: "tvm.target.Target") -> str | None:
    """Why a GPU cannot run a function; None where it can."""
    try:
        found = launches({name: function}, target)
    except Exception as error:  # whatever one of TVM's passes raises
        return last_line(error)
    if not found:
        return "no kernel"
    arch = str(target.attrs["arch"])
    return next((said for launch in found if (said := launch.excess(arch)) is not None), None)
