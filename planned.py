"""From a plan to a program: what a tuner's candidate is built of, and a compiled model again."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch.export import ExportedProgram

from .backends.compiled import AnySession, CompiledModel
from .backends.eager import EagerSession
from .backends.onnxruntime import Session
from .backends.select import build, operators
from .backends.target import Target
from .backends.tuning.plan import EXPORTED, Plan
from .capture import Captured
from .check_model import check_interface
from .errors import UnsupportedModel
from .execution import arrays_of, lift
from .lower_tvm import built, tune_kernels
from .onnx_form import as_onnx
from .passes.report import Report, Size
from .pipeline import Job, stage


@dataclass
class Program:
    """What a plan makes.

    Attributes:
        session: it, loaded.
        model: what can be saved.
        original: the program before the passes, in the same IR.
    """

    plan: Plan
    session: AnySession
    model: Any
    original: ir.Model | ExportedProgram

    @property
    def fingerprint(self) -> str:
        """Equal for programs that cost the same: operators, shapes and types, and how they run."""
        plan = replace(self.plan, passes=(), form="")
        parts = [plan.to_json()]
        if isinstance(self.model, ir.Model):
            parts += [str(operators(self.model)), str(_weights(self.model))]
        else:
            parts += [str(self.plan.passes), self.plan.form]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _weights(model: ir.Model) -> list[tuple[str, str]]:
    tensors = [value.const_value for value in model.graph.initializers.values()]
    return [(str(t.shape), t.dtype.name) for t in tensors if t is not None]


def job_of(
    plan: Plan, *, max_error: float | None = None, examples: Sequence[np.ndarray] = ()
) -> Job:
    """The job that a plan describes; a lossy one has to keep within `max_error`."""
    job = Job.of(list(plan.passes), (), None, threads=plan.threads)
    if job.unbounded and max_error is not None:
        job.rtol = max_error
    job.context.examples = [list(examples)] if examples else []
    return job


def program(plan: Plan, job: Job, captured: Captured, target: str = "cpu") -> Program:
    """Build a plan.

    Args:
        captured: the model; where the plan is for ONNX Runtime, as ONNX if that is at hand.

    Raises:
        UnsupportedModel: the backend lacks a kernel, or the model has no form that it reads.
        BackendUnavailable: the backend is not installed.
    """
    makers: dict[str, Callable[[Plan, Job, Captured, str], Program]] = {
        "onnxruntime": _on_onnxruntime,
        "torch": _on_torch,
        "tvm": _on_tvm,
    }
    return makers[plan.backend](plan, job, captured, target)


def _on_onnxruntime(plan: Plan, job: Job, captured: Captured, target: str) -> Program:
    given, form = captured.program, plan.form
    if form == EXPORTED and isinstance(given, ir.Model):
        original = given  # plain ONNX Runtime: its opset is the file's own
    else:
        original = as_onnx(job, captured)
    check_interface(original, captured.name)
    if form == EXPORTED:
        model = original
        job.report.before = job.report.after = Size.of(lift(original))
    else:
        with stage(job.report, "passes"):
            lowered = job.run(original)
        model = build(form, lowered)
    with stage(job.report, "lower"):
        session = Session(model, target, plan.session_choice)
    return Program(plan, session, model, original)


def _on_torch(plan: Plan, job: Job, captured: Captured, target: str) -> Program:
    if not isinstance(captured.program, ExportedProgram):
        raise UnsupportedModel("torch runs exported programs only, and this model came as ONNX")
    with stage(job.report, "passes"):
        lowered = job.run(captured.program) if plan.passes else captured.program
    return Program(plan, Threaded(EagerSession(lowered), plan.threads), lowered, captured.program)


class Threaded:
    """A session of torch's, in as many threads as its plan says."""

    def __init__(self, session: EagerSession, threads: int) -> None:
        self._session = session
        self._threads = threads

    def run_arrays(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Run on numpy arrays."""
        return self._run(lambda: self._session.run_arrays(arrays))

    def run_tensors(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Run on torch tensors."""
        return self._run(lambda: self._session.run_tensors(tensors))

    def _run(self, call: Callable[[], Any]) -> Any:
        before = torch.get_num_threads()
        if self._threads in (0, before):
            return call()
        torch.set_num_threads(self._threads)
        try:
            return call()
        finally:
            torch.set_num_threads(before)


def _on_tvm(plan: Plan, job: Job, captured: Captured, target: str) -> Program:
    session = built(job, captured, _aim(plan, target), tuned=bool(plan.kernels))
    return Program(plan, session, session.model, captured.program)


def tune_for(plan: Plan, captured: Captured, target: str) -> None:
    """Tune TVM's kernels for a plan that wants them tuned."""
    if plan.kernels:
        tune_kernels(job_of(plan), captured, _aim(plan, target), plan.kernels)


def _aim(plan: Plan, target: str) -> Target:
    return replace(Target.of(target), threads=plan.threads)


def planned_model(
    plan: Plan,
    captured: Captured,
    target: str = "cpu",
    *,
    onnx: ir.Model | None = None,
    verify: bool = True,
    max_error: float | None = None,
    report: Report | None = None,
    tried_before: bool = False,
) -> CompiledModel:
    """Build a plan once more, verify it, and make it callable.

    Args:
        onnx: the captured program as ONNX, where it is at hand already.
        max_error: relative error that a lossy plan may have.
        report: what was done so far; the plan's own report takes over its stages and notes.
        tried_before: the plan was verified when it was found, so the inputs alone will do now.

    Raises:
        PasselError: the plan does not work here; VerificationError when it is wrong.
    """
    job = job_of(plan, max_error=max_error, examples=arrays_of(captured.inputs or ()))
    job.report.model = captured.name
    if tried_before:
        job.seeds = ()
    if report is not None:
        job.report.stages, job.report.notes = dict(report.stages), list(report.notes)
    source = captured
    if onnx is not None and plan.backend == "onnxruntime":
        source = replace(captured, program=onnx)
    made = program(plan, job, source, target)
    if verify:
        given = captured.inputs_for(made.original)
        job.verify(captured, made.original, given, made.session.run_arrays)
    job.report.chosen = {**job.report.chosen, "plan": str(plan), "backend": plan.backend}
    return CompiledModel(
        made.model, captured.signature, job.report, target, plan.session_choice, made.session
    )
