"""Measuring side by side: who is timed has the machine to itself."""

import threading
import time

from passel.backends import measure


def busy(seconds: float) -> threading.Thread:
    """A thread that works for so long, as idle workers do that look for work."""

    def work() -> None:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            pass

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_settling_waits_for_threads_that_still_work() -> None:
    thread = busy(0.15)
    measure.settle()
    assert not thread.is_alive()


def test_settling_gives_up_on_threads_that_never_sleep(monkeypatch) -> None:
    monkeypatch.setattr(measure, "LONGEST_SECONDS", 0.05)
    thread = busy(2.0)
    measure.settle()
    assert thread.is_alive()


def test_a_turn_begins_when_the_one_before_is_over() -> None:
    threads: list[threading.Thread] = []
    alive = []

    def spins() -> None:
        threads.append(busy(0.03))

    def is_disturbed() -> None:
        alive.append(any(thread.is_alive() for thread in threads))

    measure.interleaved({"spins": spins, "is disturbed": is_disturbed}, seconds=0.1)
    assert len(alive) > 3
    assert not any(alive)
