"""Run passes over a graph: traversal, fixpoint, exclusion, checking, timing, and the report."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from ..errors import InvalidInput, PasselError
from ..graph import Graph
from ..graph.check import check
from .base import AnyPass, Context, Pass, Site
from .patterns import Pattern, Patterns
from .report import PassReport, count_ops

MAX_ROUNDS = 100
"""A pass that still finds sites after so many rounds is undoing its own work: a bug."""

Exclude = Sequence[str] | Mapping[str, Sequence[str]]
"""Patterns for all passes, or per pass name."""
Progress = Callable[[str, int, int], None]
"""Called with a pass's spec, its position and the number of passes, before the pass runs."""

S = TypeVar("S", bound=Site)


def run_passes(
    graph: Graph,
    passes: "Sequence[AnyPass]",
    *,
    exclude: Exclude = (),
    progress: Progress | None = None,
    context: Context | None = None,
) -> list[PassReport]:
    """Apply each pass to `graph` in turn until it finds nothing more; edits in place.

    With a context, each pass is first settled in it, which shows in its spec.

    Raises:
        InvalidInput: an exclude pattern matches no op of the graph, or names no pass of the run.
        InvalidGraph: a pass broke the graph's grammar.
    """
    kept_off = exclusions(graph, passes, exclude)
    reports = []
    for position, one in enumerate(passes):
        if progress is not None:
            progress(one.spec, position, len(passes))
        if context is not None:
            one = one.settled(graph, context)
        reports.append(run_pass(graph, one, kept_off.get(one.name, ())))
    return reports


def run_pass(graph: Graph, one: "Pass[S]", patterns: "Sequence[Pattern]" = ()) -> PassReport:
    """Apply one pass to its fixpoint."""
    report = PassReport(one.spec, ops_before=count_ops(graph))
    start = time.perf_counter()
    for _ in range(MAX_ROUNDS):
        if not _round(graph, one, patterns, report) or one.once:
            break
    else:
        raise PasselError(f"{one.spec} did not settle in {MAX_ROUNDS} rounds: a bug in it")
    report.seconds = time.perf_counter() - start
    report.ops_after = count_ops(graph)
    check(graph, one.spec)
    return report


def _round(graph: Graph, one: "Pass[S]", patterns: "Sequence[Pattern]", report: PassReport) -> int:
    """One walk over all sites; refusals are those of the last walk."""
    report.refused, report.excluded = [], []
    applied = 0
    for site in one.match(graph):
        anchor = site.anchor
        if anchor.erased:
            continue
        refusal = one.refuse(graph, site)
        if refusal is not None:
            if anchor.name not in report.applied:  # what was just rewritten is not "left alone"
                report.refused.append((anchor.name, refusal))
        elif any(pattern.matches(op) for pattern in patterns for op in site.touched):
            report.excluded.append(anchor.name)
        else:
            one.rewrite(graph, site)
            report.applied.append(anchor.name)
            quality = getattr(site, "quality", None)
            report.layers += [] if quality is None else [quality]
            applied += 1
    return applied


def exclusions(
    graph: Graph, passes: "Sequence[AnyPass]", exclude: Exclude
) -> dict[str, list[Pattern]]:
    """Patterns by pass name, each checked to match something.

    Raises:
        InvalidInput: see `run_passes`.
    """
    names = {one.name for one in passes}
    if isinstance(exclude, str):
        exclude = [exclude]
    if not isinstance(exclude, Mapping):
        exclude = dict.fromkeys(names, exclude)
    unknown = {name for name in exclude if name.replace("_", "-") not in names}
    if unknown:
        ran = ", ".join(sorted(names))
        raise InvalidInput(f"exclude: expected passes of this run ({ran}), got {sorted(unknown)}")
    listed = {name: [t] if isinstance(t, str) else t for name, t in exclude.items()}
    found = {n.replace("_", "-"): [Pattern(text) for text in texts] for n, texts in listed.items()}
    Patterns([text for texts in listed.values() for text in texts]).check("exclude", graph.ops)
    return found
