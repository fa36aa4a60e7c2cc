"""A report as text: one rich table a topic, plain when the terminal is."""

from io import StringIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

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
    lines = [f"verified: {report.verified}", *(f"note: {note}" for note in report.notes)]
    lines += [f"chosen: {name} = {choice}" for name, choice in report.chosen.items()]
    stages = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in report.stages.items())
    if stages:
        lines.append(f"time: {stages}")
    console.print(Text("\n".join(lines)))


def _row(table: Table, *cells: str) -> None:
    """Add a row as it stands: a node's name may look like rich markup."""
    table.add_row(*(Text(cell) for cell in cells))


def passes_table(report: Report) -> Table:
    """One row a pass: sites rewritten and left alone, and the op kinds whose number changed."""
    table = Table(
        title=Text(f"passes on {report.model}" if report.model else "passes"), title_justify="left"
    )
    for heading in ("pass", "applied", "left alone", "changed", "ms"):
        table.add_column(heading, justify="right" if heading in ("applied", "ms") else "left")
    for entry in report.passes:
        left = str(len(entry.refused) + len(entry.excluded) or "-")
        applied = str(len(entry.applied) or "-")
        _row(table, entry.spec, applied, left, _changes(entry), f"{entry.seconds * 1e3:.0f}")
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
    if entry.applied:
        return "weights only"
    return "nothing" if entry.refused or entry.excluded else "nothing found"


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
            _row(table, spec, str(count), reason, example)
        if entry.excluded:
            _row(table, spec, str(len(entry.excluded)), "excluded by the caller", entry.excluded[0])
    return table


def sizes_table(report: Report) -> Table:
    """Op counts, parameters and bytes, before and after."""
    table = Table(title="before and after", title_justify="left")
    for heading in ("", "before", "after"):
        table.add_column(heading, justify="left" if not heading else "right")
    before, after = report.before, report.after
    _row(table, "ops", str(sum(before.ops.values())), str(sum(after.ops.values())))
    _row(table, "parameters", f"{before.parameters:,}", f"{after.parameters:,}")
    _row(table, "bytes", f"{before.bytes:,}", f"{after.bytes:,}")
    kinds = dict.fromkeys([*before.ops, *after.ops])
    for kind in list(kinds)[:KINDS_SHOWN]:
        _row(table, kind, str(before.ops.get(kind, 0)), str(after.ops.get(kind, 0)))
    if len(kinds) > KINDS_SHOWN:
        _row(table, f"… {len(kinds) - KINDS_SHOWN} more kinds", "", "")
    return table


def errors_table(report: Report) -> Table:
    """Verification, one row an output."""
    table = Table(title="verification", title_justify="left")
    for heading in ("output", "max |Δ|", "max |y|", "relative", "allowed", "SNR dB"):
        table.add_column(heading, justify="left" if heading == "output" else "right")
    for error in report.errors:
        numbers = (error.max_abs, error.peak, error.relative, error.tolerance)
        _row(table, error.name, *(f"{n:.2e}" for n in numbers), f"{error.snr_db:.0f}")
    return table
