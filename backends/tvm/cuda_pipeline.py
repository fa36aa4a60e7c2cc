"""From Relax to a library with CUDA source: legalise, fuse, schedule, build."""

from typing import TYPE_CHECKING

from ...errors import UnsupportedModel
from .cuda_checked import checked_for_cuda
from .cuda_rules import schedule_cuda
from .pipeline import fused
from .schedules import Scheduled

if TYPE_CHECKING:
    import tvm


def build_for_cuda(
    module: "tvm.IRModule",
    target: "tvm.target.Target",
    *,
    cuda_graph: bool = False,
    check: bool = False,
) -> "tuple[tvm.relax.VMExecutable, Scheduled]":
    """Schedule the kernels of a Relax module for a GPU and compile it.

    Args:
        module: `main` and what it calls.
        target: what to compile for.
        cuda_graph: record the kernels in a CUDA graph on the first call, and replay it.
        check: compare the schedule of every kernel with its unscheduled form, on this CPU.

    Raises:
        UnsupportedModel: kernels that no rule can schedule; it names them all.
    """
    import tvm

    scheduled = schedule_cuda(fused(module, target, views=False), target)
    if scheduled.serial:
        raise UnsupportedModel(
            f"TVM: no GPU schedule for {', '.join(map(repr, sorted(scheduled.serial)))}"
        )
    if check:
        scheduled = checked_for_cuda(scheduled, target)
    options = {"relax.backend.use_cuda_graph": cuda_graph}
    with tvm.transform.PassContext(opt_level=3, config=options):
        executable = tvm.compile(scheduled.module, target, relax_pipeline=_finish(target))
    return executable, scheduled


def _finish(target: "tvm.target.Target") -> "tvm.transform.Pass":
    """What is left of TVM's pipeline for CUDA: it would fuse and schedule again."""
    import tvm
    from tvm.relax.backend.cuda import pipeline

    return tvm.transform.Sequential(
        [*pipeline.dataflow_lower_passes(target), *pipeline.finalize_passes(target)]
    )
