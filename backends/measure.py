"""Measure candidates side by side: interleaved calls, medians, so that drift hits all alike."""

import statistics
import time
from collections.abc import Callable, Mapping

WARMUP = 3
MIN_ROUNDS, MAX_ROUNDS = 5, 60


def interleaved(
    candidates: Mapping[str, Callable[[], object]],
    *,
    seconds: float = 1.0,
    min_rounds: int = MIN_ROUNDS,
    max_rounds: int = MAX_ROUNDS,
) -> dict[str, list[float]]:
    """Wall-clock seconds of each candidate's calls, taken in turns.

    Each candidate is warmed up; then rounds of one call each run until every candidate had its
    share of `seconds` (but at least `min_rounds` and at most `max_rounds`). The order within a
    round alternates, so none always runs behind the same neighbour.
    """
    for call in candidates.values():
        for _ in range(WARMUP):
            call()
    times: dict[str, list[float]] = {name: [] for name in candidates}
    spent, rounds = 0.0, 0
    while rounds < min_rounds or (spent < seconds * len(candidates) and rounds < max_rounds):
        order = list(candidates) if rounds % 2 == 0 else list(candidates)[::-1]
        for name in order:
            start = time.perf_counter()
            candidates[name]()
            times[name].append(time.perf_counter() - start)
            spent += times[name][-1]
        rounds += 1
    return times


def medians(times: Mapping[str, list[float]]) -> dict[str, float]:
    """Median of each candidate, in milliseconds."""
    return {name: statistics.median(values) * 1e3 for name, values in times.items()}
