"""One call of `passel.autotune`: the model taken in, looked up, searched for, built."""

import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from torch.export import ExportedProgram

from .backends.compiled import CompiledModel
from .backends.cpu_facts import allowed_processors
from .backends.hardware import Hardware
from .backends.select import AS_LOWERED
from .backends.target import Target
from .backends.tuning.book import Book
from .backends.tuning.child import Child, command
from .backends.tuning.late import Late
from .backends.tuning.memory import Remembered, key_of, remember
from .backends.tuning.plan import Plan
from .backends.tuning.records import Key
from .backends.tuning.search import Found, Search
from .backends.tuning.space import BY_ROW, SCHEMES, STATIC, Space, space_of
from .backends.tuning.stable import Failed, Stable
from .backends.tuning.standing import Limits, Progress
from .backends.tuning.subject import Subject
from .backends.tvm.available import problem
from .capture import Captured, capture
from .errors import ExportError, InvalidModel, PasselError, UnsupportedModel
from .execution import lift
from .onnx_form import as_onnx
from .passes.base import AnyPass
from .passes.report import Report
from .pipeline import Job, stage
from .planned import planned_model
from .tuned_report import tell

ON_RANDOM = (
    "the error of quantized plans was measured on random inputs: give example inputs that are like "
    "the model's own"
)


@dataclass(frozen=True)
class Asked:
    """The arguments of `autotune`, checked."""

    target: Target
    limits: Limits
    objective: str
    max_error: float | None
    passes: tuple[AnyPass, ...]
    threads: int
    seed: int


@dataclass
class Tuner:
    """One call of `autotune`."""

    asked: Asked
    late: Late
    report: Report
    key: Key = field(init=False)
    captured: Captured = field(init=False)
    onnx: ir.Model | None = field(init=False, default=None)
    inputs: list[torch.Tensor] = field(init=False)

    def take_in(self, model: Any, example_inputs: Any, dynamic_shapes: Any) -> None:
        """Capture the model, turn it into ONNX where that is possible, and name it."""
        with stage(self.report, "capture"):
            self.captured = capture(model, example_inputs, dynamic_shapes)
        self.onnx = self._as_onnx()
        program = self.onnx or self.captured.program
        self.inputs = self.captured.inputs_for(program)
        asked = self.asked
        with stage(self.report, "key"):
            self.key = key_of(
                lift(program),
                self.inputs,
                asked.target,
                objective=asked.objective,
                bound=asked.max_error,
                passes=asked.passes,
                threads=asked.threads,
            )

    def _as_onnx(self) -> ir.Model | None:
        if isinstance(self.captured.program, ir.Model):
            return self.captured.program
        job = Job([], (), None, None, None, self.report)
        try:
            return as_onnx(job, self.captured)
        except ExportError as error:
            self.report.notes.append(f"not tried on ONNX Runtime: {error}")
            return None

    def known(self) -> Remembered | None:
        """What the database holds for this call."""
        with stage(self.report, "lookup"):
            return self.late.recalled(self.key)

    def search(self, progress: Progress) -> Found:
        """Search, with the model in a folder that the candidates read.

        Raises:
            InvalidModel: the model itself does not run.
        """
        with stage(self.report, "search"), tempfile.TemporaryDirectory(prefix="passel-") as folder:
            subject = self._subject()
            if lost := subject.write(Path(folder)):
                self.report.notes.append(lost)
            space = self._space(subject)
            storage = self.late.database.storage()
            book = Book(storage, self.key.study, space, self.asked.seed)
            stable = Stable(
                lambda own: Child(command("passel.candidate", folder), own), len(space.cores)
            )
            try:
                return self._searched(book, stable, subject, progress)
            finally:
                stable.close()
                storage.engine.dispose()

    def _searched(self, book: Book, stable: Stable, subject: Subject, progress: Progress) -> Found:
        asked = self.asked
        fallbacks = self._fallbacks(subject)
        search = Search(book, stable, asked.objective, asked.limits, progress, fallbacks)
        try:
            return search.run()
        except Failed as failed:
            kind = UnsupportedModel if failed.kind == "UnsupportedModel" else InvalidModel
            raise kind(f"autotune: the model as it is does not run: {failed.why}") from None

    def _fallbacks(self, subject: Subject) -> list[Plan]:
        """What to compare with where ONNX Runtime does not run the model as it was exported."""
        found, threads = [], self.asked.threads
        if subject.onnx is not None:
            found.append(Plan(form=AS_LOWERED, threads=threads))
            if subject.program is not None:
                found.append(Plan(backend="torch", form="", threads=threads))
        return found

    def _subject(self) -> Subject:
        captured, program = self.captured, self.captured.program
        job = Job([], (), None, None, None, self.report, self.asked.threads)
        batches = [(batch.inputs, batch.expected) for batch in job.batches(captured, self.inputs)]
        torch_program = program if isinstance(program, ExportedProgram) else None
        if self.asked.target.kind != "cpu":
            torch_program = None
        real = captured.inputs is not None
        if self.asked.max_error is not None and not real:
            self.report.notes.append(ON_RANDOM)
        target, bound = self.asked.target.kind, self.asked.max_error
        return Subject(self.onnx, torch_program, target, batches, real, bound)

    def _space(self, subject: Subject) -> Space:
        asked = self.asked
        backends = ["onnxruntime"] if subject.onnx is not None else []
        backends += ["torch"] if subject.program is not None else []
        backends += ["tvm"] if asked.target.kind == "cpu" and problem() is None else []
        if not backends:
            raise UnsupportedModel("autotune: there is nothing that can run this model here")
        schemes: tuple[str, ...] = ()
        if asked.max_error:
            by_row = (BY_ROW,) if "tvm" in backends else ()
            schemes = SCHEMES + by_row + (STATIC if subject.real else ())
        with stage(self.report, "space"):
            return space_of(
                lift(self.onnx or self.captured.program),
                asked.passes,
                backends=tuple(backends),
                schemes=schemes,
                cores=usable_cores(asked.target),
                threads=asked.threads,
                throughput=asked.objective == "throughput",
                kernel_seconds=asked.limits.kernel_seconds,
            )

    def result(self, found: Found) -> CompiledModel:
        """Keep what was found, and build it; the baseline where it does not work here.

        Raises:
            PasselError: not even the baseline does.
        """
        self.report.notes += found.notes
        database = self.late.database
        kept = remember(database, self.key, found, self.captured.name)
        try:
            return self.built(kept, found=found)
        except PasselError as error:
            database.forget(self.key)
            self.report.notes.append(f"the best plan is not taken: {error}")
        plan = Plan(threads=self.asked.threads)
        record = replace(kept.record, plan=plan.to_json(), cost=kept.record.baseline)
        return self.built(Remembered(plan, record, kept.search), found=found)

    def built(
        self, known: Remembered, *, found: Found | None = None, looked_up: bool = False
    ) -> CompiledModel:
        """The plan as a compiled model, with a report of the search."""
        model = planned_model(
            known.plan,
            replace(self.captured, inputs=self.inputs),
            self.asked.target.kind,
            onnx=self.onnx,
            max_error=self.asked.max_error,
            report=self.report,
            tried_before=looked_up,
        )
        tell(model.report, known, found, looked_up=looked_up)
        return model


def usable_cores(target: Target) -> tuple[int, ...]:
    """The processors that candidates may keep busy."""
    count = target.threads or Hardware.detect().usable_cores
    allowed = sorted(allowed_processors() or range(count))
    return tuple(allowed[:count]) or (0,)
