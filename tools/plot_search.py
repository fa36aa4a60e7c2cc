"""A picture of a search: the best cost so far over the seconds spent."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import InvalidInput
from ..passes.report import Report
from ..tuned_report import HISTORY
from .plots import COLOURS, blank, check_plot, save_plot


def plot_search(report: Report, path: str | os.PathLike[str]) -> None:
    """Draw how the best plan of a search got better. The same report gives the same file.

    Raises:
        InvalidInput: the suffix is not .png or .svg, the path cannot be written, or the report is
            not one of a search.
        BackendUnavailable: matplotlib is not installed.
    """
    target, chosen = Path(path), report.chosen
    check_plot(target)
    if HISTORY not in chosen:
        raise InvalidInput("plot: expected a report of a search, got one without")
    save_plot(target, lambda: _figure(chosen, report.model))


def _figure(chosen: "dict[str, Any]", model: str) -> Any:
    figure, axes = blank(6.0, 3.5)
    name, baseline = next((k, float(v)) for k, v in chosen.items() if k.startswith("baseline "))
    seconds, costs = steps(chosen[HISTORY], baseline, float(chosen["seconds"]))
    axes.axhline(baseline, color=COLOURS[1], label="baseline", linewidth=1)
    axes.step(seconds, costs, where="post", color=COLOURS[0], label="best so far")
    axes.set_xlabel("seconds")
    axes.set_ylabel(name.removeprefix("baseline "))
    axes.set_ylim(bottom=0)
    axes.set_title(f"search{f' for {model}' if model else ''}", loc="left")
    axes.legend(frameon=False)
    return figure


def steps(
    history: "Sequence[Sequence[float]]", baseline: float, until: float
) -> tuple[list[float], list[float]]:
    """Seconds and costs of the steps down, from the baseline at 0 to the end of the search."""
    seconds, costs = [0.0], [baseline]
    for moment, cost in history:
        seconds.append(float(moment))
        costs.append(float(cost))
    return [*seconds, max(until, seconds[-1])], [*costs, costs[-1]]
