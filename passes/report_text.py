"""A report as text: one rich table a topic, plain when the terminal is."""

from io import StringIO

from rich.console import Console
from rich.table import Table

from .report import PassReport, Report

WIDTH = 110
KINDS_SHOWN = 14


def render(report: Report, width: int = WIDTH) -> str:
    """The whole report, as plain text."""
    buffer = StringIO()
    print_report(report, Console(file=buffer, width=width, color_system=None))
    return buffer.getvalue()


def print_report(report: Report, console: Console) -> None:
    """Print passes, refusals, op counts and errors."""
    console.print(passes_table(report))
    if any(entry.refused or entry.excluded for entry in report.passes):
        console.print(refusals_table(report))
    console.print(sizes_table(report))
    if report.errors:
        console.print(errors_table(report))
    console.print(f"verified: {report.verified}")
    for note in report.notes:
        console.print(f"note: {note}")
    for name, choice in report.chosen.items():
        console.print(f"chosen: {name} = {choice}")
    stages = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in report.stages.items())
    if stages:
        console.print(f"time: {stages}")


def passes_table(report: Report) -> Table:
    """One row a pass: sites rewritten and left alone, and the op kinds whose number changed."""
    table = Table(
        title=f"passes on {report.model}" if report.model else "passes", title_justify="left"
    )
    for heading in ("pass", "applied", "left alone", "changed", "ms"):
        table.add_column(heading, justify="right" if heading in ("applied", "ms") else "left")
    for entry in report.passes:
        left = str(len(entry.refused)) if entry.refused else "-"
        applied = str(len(entry.applied)) if entry.applied else "-"
        table.add_row(entry.spec, applied, left, _changes(entry), f"{entry.seconds * 1e3:.0f}")
    return table


def _changes(entry: PassReport) -> str:
    kinds = dict.fromkeys([*entry.ops_before, *entry.ops_after])
    moves = [
        f"{kind} {entry.ops_before.get(kind, 0)}→{entry.ops_after.get(kind, 0)}"
        for kind in kinds
        if entry.ops_before.get(kind, 0) != entry.ops_after.get(kind, 0)
    ]
    if moves:
        return ", ".join(moves)
    return "weights only" if entry.applied else "nothing found" if not entry.refused else "nothing"


def refusals_table(report: Report) -> Table:
    """Every reason for which a pass left something alone, counted, with one example."""
    table = Table(title="left alone", title_justify="left")
    for heading in ("pass", "sites", "reason", "for example"):
        table.add_column(heading, justify="right" if heading == "sites" else "left")
    latest = {entry.spec: entry for entry in report.passes}
    for spec, entry in latest.items():
        for reason, count in entry.reasons.items():
            site, refusal = next(pair for pair in entry.refused if pair[1].reason == reason)
            example = f"{site}: {refusal.node} {refusal.detail}".strip()
            table.add_row(spec, str(count), reason, example)
        if entry.excluded:
            table.add_row(
                spec, str(len(entry.excluded)), "excluded by the caller", entry.excluded[0]
            )
    return table


def sizes_table(report: Report) -> Table:
    """Op counts, parameters and bytes, before and after."""
    table = Table(title="before and after", title_justify="left")
    for heading in ("", "before", "after"):
        table.add_column(heading, justify="left" if not heading else "right")
    before, after = report.before, report.after
    table.add_row("ops", str(sum(before.ops.values())), str(sum(after.ops.values())))
    table.add_row("parameters", f"{before.parameters:,}", f"{after.parameters:,}")
    table.add_row("bytes", f"{before.bytes:,}", f"{after.bytes:,}")
    kinds = dict.fromkeys([*before.ops, *after.ops])
    for kind in list(kinds)[:KINDS_SHOWN]:
        table.add_row(kind, str(before.ops.get(kind, 0)), str(after.ops.get(kind, 0)))
    if len(kinds) > KINDS_SHOWN:
        table.add_row(f"… {len(kinds) - KINDS_SHOWN} more kinds", "", "")
    return table


def errors_table(report: Report) -> Table:
    """Verification, one row an output."""
    table = Table(title="verification", title_justify="left")
    for heading in ("output", "max |Δ|", "max |y|", "relative", "allowed", "SNR dB"):
        table.add_column(heading, justify="left" if heading == "output" else "right")
    for error in report.errors:
        numbers = (error.max_abs, error.peak, error.relative, error.tolerance)
        table.add_row(error.name, *(f"{n:.2e}" for n in numbers), f"{error.snr_db:.0f}")
    return table
