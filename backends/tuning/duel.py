"""Two candidates against each other: short turns, A B, B A, ..., and the ratio of their times.

Drift of the machine (heat, neighbours) is slower than a turn, so it hits both sides of a pair of
turns alike: the ratio is the median, over the pairs, of the ratio of their medians. A challenger
that is clearly slower is sent home early.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ..measure import calls_in, medians

TURN_SECONDS = 0.06
MIN_TURNS = 3
"""Pairs of turns before a challenger may be sent home, and at least in all."""
MARGIN = 1.03
"""How much slower is clearly slower."""


class Side(Protocol):
    """What can be timed."""

    def time(self, calls: int) -> list[float]:
        """Seconds of each of so many calls in a row."""


@dataclass
class Duel:
    """What two sides took.

    Attributes:
        turns: seconds of the incumbent's calls and of the challenger's, pair by pair.
        stopped: whether it ended early.
    """

    turns: list[tuple[list[float], list[float]]] = field(default_factory=list)
    stopped: bool = False

    @property
    def ratio(self) -> float:
        """The challenger's time over the incumbent's: below 1 it is faster."""
        return statistics.median(
            statistics.median(theirs) / statistics.median(ours) for ours, theirs in self.turns
        )

    @property
    def milliseconds(self) -> tuple[float, float]:
        """Median of the incumbent's calls and of the challenger's."""
        found = medians({"ours": self._calls(0), "theirs": self._calls(1)})
        return found["ours"], found["theirs"]

    def _calls(self, side: int) -> list[float]:
        return [second for turn in self.turns for second in turn[side]]

    @property
    def is_clear(self) -> bool:
        """Whether the challenger is clearly slower: its fast calls are above our slow ones."""
        if len(self.turns) < MIN_TURNS:
            return False
        ours, theirs = sorted(self._calls(0)), sorted(self._calls(1))
        return _share(theirs, 0.1) > MARGIN * _share(ours, 0.75)


def duel(
    incumbent: Side,
    challenger: Side,
    *,
    seconds: float,
    early: bool = True,
) -> Duel:
    """Time both sides in turns, so many seconds each.

    Args:
        early: stop when the challenger is clearly slower.
    """
    sides = (incumbent, challenger)
    calls = tuple(_calls(side) for side in sides)
    found, spent = Duel(), 0.0
    while spent < 2 * seconds or len(found.turns) < MIN_TURNS:
        order = (0, 1) if len(found.turns) % 2 == 0 else (1, 0)
        taken: dict[int, list[float]] = {}
        for k in order:
            taken[k] = sides[k].time(calls[k] + 1)[1:]  # the first call meets cold caches
        found.turns.append((taken[0], taken[1]))
        spent += sum(taken[0]) + sum(taken[1])
        if early and found.is_clear:
            found.stopped = True
            return found
    return found


def _calls(side: Side) -> int:
    """How many calls fill a turn; also warms the side up."""
    return calls_in(TURN_SECONDS, min(side.time(3)))


def _share(ordered: Sequence[float], share: float) -> float:
    """The value that this share of sorted values does not exceed."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
