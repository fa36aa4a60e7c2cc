"""Budgets in words, and how a search says where it stands."""

import pytest

from passel.backends.tuning.book import FAILED, MEASURED, SAME, SLOWER, Result
from passel.backends.tuning.live import counted, line, screen
from passel.backends.tuning.plan import Plan
from passel.backends.tuning.standing import BARS, Limits, Standing, seconds_of, sparkline
from passel.errors import InvalidInput


@pytest.mark.parametrize(
    ("budget", "seconds"),
    [("30s", 30), ("5min", 300), ("1h", 3600), ("1.5 h", 5400), ("90", 90), (2, 2), (0.5, 0.5)],
)
def test_a_budget(budget, seconds):
    assert seconds_of(budget) == seconds


@pytest.mark.parametrize(
    "budget", [0, -1, "0s", "-5min", "", "soon", "5 days", "min", float("nan"), float("inf"), True]
)
def test_no_budget(budget):
    with pytest.raises(InvalidInput, match=r"budget: expected a time like '30s', '5min' or '1h'"):
        Limits.of(budget, None)


@pytest.mark.parametrize("trials", [0, -3, 1.5, True, "8"])
def test_no_number_of_trials(trials):
    with pytest.raises(InvalidInput, match="trials: expected"):
        Limits.of(None, trials)


def test_five_minutes_unless_anything_is_said():
    assert Limits.of(None, None) == Limits(300, None)
    assert Limits.of(None, 8) == Limits(None, 8)
    assert Limits.of("1h", 8) == Limits(3600, 8)


def test_what_counts_as_tried_and_what_is_the_best():
    standing = Standing("latency", Limits(None, 4), baseline=10.0)
    plan = Plan(threads=1)
    standing.add(Plan(), Result(MEASURED, 1.0), 1.0)
    standing.add(plan, Result(MEASURED, 0.5), 2.0)
    standing.add(plan, Result(SAME, 0.5), 2.1)
    assert (standing.tried, standing.is_over) == (2, False)
    standing.add(Plan(threads=2), Result(SLOWER, 0.4), 3.0)  # a ratio so far is no result
    standing.add(Plan(threads=3), Result(FAILED, why="crashed"), 4.0)
    assert (standing.best, standing.cost) == (plan, 5.0)
    assert standing.history == [(2.0, 5.0)]
    assert (standing.tried, standing.is_over) == (4, True)
    assert standing.failures == {"crashed": 1}
    assert counted(standing).startswith("4 of 4: 2 measured, 1 pruned, 1 failed, 1 known already")
    assert "5 ms (2.00 times better)" in line(standing)


def test_time_is_over_before_the_budget_is_so_that_the_winner_can_be_measured_again():
    standing = Standing("latency", Limits(100.0, None))
    standing.spent = 89.0
    assert not standing.is_over
    assert standing.remaining == pytest.approx(1.0)
    standing.spent = 90.0
    assert standing.is_over


def test_the_time_left_follows_from_the_trials_done():
    standing = Standing("latency", Limits(None, 10), baseline=1.0)
    assert standing.remaining is None
    standing.add(Plan(), Result(MEASURED, 1.0), 2.0)
    assert standing.remaining == pytest.approx(18.0)


def test_a_sparkline_steps_down():
    found = sparkline([(5.0, 5.0), (10.0, 2.0)], 10.0, 15.0)
    assert len(found) == 30
    assert found[0] == BARS[-1]
    assert found[-1] == BARS[0]
    assert list(found) == sorted(found, reverse=True)
    assert sparkline([], 10.0, 5.0) == ""


def test_a_table_even_before_anything_is_known():
    from rich.console import Console

    console = Console(width=80, record=True, file=open("/dev/null", "w"))
    console.print(screen(Standing("latency", Limits(60.0, None), doing="measuring")))
    assert "measuring" in console.export_text()


def test_a_baseline_that_came_out_faster_in_the_end_draws_a_line() -> None:
    assert set(sparkline([(8.7, 0.053)], 0.0225, 9.0)) == {"▁"}
