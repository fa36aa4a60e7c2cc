"""From Relax to machine code: legalise, fuse, schedule, build."""

from typing import TYPE_CHECKING

from .machine import Machine
from .schedules import Scheduled, schedule

if TYPE_CHECKING:
    import tvm


def fused(module: "tvm.IRModule", machine: Machine) -> "tvm.IRModule":
    """The module with one PrimFunc per group of operators that run as one kernel."""
    import tvm
    from tvm import relax

    from .legalize import CUSTOM

    steps = relax.transform
    with tvm.target.Target(machine.target()):
        return tvm.transform.Sequential(
            [
                steps.DecomposeOpsForInference(),
                steps.CanonicalizeBindings(),
                steps.LegalizeOps(dict(CUSTOM)),
                steps.AnnotateTIROpPattern(),
                steps.FoldConstant(),
                steps.FuseOps(),
                steps.FuseTIR(),
                steps.DeadCodeElimination(),
                steps.BundleModelParams(),
            ]
        )(module)


def build(module: "tvm.IRModule", machine: Machine) -> "tuple[tvm.relax.VMExecutable, Scheduled]":
    """Schedule the kernels of a Relax module and compile it."""
    import tvm

    scheduled = schedule(fused(module, machine), machine)
    executable = tvm.compile(scheduled.module, target=tvm.target.Target(machine.target()))
    return executable, scheduled
