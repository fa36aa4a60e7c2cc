"""One run of the passes over one program, its verification, and the search for a guilty pass."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import onnx_ir as ir
import torch
from torch.export import ExportedProgram

from .backends.onnxruntime import Session
from .capture import Captured, program_signature, random_like
from .errors import InvalidModel, VerificationError
from .graph import Graph, fx
from .graph import onnx as onnx_view
from .graph.fx_tensor import to_numpy
from .passes.base import Pass
from .passes.driver import Exclude, Progress, exclusions, run_pass, run_passes
from .passes.registry import Request, resolve
from .passes.report import OutputError, Report, Size
from .verify import SEEDS, Arrays, Runner, compare, failure, first_violation, worst_of

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

    @classmethod
    def of(
        cls,
        passes: Request,
        exclude: Exclude,
        progress: Progress | None,
        rtol: float | None = None,
        atol: float | None = None,
    ) -> Self:
        return cls(resolve(passes), exclude, progress, rtol, atol, Report())

    def run(self, program: ExportedProgram | ir.Model) -> Any:
        """Lift, run the passes, lower to a program of the same kind."""
        graph = lift(program)
        self.report.before = Size.of(graph)
        self.report.passes = run_passes(
            graph, self.passes, exclude=self.exclude, progress=self.progress
        )
        self.report.after = Size.of(graph)
        return graph.binding.lower(graph)

    def batches(
        self, captured: Captured, original: Any, inputs: Sequence[torch.Tensor]
    ) -> list[Batch]:
        """The examples and seeded random inputs, with the original's outputs."""
        asked = [list(inputs), *(random_like(inputs, seed) for seed in SEEDS)]
        found = []
        run = None if captured.reference is not None else runner(original)
        for tensors in asked:
            arrays = [to_numpy(tensor) for tensor in tensors]
            if captured.reference is not None:
                expected = [to_numpy(tensor) for tensor in captured.reference(tensors)]
            else:
                assert run is not None
                expected = run(arrays)
            found.append(Batch(arrays, expected))
        return found

    def checker(self, original: Any, batches: Sequence[Batch]) -> Callable[[Runner], Errors]:
        """A function from a runner to the worst error of each output over all batches."""
        names = output_names(original)

        def check(run: Runner) -> Errors:
            found = [
                compare(names, batch.expected, run(batch.inputs), self.atol, self.rtol)
                for batch in batches
            ]
            return worst_of(found)

        return check

    def accept(
        self, original: Any, errors: Errors, batches: Sequence[Batch], where: str
    ) -> None:
        """Record the verification.

        Raises:
            VerificationError: an output exceeds its bound; names the guilty pass, found by running
                the pipeline again pass by pass.
        """
        self.report.errors = errors
        worst = max((error.relative for error in errors), default=0.0)
        self.report.verified = (
            f"{len(errors)} outputs on {len(batches)} input sets (examples, seeds "
            f"{', '.join(map(str, SEEDS))}) {where}; worst relative error {worst:.2e}"
        )
        violated = first_violation(errors)
        if violated is not None:
            raise failure(violated, *find_guilty(self, original, batches))


def lift(program: ExportedProgram | ir.Model) -> Graph:
    """The graph view of either kind of program."""
    return onnx_view.lift(program) if isinstance(program, ir.Model) else fx.lift(program)


def runner(program: ExportedProgram | ir.Model) -> Runner:
    """A program as a function on flat arrays: ONNX Runtime for ONNX, or the reference evaluator
    where ONNX Runtime lacks a kernel (float64 attention); eager torch for an ExportedProgram."""
    if isinstance(program, ir.Model):
        try:
            return Session(program).run_arrays
        except InvalidModel:
            pass
    graph = lift(program)
    return graph.run


def find_guilty(job: Job, original: Any, batches: Sequence[Batch]) -> tuple[str | None, str]:
    """The first pass after which the program disagrees, and the last op that it rewrote."""
    graph = lift(original)
    check = job.checker(original, batches)
    kept_off = exclusions(graph, job.passes, job.exclude)
    for one in job.passes:
        report = run_pass(graph, one, kept_off.get(one.name, ()))
        program = graph.binding.lower(graph)
        try:
            errors = check(runner(program))
        except (VerificationError, InvalidModel):
            return one.spec, report.applied[-1] if report.applied else ""
        if first_violation(errors) is not None:
            return one.spec, report.applied[-1] if report.applied else ""
    return None, ""


def output_names(program: ExportedProgram | ir.Model) -> list[str]:
    """Names of the tensor outputs."""
    if isinstance(program, ir.Model):
        return [str(value.name) for value in program.graph.outputs]
    return program_signature(program).outputs


@contextmanager
def stage(report: Report, name: str) -> Iterator[None]:
    """Record the seconds that a stage takes."""
    start = time.perf_counter()
    try:
        yield
    finally:
        elapsed = time.perf_counter() - start
        report.stages[name] = report.stages.get(name, 0.0) + elapsed


