"""From a captured model to a compiled one, on either runtime; verified there if asked."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir
import torch
from torch.export import ExportedProgram

from .backends.cache_folder import has_database
from .backends.choices import SessionChoice
from .backends.compiled import CompiledModel
from .backends.eager import EagerSession
from .backends.kept_forms import KeptForm
from .backends.measure import interleaved, medians
from .backends.onnxruntime import Session
from .backends.product_times import time_products
from .backends.select import Candidate, select
from .backends.target import Target
from .capture import Captured
from .check_model import check_interface
from .errors import (
    ExportError,
    InvalidInput,
    InvalidModel,
    PasselError,
    UnsupportedModel,
    VerificationError,
)
from .execution import lift
from .lower_cuda import on_cuda
from .lower_tvm import on_tvm
from .onnx_form import as_onnx
from .passes import Quantize
from .passes.quantization.candidates import is_quantized
from .passes.registry import DEFAULT
from .pipeline import Job, stage
from .planned import planned_model

COMPARE_SECONDS = 0.6
"""Time given to each of the quantized model and its float twin."""


@dataclass(frozen=True)
class Lowering:
    """What was asked for: see `compiler.compile`."""

    backend: str
    target: Target
    measure: bool
    verify: bool


def lower(job: Job, captured: Captured, asked: Lowering) -> CompiledModel:
    """The model on the backend asked for, or for "auto" on one that has the kernels.

    Raises:
        UnsupportedModel: ONNX Runtime lacks a kernel, and torch was not allowed or cannot help.
        VerificationError: every lowering disagrees with the original.
    """
    if asked.backend == "tvm":
        on = on_tvm if asked.target.kind == "cpu" else on_cuda
        aim = replace(asked.target, threads=job.threads)
        return on(job, captured, aim, verify=asked.verify)
    if asked.backend == "torch":
        return on_torch(job, captured, verify=asked.verify)
    try:
        return on_onnxruntime(job, captured, asked)
    except UnsupportedModel as error:
        if isinstance(captured.program, ir.Model):
            return as_given(job, captured, asked, error)
        if asked.backend != "auto" or asked.target.kind != "cpu":
            raise
        why = str(error)
    except ExportError as error:
        # torch.onnx translates some quantized operators only: not those by groups, nor dynamic ones
        quantized = captured.is_torch and is_quantized(lift(captured.program))
        if asked.backend != "auto" or asked.target.kind != "cpu" or not quantized:
            raise
        why = str(error)
    except VerificationError as error:
        if error.guilty is not None or asked.backend != "auto" or not captured.is_torch:
            raise
        why = f"output {error.output!r} is off by {error.error:.3g} there"
    job.report.notes.append(f"runs on torch instead of ONNX Runtime: {why}")
    return on_torch(job, captured, verify=asked.verify)


def on_onnxruntime(job: Job, captured: Captured, asked: Lowering) -> CompiledModel:
    """Run the passes on the ONNX form and take the fastest correct lowering."""
    original = as_onnx(job, captured)
    check_interface(original, captured.name)
    inputs = captured.inputs_for(original)
    known = tuned(job, captured, original, inputs, asked)
    if known is not None:
        return known
    choice = SessionChoice(threads=job.threads)
    if asked.measure:
        offer_times(job, asked.target.kind, choice)
    with stage(job.report, "passes"):
        lowered = job.run(original)
    with stage(job.report, "reference"):
        batches = job.batches(captured, inputs) if asked.verify else []
    with stage(job.report, "lower"):
        check = job.checker(original, batches) if asked.verify else None
        kept = None
        if asked.measure:
            kept = KeptForm(lift(lowered), inputs, asked.target, job.threads)
        selection = select(
            lowered,
            inputs,
            asked.target.kind,
            choice,
            measure=asked.measure,
            check=check,
            kept=kept,
        )
    if asked.verify:
        job.accept(original, selection.errors, batches, "on the runtime")
    winner = selection.winner
    assert winner is not None  # else the errors are too large, which has been raised
    job.report.chosen = {"form": winner.name, "candidates (median ms)": selection.outcomes}
    if asked.measure and job.quantizes:
        with stage(job.report, "compare with float"):
            compare_with_float(job, original, inputs, asked.target.kind, winner)
    return CompiledModel(
        winner.model, captured.signature, job.report, asked.target.kind, choice, winner.session
    )


def tuned(
    job: Job,
    captured: Captured,
    original: ir.Model,
    inputs: Sequence[torch.Tensor],
    asked: Lowering,
) -> CompiledModel | None:
    """The model as `autotune` found it fastest, where it did: for the default passes."""
    default = job.passes == list(DEFAULT) and not job.exclude
    if asked.backend != "auto" or not (asked.measure and default):
        return None
    if not has_database():
        return None  # naming the graph takes a walk over it
    from .backends.tuning.memory import tuned_plan

    with stage(job.report, "lookup"):
        threads = 0 if job.threads == asked.target.threads else job.threads
        plan = tuned_plan(lift(original), inputs, asked.target, threads)
    if plan is None:
        return None
    kind, report = asked.target.kind, job.report
    try:
        return planned_model(
            plan,
            captured,
            kind,
            onnx=original,
            verify=asked.verify,
            report=report,
            tried_before=True,
        )
    except PasselError as error:
        report.notes.append(f"the plan that autotune stored does not work any more: {error}")
        return None


def compare_with_float(
    job: Job, original: ir.Model, inputs: Sequence[torch.Tensor], target: str, winner: Candidate
) -> None:
    """Time the winner beside the same pipeline without quantization, and say which is faster."""
    twin = job.without_quantization()
    selection = select(
        twin.run(original), inputs, target, winner.session_choice, measure=False, check=None
    )
    assert selection.winner is not None
    plain, quantized = selection.winner.session, winner.session
    calls = {
        "float": lambda: plain.run_tensors(inputs),
        "quantized": lambda: quantized.run_tensors(inputs),
    }
    found = medians(interleaved(calls, seconds=COMPARE_SECONDS))
    ratio = found["float"] / found["quantized"]
    job.report.chosen["quantized against float (median ms)"] = {
        name: round(milliseconds, 3) for name, milliseconds in found.items()
    }
    if ratio < 1:
        job.report.notes.append(
            f"the quantized model is slower than the float one here: {1 / ratio:.2f} times its "
            "time; another scheme, or placement= with fewer products, may be faster"
        )


def as_given(job: Job, captured: Captured, asked: Lowering, why: UnsupportedModel) -> CompiledModel:
    """The ONNX model without any pass: what the passes write may need kernels that it does not."""
    program, choice = captured.program, SessionChoice(threads=job.threads)
    assert isinstance(program, ir.Model)
    try:
        session = Session(program, asked.target.kind, choice)
    except InvalidModel:
        raise why from None
    report = job.report
    report.passes, report.after = [], report.before
    report.notes.append(f"left as it is: after the passes, {why}")
    report.verified, report.chosen = "nothing was changed", {"form": "as given"}
    return CompiledModel(program, captured.signature, report, asked.target.kind, choice, session)


def on_torch(job: Job, captured: Captured, *, verify: bool) -> CompiledModel:
    """Run the passes on the exported program and call the result with eager torch.

    Raises:
        InvalidInput: the model is ONNX.
        VerificationError: the result disagrees with the original.
    """
    program = captured.program
    if not isinstance(program, ExportedProgram):
        raise InvalidInput(
            "backend: expected 'onnxruntime' or 'auto' for an ONNX model, got 'torch'"
        )
    with stage(job.report, "passes"):
        lowered = job.run(program)
    session = EagerSession(lowered)
    if verify:
        job.verify(captured, program, captured.inputs_for(program), session.run_arrays)
    job.report.chosen = {"backend": "torch"}
    return CompiledModel(lowered, captured.signature, job.report, session=session)


def offer_times(job: Job, target: str, choice: SessionChoice) -> None:
    """Let the passes time products on the target."""
    job.context.time_products = lambda shapes: time_products(shapes, target, choice)


def offer_times_where_asked(job: Job) -> None:
    """The same on the CPU, where a pass of the run was asked to measure: a file has no target."""
    if any(isinstance(one, Quantize) and one.placement == "measured" for one in job.passes):
        offer_times(job, "cpu", SessionChoice(threads=job.threads))
