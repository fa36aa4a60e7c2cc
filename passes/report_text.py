"""A report as text: one rich table a topic, plain when the terminal is."""

from collections.abc import Iterable, Iterator
from io import StringIO
from itertools import groupby
from math import isinf

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..graph.cost_layers import AttentionLayer
from .report import PassReport, Report
from .report_quality import evaluation_table, quality_notes, quality_table

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
    if any(_cells(old, old) != _cells(old, new) for old, new in paired(report)):
        console.print(layers_table(report))
    if report.layers:
        console.print(quality_table(report.layers), *quality_notes(report.layers), sep="\n")
    if report.errors:
        console.print(errors_table(report))
    if report.evaluation:
        console.print(evaluation_table(report.evaluation))
    lines = [f"verified: {report.verified}", *(f"note: {note}" for note in report.notes)]
    if report.before.uncounted:
        lines.append(f"cost: {report.before.uncounted}")
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
    _row(table, "constants MB", f"{before.bytes / 1e6:.4g}", _smaller(before.bytes, after.bytes))
    _row(table, "GFLOPs", giga(before.flops), giga(after.flops))
    written = before.activation_bytes, after.activation_bytes
    _row(table, "activation MB", *(f"{count / 1e6:.4g}" for count in written))
    kinds = dict.fromkeys([*before.ops, *after.ops])
    for kind in list(kinds)[:KINDS_SHOWN]:
        _row(table, kind, str(before.ops.get(kind, 0)), str(after.ops.get(kind, 0)))
    if len(kinds) > KINDS_SHOWN:
        _row(table, f"… {len(kinds) - KINDS_SHOWN} more kinds", "", "")
    return table


def _smaller(before: int, after: int) -> str:
    """Megabytes, and how many times smaller that is where it differs."""
    ratio = f" ({before / after:.2f}× smaller)" if after and before > after else ""
    return f"{after / 1e6:.4g}{ratio}"


def layers_table(report: Report) -> Table:
    """Tokens, operations and key and value bytes of each attention layer; equal rows as one."""
    table = Table(title="attention layers", title_justify="left")
    for heading in ("layer", "tokens q/kv", "GFLOPs", "KV bytes"):
        table.add_column(heading, justify="left" if heading == "layer" else "right")
    rows = [(_label(old or new), *_cells(old, new)) for old, new in paired(report)]
    for names, cells in grouped(rows):
        _row(table, names, *cells)
    layers = report.before.layers, report.after.layers
    flops, cached = ([sum(_numbers(one)[k] for one in some) for some in layers] for k in (0, 1))
    totals = _moved(*map(giga, flops)), _moved(*(f"{count:,}" for count in cached))
    shares = [f"{100 * new / old:.1f} %" if old else "" for old, new in (flops, cached)]
    _row(table, "all", "", *(f"{t} ({s})" if s else t for t, s in zip(totals, shares, strict=True)))
    return table


def paired(report: Report) -> "list[tuple[AttentionLayer | None, AttentionLayer | None]]":
    """Layers before and after: by position if there are as many, else by name."""
    before, after = report.before.layers, report.after.layers
    if len(before) == len(after):
        return list(zip(before, after, strict=True))
    old, new = ({layer.name: layer for layer in layers} for layers in (before, after))
    return [(old.get(name), new.get(name)) for name in dict.fromkeys([*old, *new])]


def grouped(rows: "Iterable[tuple[str, ...]]") -> "Iterator[tuple[str, tuple[str, ...]]]":
    """Rows of a name and cells, those with equal cells as one: "first … last (12)"."""
    for cells, equal in groupby(rows, key=lambda row: row[1:]):
        names = [row[0] for row in equal]
        several = f"{names[0]} … {names[-1]} ({len(names)})"
        yield names[0] if len(names) == 1 else several, cells


def tokens(layer: AttentionLayer) -> str:
    """Query and key tokens."""
    return f"{layer.queries}/{layer.keys}"


def giga(count: int) -> str:
    """A number in billions, to four digits."""
    return f"{count / 1e9:.4g}"


def _label(layer: AttentionLayer | None) -> str:
    return "" if layer is None else layer.label


def _cells(old: AttentionLayer | None, new: AttentionLayer | None) -> tuple[str, ...]:
    """Tokens, operations, bytes; before → after where they differ, – for a layer that is gone."""
    texts = [
        ("–", "–", "–")
        if layer is None
        else (tokens(layer), giga(layer.flops), f"{layer.kv_bytes:,}")
        for layer in (old, new)
    ]
    return tuple(_moved(*pair) for pair in zip(*texts, strict=True))


def _numbers(layer: AttentionLayer) -> tuple[int, int]:
    return layer.flops, layer.kv_bytes


def _moved(old: str, new: str) -> str:
    return old if old == new else f"{old} → {new}"


def errors_table(report: Report) -> Table:
    """Verification, one row an output."""
    table = Table(title="verification", title_justify="left")
    is_lossy = bool(report.layers) or any(isinf(error.tolerance) for error in report.errors)
    more = ("cosine",) if is_lossy else ()
    for heading in ("output", "max |Δ|", "max |y|", "relative", "allowed", "SNR dB", *more):
        table.add_column(heading, justify="left" if heading == "output" else "right")
    for error in report.errors:
        numbers = (error.max_abs, error.peak, error.relative, error.tolerance)
        cells = [*(f"{n:.2e}" for n in numbers), f"{error.snr_db:.{1 if is_lossy else 0}f}"]
        _row(table, error.name, *cells, *(f"{error.cosine:.6f}" for _ in more))
    return table
