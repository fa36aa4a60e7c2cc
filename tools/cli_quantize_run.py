"""`passel quantize`: the same run as `passel optimize`, and what it cost layer by layer."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from ..backends.choices import SessionChoice
from ..backends.measure import interleaved, medians
from ..backends.onnxruntime import Session
from ..errors import InvalidInput
from ..graph.onnx_io import read
from ..passes import Quantize
from ..passes.base import Refusal
from ..passes.report import Report
from ..passes.report_quality import quality_notes, quality_table
from ..passes.report_text import errors_table
from .cli_optimize import Order, Outcome, check_paths, outcome_of
from .cli_optimize_text import applied, details
from .cli_screen import Screen
from .cli_tables import columns, comparison, duration, labelled, milliseconds
from .plots import check_plot, plot_layers

SHOWN = 20
"""Layers that get a row of their own."""
EXAMPLES = 3
"""Ops that are named for each reason."""
SECONDS = 1.0
"""Time given to each file by `--measure`."""


@dataclass(frozen=True)
class Extras:
    """What `passel quantize` does besides.

    Attributes:
        plot: where to draw the error by layer.
        measure: whether to time both files.
    """

    plot: Path | None = None
    measure: bool = False


def carry_out(order: Order, one: Quantize, extras: Extras, screen: Screen) -> None:
    """Quantize, and print what became of the model.

    Raises:
        PasselError: as `compiler.export_onnx`.
    """
    check_paths(order)
    _check_extras(order, extras)
    if order.dry_run:
        from .cli_quantize_plan import planned

        with screen.working() as working:
            parts = planned(order, one, working)
        screen.print(*parts)
        return
    with screen.working() as working:
        outcome = outcome_of(order, working)
        if extras.measure:
            working.say("timing both models")
            measure(order, outcome.report)
    screen.print(*_summary(outcome, order.verbose))
    if order.report is not None:
        outcome.report.to_json(order.report)
    if extras.plot is not None and outcome.report.layers:
        plot_layers(outcome.report, extras.plot)
    screen.print(f"wrote {order.output}")


def _check_extras(order: Order, extras: Extras) -> None:
    """Refuse what could only fail after the work is done."""
    if extras.plot is not None:
        check_plot(extras.plot)
        if extras.plot in (order.output, order.report):
            raise InvalidInput(f"--plot: expected a file of its own, got {str(extras.plot)!r}")
    if not extras.measure or order.dry_run:
        return
    assert order.output is not None
    if order.output.exists() and order.output.samefile(order.model):
        raise InvalidInput("--measure: expected an output beside the model, got the model itself")


# -- what is printed -------------------------------------------------------------------------------


def _summary(outcome: Outcome, verbose: bool) -> list[str | Table]:
    report = outcome.report
    parts: list[str | Table] = [comparison(outcome.before, outcome.after, ("float", "quantized"))]
    parts.append(errors_table(report) if report.errors else labelled("agreement", report.verified))
    if report.layers:
        parts += [quality_table(report.layers, SHOWN)]
        parts += [str(note) for note in quality_notes(report.layers)]
    else:
        parts.append("nothing was quantized")
    refused = [pair for entry in _quantized(report) for pair in entry.refused]
    if refused:
        parts.append(refusals_table(refused))
    parts += [labelled("passes", applied(report)), *_lines(report)]
    return [*parts, *details(report)] if verbose else parts


def _lines(report: Report) -> list[str]:
    lines = [labelled("agreement", report.verified)] if report.errors else []
    lines += [labelled("note", note) for note in report.notes]
    lines += [labelled("latency", str(found)) for found in report.chosen.values()]
    spent = ", ".join(f"{name} {duration(seconds)}" for name, seconds in report.stages.items())
    return [*lines, labelled("time", f"{duration(sum(report.stages.values()))} ({spent})")]


def _quantized(report: Report) -> list[Any]:
    return [entry for entry in report.passes if entry.name == Quantize.name]


def refusals_table(refused: Sequence[tuple[str, Refusal]]) -> Table:
    """The ops that stay in float: how many for each reason, and some of their names."""
    table = columns("ops", "left in float because", "for example", left=(1, 2))
    by_reason: dict[str, list[tuple[str, Refusal]]] = {}
    for site, why in refused:
        by_reason.setdefault(why.reason, []).append((site, why))
    for reason, found in sorted(by_reason.items(), key=lambda item: -len(item[1])):
        named = [site + (f" ({why.detail})" if why.detail else "") for site, why in found]
        more = ", …" if len(named) > EXAMPLES else ""
        table.add_row(str(len(found)), Text(reason), Text(", ".join(named[:EXAMPLES]) + more))
    return table


# -- measuring -------------------------------------------------------------------------------------


def measure(order: Order, report: Report) -> None:
    """Time the file and what was made of it in turns, and say which is faster."""
    assert order.output is not None
    tensors = list(order.inputs.of(read(order.model)).values())
    choice = SessionChoice(threads=order.threads)
    files = {"float": order.model, "quantized": order.output}
    sessions = {name: Session(path, choice=choice) for name, path in files.items()}
    calls = {
        name: (lambda session=session: session.run_tensors(tensors))
        for name, session in sessions.items()
    }
    found = medians(interleaved(calls, seconds=SECONDS))
    told = ", ".join(f"{name} {milliseconds(found[name] / 1e3)} ms" for name in files)
    report.chosen["quantized against float"] = (
        f"{told}: {verdict(found['float'], found['quantized'])}"
    )


def verdict(plain: float, quantized: float) -> str:
    """Which of two latencies is better, in words."""
    if quantized <= plain:
        return f"{plain / quantized:.2f} times as fast as float"
    return (
        f"SLOWER than float, {quantized / plain:.2f} times its time; another --scheme, or "
        "--placement with fewer ops, may be faster"
    )
