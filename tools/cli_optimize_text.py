"""The summary of one optimization: a table, and a line for whatever else matters."""

import sys
from collections import Counter
from math import isinf

from rich.table import Table

from ..passes.report import Report
from ..passes.report_text import errors_table, passes_table, refusals_table
from .cli_facts import Facts
from .cli_tables import comparison, duration, labelled, size

REASONS = 6
"""Reasons for leaving sites alone that the summary lists."""


def summary(before: Facts, after: Facts, report: Report) -> list[str | Table]:
    """What changed, how well it agrees, what was left alone, how long it took."""
    lines: list[str | Table] = [comparison(before, after, ("before", "after"))]
    lines += [labelled("passes", applied(report)), labelled("agreement", agreement(report))]
    lines += [
        labelled("left alone" if not k else "", text) for k, text in enumerate(refused(report))
    ]
    lines += [labelled("note", note) for note in report.notes]
    spent = ", ".join(f"{name} {duration(seconds)}" for name, seconds in report.stages.items())
    lines.append(labelled("time", f"{duration(sum(report.stages.values()))} ({spent})"))
    return lines


def details(report: Report) -> list[Table]:
    """Every pass, every reason and every output."""
    tables = [passes_table(report)]
    if any(entry.refused or entry.excluded for entry in report.passes):
        tables.append(refusals_table(report))
    return [*tables, errors_table(report)] if report.errors else tables


def agreement(report: Report) -> str:
    """The worst output of the verification."""
    if not report.errors:
        return report.verified
    worst = max(report.errors, key=lambda error: error.relative)
    if worst.max_abs == 0:
        return "every output is equal bit by bit"
    if isinf(worst.tolerance):
        return (
            f"lossy: SNR {worst.snr_db:.1f} dB, cosine {worst.cosine:.6f} at {worst.name!r}; max "
            f"error {worst.max_abs:.2g}, {worst.relative:.1e} of its largest value (not bounded)"
        )
    allowed = worst.tolerance / worst.peak if worst.peak else worst.tolerance
    return (
        f"max error {worst.max_abs:.2g} in {worst.name!r}, {worst.relative:.1e} of its largest "
        f"value (allowed {allowed:.0e}), SNR {worst.snr_db:.0f} dB"
    )


def refused(report: Report) -> list[str]:
    """Why passes left sites alone, as each saw it when it last ran."""
    latest = {entry.spec: entry for entry in report.passes}
    found = [
        f"{spec}: {count} × {reason}"
        for spec, entry in latest.items()
        for reason, count in sorted(entry.reasons.items(), key=lambda item: -item[1])
    ]
    found += [
        f"{spec}: {len(entry.excluded)} × excluded by --exclude"
        for spec, entry in latest.items()
        if entry.excluded
    ]
    rest = len(found) - REASONS
    return found[:REASONS] + ([f"{rest} more reasons: --verbose lists them"] if rest > 0 else [])


def dry_run_lines(before: Facts, after: Facts) -> list[str]:
    """What a run would take, in memory and on disk."""
    needed = before.bytes + 2 * before.largest_tensor
    lines = [
        labelled(
            "memory",
            f"about {size(needed)} to convert (the weights and twice the largest tensor, "
            f"{size(before.largest_tensor)}); verification loads both models besides, up to "
            f"{size(before.bytes + after.bytes)}",
        )
    ]
    peak = _peak_resident()
    if peak:
        lines.append(
            labelled("", f"this dry run peaked at {size(peak)}, torch and Python included")
        )
    lines.append(labelled("output", f"about {size(after.file_bytes or 0)}"))
    return [*lines, "nothing was written (--dry-run)"]


def _peak_resident() -> int:
    """The largest resident size of this process so far; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def applied(report: Report) -> str:
    """How many sites each pass rewrote, over all its runs."""
    sites: Counter[str] = Counter()
    for entry in report.passes:
        sites[entry.spec] += len(entry.applied)
    used = [f"{spec} {count}" for spec, count in sites.items() if count]
    idle = [spec for spec, count in sites.items() if not count]
    if not sites:
        return "none"
    if not used:
        return f"nothing found to do ({', '.join(idle)})"
    return ", ".join(used) + (f" (nothing for {', '.join(idle)})" if idle else "")
