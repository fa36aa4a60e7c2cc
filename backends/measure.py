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
    calls = {name: _calls_per_turn(call) for name, call in candidates.items()}
    times: dict[str, list[float]] = {name: [] for name in candidates}
    deadline = time.perf_counter() + seconds * len(candidates)
    turn = 0
    while turn < min_turns or time.perf_counter() < deadline:
        for name in list(candidates)[:: 1 if turn % 2 == 0 else -1]:
            times[name] += timed(candidates[name], calls[name] + 1)[1:]
            if not same_threads:
                settle()
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


def _calls_per_turn(call: Callable[[], object]) -> int:
    """How many calls fill a turn; also warms the candidate up."""
    once = min(timed(call, 3))
    settle()
    return max(1, min(MAX_CALLS, int(TURN_SECONDS / max(once, 1e-6))))


def medians(times: Mapping[str, list[float]]) -> dict[str, float]:
    """Median of each candidate, in milliseconds."""
    return {name: statistics.median(values) * 1e3 for name, values in times.items()}
