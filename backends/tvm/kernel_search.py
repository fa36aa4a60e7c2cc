"""Search what our own rules decide: one decision after the other, all options timed side by side.

A rule's formula is close, so the options are its favourites only (`decide.OFFERED`), and the search
goes through the decisions once, keeping each winner for those that follow.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .checked import Pair, judge
from .kernel_timer import times
from .kernels import Kernel
from .machine import Machine
from .tuned import Winner, by_rules, form_of, kernel_key
from .verdicts import Verdicts

if TYPE_CHECKING:
    import tvm

GAIN = 0.97
"""A schedule replaces another only where it takes less than this share of its time."""
TURN_SECONDS = 0.25
"""Time for each option of a decision, at least."""


@dataclass(frozen=True)
class Search:
    """How to search.

    Attributes:
        machine: where the kernels run.
        verdicts: of comparisons with the plain form.
        left: seconds that are left to the caller.
    """

    machine: Machine
    verdicts: Verdicts
    left: Callable[[], float]


def best_decisions(kernel: Kernel, search: Search, seconds: float) -> tuple[Winner | None, bool]:
    """The fastest decisions that were found, None for those of the formula.

    Also whether all of them were tried before the time was up.
    """
    chosen: dict[str, str] = {}
    winner: Winner | None = None
    share = seconds / max(len(kernel.decisions), 1)
    for name, options in kernel.decisions.items():
        if search.left() < TURN_SECONDS * len(options):
            return winner, False
        found = _best_option(kernel, chosen, name, options, search, share)
        if found is not None:
            chosen[name], winner = found
    return winner, True


def _best_option(
    kernel: Kernel,
    chosen: dict[str, str],
    name: str,
    options: list[str],
    search: Search,
    seconds: float,
) -> tuple[str, Winner] | None:
    """The fastest option of one decision, where it is not the formula's."""
    forms: dict[str, tvm.tirx.PrimFunc] = {}
    seen: set[str] = set()
    for option in options:
        schedule, _ = by_rules(kernel.plain, search.machine, {**chosen, name: option})
        if schedule is None:
            continue
        form = form_of(schedule)
        if (key := kernel_key(form)) not in seen:
            seen.add(key)
            forms[option] = form
    spent = max(TURN_SECONDS * len(forms), min(seconds, search.left()))
    found = times(kernel.plain, forms, search.machine, spent)
    first = options[0]
    for option in sorted(found, key=lambda option: found[option]):
        if option == first or found[option] > GAIN * found.get(first, math.inf):
            return None
        if not agrees(kernel, forms[option], search):
            continue
        # The fastest of many was perhaps only lucky, so it has to win once more.
        again = times(
            kernel.plain,
            {"ours": kernel.ours, first: forms[first], option: forms[option]},
            search.machine,
            3 * TURN_SECONDS,
        )
        if again[option] > GAIN * again[first]:
            return None
        return option, Winner(again[option], again["ours"], {**chosen, name: option})
    return None


def agrees(kernel: Kernel, form: "tvm.tirx.PrimFunc", search: Search) -> bool:
    """Whether a schedule computes what the kernel does."""
    pair = {kernel.key: Pair(kernel.plain, form)}
    return not judge(pair, search.machine, search.verdicts)[kernel.key]
