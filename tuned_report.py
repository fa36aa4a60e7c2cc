"""What a report says of a search: the plan, what it takes beside the baseline, and how it went."""

from .backends.tuning.memory import Remembered
from .backends.tuning.records import OBJECTIVES
from .backends.tuning.search import Found
from .backends.tuning.standing import sparkline
from .passes.report import Report

HISTORY = "history (s, best)"
"""In `Report.chosen`: seconds and cost of each best plan."""
INTERRUPTED = "interrupted after"
"""How the note on a search that was ended by Ctrl-C begins."""
FAILURES = 3
"""Reasons of failed candidates that a report lists."""


def tell(
    report: Report, known: Remembered, found: Found | None = None, *, looked_up: bool = False
) -> None:
    """Add a search to the report of the plan that it found."""
    record, search = known.record, known.search
    unit = OBJECTIVES[record.key.objective]
    report.chosen = {
        "plan": known.plan.to_dict(),
        "in words": str(known.plan),
        f"baseline {unit}": round(record.baseline, 4),
        f"best {unit}": round(record.cost, 4),
        "ratio": round(record.ratio, 4),
        "error": record.error,
        "trials": {"tried": record.trials, **search.get("outcomes", {})},
        "seconds": search.get("seconds", 0.0),
        HISTORY: search.get("history", []),
    }
    report.notes += _notes(known, unit, looked_up)
    if found is not None:
        report.notes += _told(found)


def _notes(known: Remembered, unit: str, looked_up: bool) -> list[str]:
    record, search = known.record, known.search
    notes = ["taken from the database; nothing was measured"] if looked_up else []
    line = sparkline(search.get("history", []), record.baseline, search.get("seconds", 0.0))
    if line:
        note = f"search: {record.baseline:.4g} {unit} {line} {record.cost:.4g} {unit}"
        if record.key.objective != "memory":
            faster = record.baseline / record.cost
            note += f" in {search['seconds']:.0f} s ({faster:.2f} times the baseline's speed)"
        notes.append(note)
    if known.plan.streams > 1:
        notes.append(
            f"the throughput is that of {known.plan.streams} threads calling the model at once"
        )
    return notes


def _told(found: Found) -> list[str]:
    standing, notes = found.standing, []
    if found.interrupted:
        notes.append(
            f"{INTERRUPTED} {standing.tried} trials; the same call again goes on from there"
        )
    for why, count in standing.failures.most_common(FAILURES):
        notes.append(f"{count} candidates failed: {why}")
    return notes
