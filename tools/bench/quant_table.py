"""The rows of the quantization benchmark, as a table and as JSON."""

import json
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table

from .quant_sides import BASE, is_peer
from .quant_work import Place

MIB = 2**20
HEADINGS = (
    "side", "median ms", "p25–p75", "vs fp32", "vs best peer", "error %", "file MiB", "peak MiB",
    "notes",
)  # fmt: skip


@dataclass
class Row:
    """What is known about one side.

    Attributes:
        failure: why there are no numbers; empty if there are.
        beaten_by: a setting of the same family that is faster and no less exact.
        times: medians and quartiles, as `latency.summary` gives them; None for an untimed side.
        fidelity: as `quant_error.Fidelity.to_dict` gives it.
    """

    side: str
    about: str
    failure: str = ""
    beaten_by: str = ""
    times: "dict[str, Any] | None" = None
    peak: int = 0
    size: int = 0
    fidelity: "dict[str, Any]" = field(default_factory=dict)
    notes: "list[str]" = field(default_factory=list)
    build_seconds: float = 0.0

    @property
    def median_ms(self) -> float:
        """Median latency; infinite where it is not measured."""
        return float(self.times["median_ms"]) if self.times else float("inf")

    @property
    def error(self) -> float:
        """Relative error of the outputs."""
        return float(self.fidelity["relative"])

    def note(self, place: Place, times: "dict[str, Any] | None", peak: int) -> None:
        """Take over what a process measured."""
        self.times, self.peak = times or self.times, peak
        self.fidelity = json.loads(place.error(self.side).read_text("utf-8"))

    def describe(self, place: Place, side: str) -> None:
        """Take over what is known about the files."""
        built = place.built(side)
        self.size, self.notes = place.bytes(side), built["notes"]
        self.build_seconds = built["seconds"]


def shown(rows: "list[Row]") -> "list[Row]":
    """Measured sides by time, then those with errors only, then those that failed."""
    return sorted(
        (row for row in rows if not row.beaten_by),
        key=lambda row: (bool(row.failure), row.median_ms, row.fidelity.get("relative", 0.0)),
    )


def references(rows: "list[Row]") -> "tuple[float | None, float | None]":
    """Median of float ONNX Runtime and of the fastest quantized peer, where measured."""
    timed = [row for row in rows if row.times and not row.failure and not row.beaten_by]
    base = next((row.median_ms for row in timed if row.side == BASE), None)
    return base, min((row.median_ms for row in timed if is_peer(row.side)), default=None)


def table(model: str, rows: "list[Row]", facts: "dict[str, Any]", threads: int) -> Table:
    """One model's results; ratios above 1 mean faster than the reference."""
    weights = "trained" if facts["trained"] else "random"
    title = f"{model}, {weights} weights, {threads} threads, {facts['judged']} held-out inputs"
    drawn = Table(title=title, title_justify="left")
    for heading in HEADINGS:
        text = heading in ("side", "notes")
        drawn.add_column(heading, justify="left" if text else "right", no_wrap=heading != "notes")
    base, best = references(rows)
    for row in shown(rows):
        drawn.add_row(*cells(row, base, best, facts["tokens"]))
    hidden = [f"{row.side} (by {row.beaten_by})" for row in rows if row.beaten_by]
    if hidden:
        drawn.caption = "beaten in time and error by another setting: " + ", ".join(hidden)
    return drawn


def cells(row: Row, base: float | None, best: float | None, tokens: int) -> "list[str]":
    """A row's texts, in the order of HEADINGS."""
    if row.failure:
        return [row.side, *["-"] * (len(HEADINGS) - 2), row.failure]
    notes = list(row.notes)
    timing = ["-"] * 4
    if row.times:
        median = row.median_ms
        spread = f"{row.times['p25_ms']:.2f}–{row.times['p75_ms']:.2f}"
        ratios = [f"{reference / median:.2f}×" if reference else "-" for reference in (base, best)]
        timing = [f"{median:.2f}", spread, *ratios]
        if tokens:
            notes.insert(0, f"{tokens * 1e3 / median:.0f} tokens/s")
    size = f"{row.size / MIB:.1f}" if row.size else "-"
    cost = [f"{row.error * 100:.3g}", size, f"{row.peak / MIB:.0f}"]
    return [row.side, *timing, *cost, "; ".join(notes)]


def rows_to_json(
    found: "dict[str, list[Row]]", facts: "dict[str, dict[str, Any]]"
) -> "dict[str, Any]":
    """All rows, with their ratios."""
    content: dict[str, Any] = {}
    for model, rows in found.items():
        base, best = references(rows)
        content[model] = {
            **{name: facts[model][name] for name in ("trained", "judged", "tokens")},
            "sides": {row.side: _plain(row, base, best) for row in rows},
        }
    return content


def _plain(row: Row, base: float | None, best: float | None) -> "dict[str, Any]":
    if row.failure:
        return {"about": row.about, "failure": row.failure}
    times = row.times or {}
    plain: dict[str, Any] = {"about": row.about, **times, "error": row.fidelity}
    plain |= {"peak_mib": row.peak / MIB, "file_bytes": row.size, "notes": row.notes}
    plain |= {"build_seconds": row.build_seconds, "beaten_by": row.beaten_by or None}
    for name, reference in (("vs_fp32", base), ("vs_best_peer", best)):
        plain[name] = reference / row.median_ms if reference and row.times else None
    return plain
