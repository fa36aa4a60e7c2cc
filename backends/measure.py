"""Measure candidates side by side: short turns, medians, so that drift hits all alike."""

import statistics
import time
from collections.abc import Callable, Mapping

TURN_SECONDS = 0.02
"""Length of a turn; its first call, which meets cold caches, is not counted."""
MAX_CALLS = 50
LOOK_SECONDS, IDLE_SHARE, LONGEST_SECONDS = 0.015, 0.1, 0.5
"""How long a look at the threads takes, what share of a processor is idle, and when to give up."""


def interleaved(
    candidates: Mapping[str, Callable[[], object]],
    *,
    seconds: float = 1.0,
    min_turns: int = 3,
    same_threads: bool = False,
) -> dict[str, list[float]]:
    """Wall-clock seconds of each candidate's calls, taken in turns.

    Turns go round until every candidate had its share of `seconds`, but at least `min_turns` each.
    The order alternates, so that none always runs behind the same neighbour, and a turn begins
    when the threads of the one before are idle; none has to wait where all share their threads.
    """

    def turn(name: str, count: int) -> list[float]:
        found = timed(candidates[name], count)
        if not same_threads:
            settle()
        return found

    calls = {name: calls_in(TURN_SECONDS, min(turn(name, 3))) for name in candidates}
    times: dict[str, list[float]] = {name: [] for name in candidates}
    deadline = time.perf_counter() + seconds * len(candidates)
    turns = 0
    while turns < min_turns or time.perf_counter() < deadline:
        for name in list(candidates)[:: 1 if turns % 2 == 0 else -1]:
            times[name] += turn(name, calls[name] + 1)[1:]
        turns += 1
    return times


def timed(call: Callable[[], object], count: int) -> list[float]:
    """Seconds of each of `count` calls in a row."""
    found = []
    for _ in range(count):
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return found


def settle() -> None:
    """Wait until this process does nothing: others can be timed then.

    Idle workers look for work for a while before they sleep, ONNX Runtime's for some 60 ms. Whoever
    is timed meanwhile has a processor less: its calls may take twice as long.
    """
    deadline = time.perf_counter() + LONGEST_SECONDS
    while time.perf_counter() < deadline:
        used, start = time.process_time(), time.perf_counter()
        time.sleep(LOOK_SECONDS)
        if time.process_time() - used < IDLE_SHARE * (time.perf_counter() - start):
            return


def calls_in(seconds: float, once: float) -> int:
    """How many calls of so many seconds each fill a turn: at least one, at most MAX_CALLS."""
    return max(1, min(MAX_CALLS, int(seconds / max(once, 1e-6))))


def medians(times: Mapping[str, list[float]]) -> dict[str, float]:
    """Median of each candidate, in milliseconds."""
    return {name: statistics.median(values) * 1e3 for name, values in times.items()}
