"""One run of the passes over one program, its verification, and the search for a guilty pass."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import inf
from sys import float_info
from typing import Any, Self

import numpy as np
import onnx_ir as ir
import torch
from torch.export import ExportedProgram

from .backends.choices import SessionChoice
from .backends.onnxruntime import Session
from .capture import Captured, program_signature
from .errors import InvalidGraph, InvalidInput, InvalidModel
from .graph import Graph, fx
from .graph import onnx as onnx_view
from .graph.fx_tensor import to_numpy
from .passes.base import Exactness, Pass
from .passes.driver import Exclude, Progress, exclusions, run_pass, run_passes
from .passes.registry import Request, resolve
from .passes.report import OutputError, Report, Size
from .progress import say
from .samples import other_sizes, random_like
from .verify import (
    SEEDS,
    Arrays,
    Runner,
    compare,
    failure,
    first_violation,
    unusable,
    worst_of,
)

AnyPass = Pass[Any]
Errors = list[OutputError]


@dataclass(frozen=True)
class Batch:
    """Inputs, and what the original makes of them."""

    inputs: Arrays
    expected: Arrays


@dataclass
class Job:
    """What one call of the public functions was asked to do, and its report."""

    passes: list[AnyPass]
    exclude: Exclude
    progress: Progress | None
    rtol: float | None
    atol: float | None
    report: Report
    threads: int = 0

    @classmethod
    def of(
        cls,
        passes: Request,
        exclude: Exclude,
        progress: Progress | None,
        rtol: float | None = None,
        atol: float | None = None,
        threads: int = 0,
    ) -> Self:
        for name, bound in (("rtol", rtol), ("atol", atol)):
            if bound is not None and not bound >= 0:
                raise InvalidInput(f"{name}: expected a number that is not negative, got {bound!r}")
        return cls(resolve(passes), exclude, progress, rtol, atol, Report(), threads)

    def run(self, program: ExportedProgram | ir.Model) -> Any:
        """Lift, run the passes, lower to a program of the same kind."""
        graph = lift(program)
        self.report.before = Size.of(graph)
        self.report.passes = run_passes(
            graph, self.passes, exclude=self.exclude, progress=self.progress
        )
        self.report.after = Size.of(graph)
        return graph.binding.lower(graph)

    def batches(self, captured: Captured, inputs: Sequence[torch.Tensor]) -> list[Batch]:
        """The examples and seeded random inputs, with the original's outputs.

        The last random ones have other sizes than the examples where the model has dynamic ones.

        Raises:
            InvalidInput: the original does not run on the examples. If it is the random inputs that
                it does not run on, those are left out, with a note.
        """
        run = _reference(captured, self.threads)
        found = [run(inputs)]
        sizes = [None] * (len(SEEDS) - 1) + [other_sizes(captured.program, inputs)]
        for seed, size in zip(SEEDS, sizes, strict=True):
            try:
                found.append(run(random_like(inputs, seed, size)))
            except (InvalidInput, InvalidModel) as error:
                what = "random inputs" if size is None else "inputs of other sizes"
                self.report.notes.append(f"verified without {what}: the original fails: {error}")
        return found

    def checker(self, original: Any, batches: Sequence[Batch]) -> Callable[[Runner], Errors]:
        """A function from a runner to the worst error of each output over all batches."""
        names = output_names(original)

        def check(run: Runner) -> Errors:
            return worst_of([self._errors(names, batch, run) for batch in batches])

        return check

    def _errors(self, names: Sequence[str], batch: Batch, run: Runner) -> Errors:
        try:
            found = run(batch.inputs)
        except (InvalidInput, InvalidModel) as error:
            return unusable(names, str(error))
        errors = compare(names, batch.expected, found, self.atol, self.rtol)
        if not self.unbounded:
            return errors
        return [one if one.detail else replace(one, tolerance=float_info.max) for one in errors]

    @property
    def unbounded(self) -> list[str]:
        """The lossy passes, where the caller names no bound: any finite error of theirs will do."""
        if self.rtol is not None or self.atol is not None:
            return []
        return [one.spec for one in self.passes if one.exactness is Exactness.APPROXIMATE]

    def accept(self, original: Any, errors: Errors, batches: Sequence[Batch], where: str) -> None:
        """Record the verification.

        Raises:
            VerificationError: an output exceeds its bound; names the guilty pass, found by running
                the pipeline again pass by pass.
        """
        self.report.errors = errors
        worst = max((error.relative for error in errors), default=0.0)
        on = "examples" + "".join(f", seed {seed}" for seed in SEEDS[: len(batches) - 1])
        self.report.verified = (
            f"{len(errors)} outputs on {len(batches)} input sets ({on}) {where}; "
            f"worst relative error {worst:.2e}"
        )
        violated = first_violation(errors)
        if violated is not None:
            raise failure(violated, *find_guilty(self, original, batches))
        if self.unbounded:
            self.report.errors = [replace(error, tolerance=inf) for error in errors]
            self.report.verified += f", not bounded: {', '.join(self.unbounded)} is lossy"


def _reference(captured: Captured, threads: int) -> Callable[[Sequence[torch.Tensor]], Batch]:
    """The model as it was taken in, as a function from inputs to a batch."""
    call, program = captured.reference, captured.program
    if call is not None:
        return lambda tensors: Batch(_arrays(tensors), _arrays(call(tensors)))
    run = runner(program, threads)
    return lambda tensors: Batch(_arrays(tensors), run(_arrays(tensors)))


def _arrays(tensors: Sequence[torch.Tensor]) -> Arrays:
    return [to_numpy(tensor) for tensor in tensors]


def lift(program: ExportedProgram | ir.Model) -> Graph:
    """The graph view of either kind of program."""
    return onnx_view.lift(program) if isinstance(program, ir.Model) else fx.lift(program)


def runner(program: ExportedProgram | ir.Model, threads: int = 0) -> Runner:
    """A program as a function on flat arrays.

    ONNX runs on ONNX Runtime, or on the reference evaluator where ONNX Runtime lacks a kernel
    (float64 attention); an ExportedProgram on eager torch.
    """
    if not isinstance(program, ir.Model):
        return lift(program).run
    try:
        return Session(program, choice=SessionChoice(threads=threads)).run_arrays
    except InvalidModel as error:
        return _evaluator(program, error)


def _evaluator(model: ir.Model, why: InvalidModel) -> Runner:
    graph = lift(model)

    def run(arrays: Sequence[np.ndarray]) -> Arrays:
        try:
            return graph.run(list(arrays))
        except Exception as error:
            raise InvalidModel(f"{why}; the reference evaluator fails too: {error}") from error

    return run


def find_guilty(job: Job, original: Any, batches: Sequence[Batch]) -> tuple[str | None, str, str]:
    """The first pass after which the program disagrees, the last op that it rewrote, or where else.

    A program that disagrees before any pass is the fault of the conversion.
    """
    check = job.checker(original, batches)
    if first_violation(check(runner(original, job.threads))) is not None:
        return None, "", "before any pass, in the conversion to ONNX"
    graph = lift(original)
    kept_off = exclusions(graph, job.passes, job.exclude)
    for one in job.passes:
        report = run_pass(graph, one, kept_off.get(one.name, ()))
        try:
            errors = check(runner(graph.binding.lower(graph), job.threads))
        except InvalidGraph:
            errors = unusable(["graph"], "")
        if first_violation(errors) is not None:
            return one.spec, report.applied[-1] if report.applied else "", ""
    return None, "", ""


def output_names(program: ExportedProgram | ir.Model) -> list[str]:
    """Names of the tensor outputs."""
    if isinstance(program, ir.Model):
        return [str(value.name) for value in program.graph.outputs]
    return program_signature(program).outputs


@contextmanager
def stage(report: Report, name: str) -> Iterator[None]:
    """Record the seconds that a stage takes, and say that it is on."""
    say(name)
    start = time.perf_counter()
    try:
        yield
    finally:
        elapsed = time.perf_counter() - start
        report.stages[name] = report.stages.get(name, 0.0) + elapsed
