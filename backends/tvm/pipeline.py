"""From Relax to machine code: legalise, fuse, schedule, build."""

from typing import TYPE_CHECKING

from .machine import Machine
from .schedules import Scheduled, schedule

if TYPE_CHECKING:
    import tvm

    from .tuned import Tuned


def fused(
    module: "tvm.IRModule", target: "tvm.target.Target", *, views: bool = True
) -> "tvm.IRModule":
    """The module with one PrimFunc per group of operators that run as one kernel.

    Args:
        module: as `emit` makes it.
        target: what it is for; sorting and top-k are written for it.
        views: let a reshape that is alone be a view, not a kernel. TVM's own passes for CUDA, which
            follow, do that themselves.
    """
    import tvm
    from tvm import relax

    steps = relax.transform
    as_views = [steps.RewriteDataflowReshape()] if views else []
    with target:
        return tvm.transform.Sequential(
            [
                relax.backend.DispatchSampling(),
                relax.backend.DispatchSortScan(),
                steps.DecomposeOpsForInference(),
                steps.CanonicalizeBindings(),
                steps.LegalizeOps(),
                steps.AnnotateTIROpPattern(),
                steps.FoldConstant(),
                steps.FuseOps(),
                steps.FuseTIR(),
                *as_views,
                steps.DeadCodeElimination(),
                steps.BundleModelParams(),
            ]
        )(module)


def build(
    module: "tvm.IRModule", machine: Machine, *, check: bool = False, tuned: "Tuned | None" = None
) -> "tuple[tvm.relax.VMExecutable, Scheduled]":
    """Schedule the kernels of a Relax module and compile it.

    Args:
        module: `main` and what it calls.
        machine: what to compile for.
        check: compare every scheduled kernel with its unscheduled form, which replaces it where
            they disagree. Needs a CPU that runs the machine's code.
        tuned: schedules that were found by measurement, to use before the rules.
    """
    first = () if tuned is None else (tuned.measured,)
    scheduled = schedule(fused(module, machine.target()), machine, first)
    if check:
        from .checked import checked

        scheduled = checked(scheduled, machine)
    return compiled(scheduled.module, machine), scheduled


def compiled(module: "tvm.IRModule", machine: Machine) -> "tvm.relax.VMExecutable":
    """Machine code of a module whose kernels are as they shall be."""
    import tvm

    target = machine.target()
    return tvm.compile(module, target=target, relax_pipeline=_lowered(target))


def _lowered(target: "tvm.target.Target") -> "tvm.transform.Pass":
    """What is left to do for the VM when kernels are neither to be fused nor recognised again."""
    import tvm
    from tvm import relax

    steps = relax.transform
    sequence = tvm.transform.Sequential(
        [
            steps.ToNonDataflow(),
            steps.RemovePurityChecking(),
            steps.CallTIRRewrite(),
            steps.StaticPlanBlockMemory(),
            steps.LowerAllocTensor(),
            steps.KillAfterLastUse(),
            steps.LowerRuntimeBuiltin(),
            steps.ComputePrimValue(),
            steps.VMShapeLower(),
            steps.AttachGlobalSymbol(),
        ]
    )

    @tvm.transform.module_pass(opt_level=0)
    def lower(module: "tvm.IRModule", _: "tvm.transform.PassContext") -> "tvm.IRModule":
        with target:
            return sequence(module)

    return lower
