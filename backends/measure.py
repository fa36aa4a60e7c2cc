"""Measure candidates side by side: short turns, medians, so that drift hits all alike."""

import statistics
import time
from collections.abc import Callable, Mapping

TURN_SECONDS = 0.02
"""Length of a turn; its first call, which meets the caches and spinning threads of the neighbour
before it, is not counted."""
MAX_CALLS = 50


def interleaved(
    candidates: Mapping[str, Callable[[], object]], *, seconds: float = 1.0, min_turns: int = 3
) -> dict[str, list[float]]:
    """Wall-clock seconds of each candidate's calls, taken in turns.

    Turns go round until every candidate had its share of `seconds`, but at least `min_turns` each.
    The order alternates, so that none always runs behind the same neighbour.
    """
    calls = {name: _calls_per_turn(call) for name, call in candidates.items()}
    times: dict[str, list[float]] = {name: [] for name in candidates}
    deadline = time.perf_counter() + seconds * len(candidates)
    turn = 0
    while turn < min_turns or time.perf_counter() < deadline:
        for name in list(candidates)[:: 1 if turn % 2 == 0 else -1]:
            times[name] += timed(candidates[name], calls[name] + 1)[1:]
        turn += 1
    return times


def timed(call: Callable[[], object], count: int) -> list[float]:
    """Seconds of each of `count` calls in a row."""
    found = []
    for _ in range(count):
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return found


def _calls_per_turn(call: Callable[[], object]) -> int:
    """How many calls fill a turn; also warms the candidate up."""
    once = min(timed(call, 3))
    return max(1, min(MAX_CALLS, int(TURN_SECONDS / max(once, 1e-6))))


def medians(times: Mapping[str, list[float]]) -> dict[str, float]:
    """Median of each candidate, in milliseconds."""
    return {name: statistics.median(values) * 1e3 for name, values in times.items()}
