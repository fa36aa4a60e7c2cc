"""From a captured model to a compiled one on Apache TVM."""

from pathlib import Path

import onnx_ir as ir

from .backends.cache_folder import cache_folder
from .backends.compiled import CompiledModel
from .backends.hardware import Hardware, fingerprint
from .backends.target import Target
from .backends.tvm.available import require
from .backends.tvm.machine import Machine, machine_of
from .backends.tvm.model import TvmModel, build_model
from .backends.tvm.session import TvmSession
from .backends.tvm.tuned import Tuned
from .capture import Captured
from .check_model import check_interface
from .execution import lift
from .graph import Graph
from .passes.driver import run_passes
from .passes.registry import resolve
from .pipeline import Job, stage

FORM = ("canonicalize", "merge-linears", "flatten-tokens", "canonicalize", "eliminate-dead-code")
"""What a graph goes through after the passes: matrices instead of batches, wide products."""


def on_tvm(job: Job, captured: Captured, target: Target, *, verify: bool) -> CompiledModel:
    """Run the passes on the program as it came, and compile what they made.

    Kernels that were tuned on this machine before run as they were found fastest.

    Raises:
        BackendUnavailable: TVM is missing or does not fit.
        UnsupportedModel: operators that have no lowering; all of them are named.
        VerificationError: the result disagrees with the original.
    """
    session = built(job, captured, target)
    if verify:
        inputs = captured.inputs_for(captured.program)
        job.verify(captured, captured.program, inputs, session.run_arrays)
    return CompiledModel(
        session.model, captured.signature, job.report, target.kind, session=session
    )


def built(job: Job, captured: Captured, target: Target, *, tuned: bool = True) -> TvmSession:
    """Run the passes on the program as it came, and load what TVM makes of the result.

    Args:
        tuned: run kernels that were tuned on this machine before as they were found fastest.

    Raises:
        BackendUnavailable, UnsupportedModel: as `on_tvm`.
    """
    machine = machine_for(target)
    graph = formed(job, captured)
    known = Tuned.load(kernel_folder(machine)) if tuned else Tuned()
    with stage(job.report, "tvm"):
        model = build_model(graph, machine, tuned=known if known.winners else None)
        session = TvmSession(model)
    tell(job, model, known)
    return session


def tune_kernels(job: Job, captured: Captured, target: Target, seconds: float) -> None:
    """Find faster schedules for the kernels that `built` would build; they are kept for later.

    Args:
        seconds: budget, compilation included.
    """
    from .backends.tvm.emit import emit
    from .backends.tvm.metaschedule import tune

    machine = machine_for(target)
    emitted = emit(formed(job, captured), machine)
    tune(emitted.module, machine, kernel_folder(machine), seconds)


def kernel_folder(machine: Machine) -> Path:
    """Where schedules are kept that were measured on this kind of machine."""
    name = fingerprint(Hardware.detect(), Target("cpu", arch=machine.mcpu, threads=machine.threads))
    return cache_folder() / "kernels" / name


def machine_for(target: Target) -> Machine:
    """The CPU that a target names, as schedules see it."""
    require(target.threads)
    whole = target.resolved(Hardware.detect())
    return machine_of(whole.arch, whole.threads)


def formed(job: Job, captured: Captured) -> Graph:
    """Run the passes on the program as it came; the result as TVM gets it.

    Raises:
        InvalidModel: an ONNX model has inputs or outputs that are no tensors of numbers.
    """
    program = captured.program
    if isinstance(program, ir.Model):
        check_interface(program, captured.name)
    with stage(job.report, "passes"):
        graph = lift(job.run(program))
        run_passes(graph, resolve(FORM))
    return graph


def tell(job: Job, model: TvmModel, tuned: Tuned) -> None:
    """Put in the report what ran how: kernels by rule, and those that no rule schedules."""
    report = job.report
    measured = sum(rule == "measured" for rule in model.rules.values())
    report.chosen = {"backend": "tvm", "kernels": len(model.rules) + len(model.serial)}
    if measured:
        report.chosen["kernels tuned here"] = measured
    report.notes += [*tuned.notes, *model.notes]
    if model.serial:
        report.notes.append(
            f"{len(model.serial)} kernels run on one thread, unscheduled: "
            + ", ".join(sorted(model.serial))
        )
