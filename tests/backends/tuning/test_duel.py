"""Duels: the ratio under drift, and when a challenger is sent home."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from passel.backends.tuning.duel import MIN_TURNS, duel


class Machine:
    """Its speed changes with every call that anyone makes."""

    def __init__(self, drift: float) -> None:
        self.factor, self.drift = 1.0, drift


class Runner:
    """A side whose calls take `seconds` on a machine, give or take some noise."""

    def __init__(self, seconds, machine=None, noise=0.0, seed=0):
        self.seconds, self.machine, self.noise = seconds, machine or Machine(1.0), noise
        self.random, self.calls = random.Random(seed), 0

    def time(self, calls):
        self.calls += calls
        found = []
        for _ in range(calls):
            self.machine.factor *= self.machine.drift
            noise = 1 + self.noise * self.random.random()
            found.append(self.seconds * self.machine.factor * noise)
        return found


@given(st.floats(0.2, 5.0), st.floats(1.0, 1.002))
def test_drift_does_not_change_the_ratio(ratio, drift):
    machine = Machine(drift)
    found = duel(Runner(0.01, machine), Runner(0.01 * ratio, machine), seconds=0.5, early=False)
    assert found.ratio == pytest.approx(ratio, rel=0.15)
    if drift == 1.0:
        assert found.ratio == pytest.approx(ratio)


def test_a_clearly_slower_challenger_is_sent_home():
    slow = Runner(0.03, noise=0.1)
    found = duel(Runner(0.01, noise=0.1), slow, seconds=5.0)
    assert found.stopped
    assert len(found.turns) == MIN_TURNS
    assert found.ratio > 2
    assert found.milliseconds[1] > found.milliseconds[0]


@pytest.mark.parametrize("ratio", [0.5, 0.99, 1.0, 1.01])
def test_a_challenger_that_may_be_faster_stays(ratio):
    found = duel(Runner(0.01, noise=0.2, seed=1), Runner(0.01 * ratio, noise=0.2), seconds=0.5)
    assert not found.stopped
    assert sum(sum(ours) for ours, _ in found.turns) >= 0.4


def test_a_slower_one_stays_too_where_the_end_is_wanted():
    found = duel(Runner(0.01), Runner(0.03), seconds=0.5, early=False)
    assert not found.stopped
    assert found.ratio == pytest.approx(3)


def test_the_first_call_of_a_turn_does_not_count():
    class Cold(Runner):
        def time(self, calls):
            return [1.0, *([self.seconds] * (calls - 1))]

    found = duel(Cold(0.01), Cold(0.02), seconds=0.1, early=False)
    assert found.ratio == pytest.approx(2)


def test_the_order_alternates():
    seen = []

    class Noted(Runner):
        def __init__(self, name):
            super().__init__(0.05)
            self.name = name

        def time(self, calls):
            seen.append(self.name)
            return super().time(calls)

    duel(Noted("a"), Noted("b"), seconds=0.2, early=False)
    assert seen[2:6] == ["a", "b", "b", "a"]
