"""From a captured model to a compiled one on Apache TVM."""

from collections.abc import Callable

import onnx_ir as ir
from torch.export import ExportedProgram

from .backends.compiled import CompiledModel
from .backends.hardware import Hardware
from .backends.target import Target
from .backends.tvm.available import require
from .backends.tvm.machine import Machine, machine_of
from .backends.tvm.model import TvmModel, build_model
from .backends.tvm.session import TvmSession
from .capture import Captured, make_inputs
from .check_model import check_interface
from .execution import lift
from .graph import Graph
from .passes.driver import run_passes
from .passes.registry import resolve
from .pipeline import Job, stage

FORM = ("canonicalize", "merge-linears", "flatten-tokens", "canonicalize", "eliminate-dead-code")
"""What a graph goes through after the passes: matrices instead of batches, wide products."""

Build = Callable[[Graph], TvmModel]


def on_tvm(job: Job, captured: Captured, target: Target, *, verify: bool) -> CompiledModel:
    """Run the passes on the program as it came, and compile what they made.

    Raises:
        BackendUnavailable: TVM is missing or does not fit.
        UnsupportedModel: operators that have no lowering; all of them are named.
        VerificationError: the result disagrees with the original.
    """
    program = captured.program
    if isinstance(program, ir.Model):
        check_interface(program, captured.name)
    inputs = captured.inputs or make_inputs(program)
    with stage(job.report, "passes"):
        graph = formed(job.run(program))
    machine = machine_for(target)
    with stage(job.report, "tvm"):
        model = build_model(graph, machine)
    session = TvmSession(model)
    if verify:
        with stage(job.report, "verify"):
            batches = job.batches(captured, inputs)
            errors = job.checker(program, batches)(session.run_arrays)
            job.accept(program, errors, batches, "on the runtime")
    tell(job, model)
    return CompiledModel(model, captured.signature, job.report, str(target), session=session)


def machine_for(target: Target) -> Machine:
    """The CPU that a target names, as schedules see it."""
    require(target.threads)
    whole = target.resolved(Hardware.detect())
    return machine_of(whole.arch, whole.threads)


def formed(program: ExportedProgram | ir.Model) -> Graph:
    """The lowered program as TVM gets it."""
    graph = lift(program)
    run_passes(graph, resolve(FORM))
    return graph


def tell(job: Job, model: TvmModel) -> None:
    """Put in the report what ran how: kernels by rule, and those that no rule schedules."""
    job.report.chosen = {"backend": "tvm", "kernels": len(model.rules) + len(model.serial)}
    job.report.notes += model.notes
    if model.serial:
        job.report.notes.append(
            f"{len(model.serial)} kernels run on one thread, unscheduled: "
            + ", ".join(sorted(model.serial))
        )
