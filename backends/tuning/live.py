"""A search while it runs: a table on a terminal, nothing elsewhere unless the caller asks."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from .book import FAILED, MEASURED, SAME, SLOWER
from .records import OBJECTIVES
from .standing import Progress, Standing, sparkline

REFRESH = 4
"""Times a second."""


@contextmanager
def shown(progress: Progress | None) -> Iterator[Progress]:
    """What to tell the steps of a search to: the caller's own, or a table on a terminal."""
    if progress is not None or not sys.stderr.isatty():
        yield progress or (lambda _: None)
        return
    console = Console(file=sys.stderr)
    with Live(console=console, refresh_per_second=REFRESH, transient=True) as live:
        yield lambda standing: live.update(screen(standing))


def screen(standing: Standing) -> Group:
    """The state of a search as a table, with what is being done below."""
    unit = OBJECTIVES[standing.objective]
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim")
    table.add_column(overflow="ellipsis", no_wrap=True)
    known = standing.baseline > 0
    table.add_row("baseline", f"{standing.baseline:.4g} {unit}" if known else "…")
    table.add_row("best", best_of(standing))
    table.add_row("plan", Text(str(standing.best)))
    table.add_row("trials", counted(standing))
    table.add_row("time", clock(standing))
    line = sparkline(standing.history, standing.baseline, standing.spent)
    if line:
        table.add_row("search", line)
    return Group(table, Text(standing.doing, style="dim", overflow="ellipsis", no_wrap=True))


def best_of(standing: Standing) -> str:
    """The best cost and how it compares."""
    if standing.baseline <= 0:
        return "…"
    gain = f"{1 / standing.ratio:.2f} times better" if standing.ratio < 1 else "the baseline"
    return f"{standing.cost:.4g} {OBJECTIVES[standing.objective]} ({gain})"


def counted(standing: Standing) -> str:
    """Trials by what became of them."""
    counts, limit = standing.counts, standing.limits.trials
    of = f" of {limit}" if limit is not None else ""
    parts = [f"{counts[MEASURED]} measured", f"{counts[SLOWER]} pruned", f"{counts[FAILED]} failed"]
    again = f", {counts[SAME]} known already" if counts[SAME] else ""
    return f"{standing.tried}{of}: {', '.join(parts)}{again}"


def clock(standing: Standing) -> str:
    """Time spent and left."""
    left = standing.remaining
    return f"{_minutes(standing.spent)}" + (f", {_minutes(left)} to go" if left is not None else "")


def _minutes(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 60}:{whole % 60:02d}"


def line(standing: Standing) -> str:
    """The state in one line, for logs."""
    return f"{clock(standing)}  best {best_of(standing)}  trials {counted(standing)}"
