"""How a search stands: what is found so far, how far it is, and how it got there."""

import math
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Self

from ...errors import InvalidInput
from .book import FAILED, MEASURED, SLOWER, Result
from .plan import Plan

DEFAULT_BUDGET = "5min"
SECONDS = {"": 1, "s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600}
"""Units of time."""
CONFIRMING = 10.0
"""Seconds that starting the winner and the baseline once more and timing them may take."""
SHORT, KERNEL_SHARE = 60.0, 0.25
"""Seconds of a search from which on TVM's kernels are tuned too, and their share of them."""
BARS = "▁▂▃▄▅▆▇█"


def seconds_of(budget: "str | float") -> float:
    """A time in seconds: a number, or text such as "30s", "5min", "1.5 h".

    Raises:
        InvalidInput: it is neither, or not positive.
    """
    accepted = "expected a time like '30s', '5min' or '1h', or a number of seconds above 0"
    found = math.nan
    if isinstance(budget, str):
        match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([a-z]*)\s*", budget.lower())
        if match is not None and match[2] in SECONDS:
            found = float(match[1]) * SECONDS[match[2]]
    elif isinstance(budget, int | float) and not isinstance(budget, bool):
        found = float(budget)
    if not 0 < found < math.inf:
        raise InvalidInput(f"budget: {accepted}, got {budget!r}")
    return found


@dataclass(frozen=True)
class Limits:
    """When to stop, all workers and interrupted runs together; None for no limit.

    Attributes:
        seconds: spent in trials.
        trials: candidates tried, those not counted that were the same as another.
    """

    seconds: float | None = None
    trials: int | None = None

    @classmethod
    def of(cls, budget: "str | float | None", trials: int | None) -> Self:
        """From what a caller gave: a budget as `seconds_of` reads it; 5 minutes if both are None.

        Raises:
            InvalidInput: no time, no trials, or text that says no time.
        """
        if trials is not None and (isinstance(trials, bool) or not isinstance(trials, int)):
            raise InvalidInput(f"trials: expected a whole number, got {trials!r}")
        if trials is not None and trials < 1:
            raise InvalidInput(f"trials: expected at least 1, got {trials}")
        if budget is None and trials is None:
            budget = DEFAULT_BUDGET
        return cls(None if budget is None else seconds_of(budget), trials)

    @property
    def search_seconds(self) -> float:
        """The seconds without those kept for the last measurement, of the winner."""
        if self.seconds is None:
            return math.inf
        return self.seconds - min(CONFIRMING, 0.2 * self.seconds)

    @property
    def kernel_seconds(self) -> float:
        """The share of the seconds that goes to TVM's kernels; nothing of a short search."""
        if self.seconds is None or self.seconds < SHORT:
            return 0.0
        return round(KERNEL_SHARE * self.seconds)


@dataclass
class Standing:
    """The state of a search.

    Attributes:
        objective: what is minimised.
        limits: when it ends.
        baseline: cost of plain ONNX Runtime, in the objective's unit (`OBJECTIVES`).
        best: the best plan so far.
        ratio: its cost over the baseline's.
        counts: trials by outcome.
        history: (seconds spent so far, best cost) at each improvement.
        spent: seconds in trials, those of earlier runs included.
        doing: what is being done now.
        failures: how often candidates failed, by reason.
    """

    objective: str
    limits: Limits
    baseline: float = 0.0
    best: Plan = field(default_factory=Plan)
    ratio: float = 1.0
    counts: Counter[str] = field(default_factory=Counter)
    history: list[tuple[float, float]] = field(default_factory=list)
    spent: float = 0.0
    doing: str = ""
    failures: Counter[str] = field(default_factory=Counter)

    def add(self, plan: Plan, result: Result, spent: float) -> None:
        """Count a trial that finished when so many seconds were spent."""
        self.counts[result.outcome] += 1
        self.spent = max(self.spent, spent)
        if result.outcome == FAILED:
            self.failures[result.why] += 1
        if result.outcome == MEASURED and result.value is not None and result.value < self.ratio:
            self.best, self.ratio = plan, result.value
            self.history.append((round(self.spent, 2), self.cost))

    @property
    def cost(self) -> float:
        """Of the best plan, in the objective's unit."""
        return self.baseline * self.ratio

    @property
    def tried(self) -> int:
        """Candidates that count."""
        return self.counts[MEASURED] + self.counts[SLOWER] + self.counts[FAILED]

    @property
    def remaining(self) -> float | None:
        """Seconds until the search ends, about; None where that cannot be told."""
        found = []
        if self.limits.seconds is not None:
            found.append(self.limits.search_seconds - self.spent)
        if self.limits.trials is not None and self.tried:
            found.append((self.limits.trials - self.tried) * self.spent / self.tried)
        return max(0.0, min(found)) if found else None

    @property
    def is_over(self) -> bool:
        """Whether a limit is reached."""
        if self.spent >= self.limits.search_seconds:
            return True
        return self.limits.trials is not None and self.tried >= self.limits.trials


Progress = Callable[[Standing], None]
"""Called whenever a search stands otherwise than before."""


def sparkline(history: Sequence[tuple[float, float]], baseline: float, until: float) -> str:
    """The best cost over time as a line of bars, the baseline's the highest."""
    if not history or baseline <= 0:
        return ""
    width, lowest = 30, min([baseline, *(cost for _, cost in history)])
    span = max(baseline - lowest, 1e-12)
    bars = []
    for place in range(width):
        moment = until * (place + 1) / width
        cost = min((cost for at, cost in history if at <= moment), default=baseline)
        level = (min(cost, baseline) - lowest) / span
        bars.append(BARS[round(level * (len(BARS) - 1))])
    return "".join(bars)


class Clock:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start
