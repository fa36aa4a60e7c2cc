"""`passel optimize`: read, run the passes, verify, write, and say what became of the model.

Like `compiler.export_onnx`, but the model before and after stay at hand, so that a dry run does all
but the writing and the table counts both without reading a file twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir

from ..capture import OPSET, Captured, capture
from ..errors import InvalidInput
from ..execution import runner
from ..graph.fx_tensor import to_numpy
from ..graph.onnx_io import check_writable, raise_opset, read, write
from ..lower import offer_times_where_asked
from ..onnx_form import check_opset, file_form, wanted_opset
from ..passes.base import AnyPass
from ..passes.report import Report
from ..pipeline import Job, stage
from ..verify import failure, first_violation
from .cli_facts import Facts, facts, weights, written_bytes
from .cli_inputs import GivenInputs
from .cli_optimize_text import details, dry_run_lines, summary
from .cli_screen import Screen, Working


@dataclass(frozen=True)
class Order:
    """What to do, as the options said it; `compiler.export_onnx` explains the common ones."""

    model: Path
    inputs: GivenInputs
    output: Path | None
    passes: Sequence[str | AnyPass] = ("default",)
    exclude: Sequence[str] = ()
    opset: int | None = None
    verify: bool = True
    rtol: float | None = None
    atol: float | None = None
    portable: bool = True
    external_data: bool | None = None
    report: Path | None = None
    dry_run: bool = False
    verbose: bool = False
    threads: int = 0


@dataclass
class Outcome:
    """Both models, counted, and what was done."""

    before: Facts
    after: Facts
    report: Report


def carry_out(order: Order, screen: Screen) -> None:
    """Carry out an order and print the summary.

    Raises:
        PasselError: as `compiler.export_onnx`.
    """
    check_paths(order)
    with screen.working() as working:
        outcome = outcome_of(order, working)
    screen.print(*summary(outcome.before, outcome.after, outcome.report))
    if order.verbose:
        screen.print(*details(outcome.report))
    if order.report is not None:
        outcome.report.to_json(order.report)
    if order.dry_run:
        screen.print(*dry_run_lines(outcome.before, outcome.after))
    else:
        screen.print(f"wrote {order.output}")


def check_paths(order: Order) -> None:
    """Refuse paths that cannot be written before any work is done."""
    if order.output is None and not order.dry_run:
        raise InvalidInput(
            f"expected where to write: `passel {order.model} out.onnx` (or -o out.onnx), or "
            "--dry-run to look only"
        )
    for path in (order.output, order.report):
        if path is not None:
            check_writable(path)
    others = [path.resolve() for path in (order.model, order.output) if path is not None]
    if order.report is not None and order.report.resolve() in others:
        raise InvalidInput(f"--report: expected a file of its own, got {str(order.report)!r}")


def outcome_of(order: Order, working: Working) -> Outcome:
    """Read, run the passes, verify and write.

    Raises:
        PasselError: as `compiler.export_onnx`.
    """
    job = job_of(order, working)
    report = job.report
    report.model = str(order.model)
    working.say(f"reading {order.model}")
    with stage(report, "read"):
        model = read(order.model)
        before = facts(model, order.model)
        captured = taken_in(order, model, job)
    with stage(report, "opset"):
        original = at_opset(model, order.opset, job)
    with stage(report, "passes"):
        lowered = file_form(report, job.run(original), portable=order.portable)
    if order.verify:
        working.say("comparing the result with the original")
        with stage(report, "verify"), order.inputs.explained():
            verify(job, captured, original, lowered)
    after = facts(lowered)
    if order.dry_run or order.output is None:
        return Outcome(before, replace(after, file_bytes=written_bytes(lowered)), report)
    working.say(f"writing {order.output}")
    with stage(report, "write"):
        write(lowered, order.output, external=_external(order, model))
    return Outcome(before, replace(after, file_bytes=_on_disk(order.output, after)), report)


def job_of(order: Order, working: Working) -> Job:
    """The job that an order describes."""
    bounds = order.rtol, order.atol
    job = Job.of(order.passes, order.exclude, working.on_pass, *bounds, order.threads)
    offer_times_where_asked(job)
    return job


def taken_in(order: Order, model: ir.Model, job: Job) -> Captured:
    """The model with inputs to verify it on; passes see them only if they are real ones."""
    if not order.verify and not order.inputs.are_real:
        return capture(model, None)
    captured = capture(model, order.inputs.of(model))
    if order.inputs.are_real:
        job.context.examples = [[to_numpy(tensor) for tensor in captured.inputs or ()]]
    return captured


def at_opset(model: ir.Model, asked: int | None, job: Job) -> ir.Model:
    """The model at the opset asked for, or else the best one that the conversion reaches."""
    current = model.opset_imports.get("", OPSET)
    if asked is not None and asked < current:
        raise InvalidInput(f"--opset: expected at least {current}, the file's own, got {asked}")
    raised, reason = raise_opset(model, wanted_opset(job.passes, asked))
    if reason and asked is not None:
        raise InvalidInput(f"--opset: {reason}")
    if reason:
        job.report.notes.append(reason)
    check_opset(job.passes, raised.opset_imports.get("", current), reason)
    return raised


def verify(job: Job, captured: Captured, original: ir.Model, lowered: ir.Model) -> None:
    """Compare the result with the file as it was read, before its opset was raised.

    Raises:
        VerificationError: they disagree; it names the pass, or the conversion of the opset.
    """
    model = captured.program
    batches = job.batches(captured, captured.inputs or [])
    check = job.checker(original, batches)
    errors = check(runner(lowered))
    if original is not model and first_violation(errors) is not None:
        converted = first_violation(check(runner(original)))
        if converted is not None:
            raise failure(converted, f"conversion to opset {original.opset_imports['']}")
    job.accept(original, errors, batches, "by program")


def _external(order: Order, model: ir.Model) -> bool | None:
    """Where the weights go; a file replaced by its own result keeps them where they were."""
    if order.external_data is not None or order.output is None:
        return order.external_data
    in_place = order.output.exists() and order.output.samefile(order.model)
    outside = any(isinstance(tensor, ir.ExternalTensor) for _, tensor in weights(model))
    return True if in_place and outside else None


def _on_disk(path: Path, counted: Facts) -> int:
    """Bytes of the file, and of its data file if it is too small to hold the weights itself."""
    own = path.stat().st_size
    return own if own >= counted.bytes else own + path.with_name(f"{path.name}.data").stat().st_size
