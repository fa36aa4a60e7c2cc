"""One run of the passes over one program, its verification, and the search for a guilty pass."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from math import inf
from sys import float_info
from typing import Any, Self

import onnx_ir as ir
import torch
from torch.export import ExportedProgram

from .capture import Captured, program_signature
from .errors import InvalidGraph, InvalidInput, InvalidModel
from .execution import Batch, lift, reference, runner
from .graph.fx_tensor import to_torch
from .passes import Quantize
from .passes.base import Context, Exactness, Pass
from .passes.driver import Exclude, Progress, exclusions, run_pass, run_passes
from .passes.registry import Request, resolve
from .passes.report import OutputError, Report, Size
from .progress import say
from .samples import other_sizes, random_like
from .verify import (
    SEEDS,
    Runner,
    compare,
    failure,
    first_violation,
    unusable,
    worst_of,
)

AnyPass = Pass[Any]
SAMPLES = 4
"""Calibration samples that a quantized model is tried on."""
Errors = list[OutputError]


@dataclass
class Job:
    """What one call of the public functions was asked to do, and its report.

    Attributes:
        seeds: of the random inputs that results are tried on besides the examples.
    """

    passes: list[AnyPass]
    exclude: Exclude
    progress: Progress | None
    rtol: float | None
    atol: float | None
    report: Report
    threads: int = 0
    context: Context = field(default_factory=Context)
    tried: list[str] = field(default_factory=list)
    seeds: Sequence[int] = SEEDS

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
        graph = lift(program, self.threads)
        self.report.before = Size.of(graph)
        self.report.passes = run_passes(
            graph,
            self.passes,
            exclude=self.exclude,
            progress=self.progress,
            context=self.context,
        )
        self.report.notes += self.context.notes
        self.report.after = Size.of(graph)
        return graph.binding.lower(graph)

    def batches(self, captured: Captured, inputs: Sequence[torch.Tensor]) -> list[Batch]:
        """The examples and seeded random inputs, with the original's outputs.

        The last random ones have other sizes than the examples where the model has dynamic ones.
        What is quantized is tried on calibration samples instead: random numbers say nothing of it,
        nor do inputs that nobody gave.

        Raises:
            InvalidInput: the original does not run on the examples. If it is the random inputs that
                it does not run on, those are left out, with a note.
        """
        run = reference(captured, self.threads)
        if self.quantizes:
            data = next(iter(self.context.data.values()), ())
            given = list(islice(data, SAMPLES))
            samples = [[to_torch(array) for array in sample] for sample in given]
            self.tried = [f"calibration sample {k + 1}" for k in range(len(given))]
            if self.context.examples or not given:
                samples, self.tried = [list(inputs), *samples], ["examples", *self.tried]
            return [run(sample) for sample in samples]
        found, self.tried = [run(inputs)], ["examples"]
        self.tried += [f"seed {seed}" for seed in self.seeds]
        for seed in self.seeds:
            size = other_sizes(captured.program, inputs) if seed == self.seeds[-1] else None
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
    def quantizes(self) -> bool:
        """Whether the pipeline quantizes."""
        return any(isinstance(one, Quantize) for one in self.passes)

    def without_quantization(self) -> "Job":
        """The same job in float, with a report of its own."""
        passes = [one for one in self.passes if not isinstance(one, Quantize)]
        kept = {one.name for one in passes}
        exclude = self.exclude
        if isinstance(exclude, Mapping):
            exclude = {n: texts for n, texts in exclude.items() if n.replace("_", "-") in kept}
        return Job(passes, exclude, None, None, None, Report(), self.threads)

    @property
    def unbounded(self) -> list[str]:
        """The lossy passes, where the caller names no bound: any finite error of theirs will do."""
        if self.rtol is not None or self.atol is not None:
            return []
        return [one.spec for one in self.passes if one.exactness is Exactness.APPROXIMATE]

    def verify(
        self,
        captured: Captured,
        original: Any,
        inputs: Sequence[torch.Tensor],
        run: Runner,
        where: str = "on the runtime",
    ) -> None:
        """Try a result on the batches, and record how it went.

        Raises:
            InvalidInput: as `batches`. VerificationError: as `accept`.
        """
        with stage(self.report, "verify"):
            batches = self.batches(captured, inputs)
            errors = self.checker(original, batches)(run)
            self.accept(original, errors, batches, where)

    def accept(self, original: Any, errors: Errors, batches: Sequence[Batch], where: str) -> None:
        """Record the verification.

        Raises:
            VerificationError: an output exceeds its bound; names the guilty pass, found by running
                the pipeline again pass by pass.
        """
        self.report.errors = errors
        worst = max((error.relative for error in errors), default=0.0)
        on = ", ".join(self.tried[: len(batches)])
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
        settled = one.settled(graph, job.context)
        report = run_pass(graph, settled, kept_off.get(one.name, ()))
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
