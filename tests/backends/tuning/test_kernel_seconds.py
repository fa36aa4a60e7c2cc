"""Tuned kernels as a decision: when it is offered, and what becomes of it in a plan."""

from passel.backends.tuning import search as searching
from passel.backends.tuning.book import Book
from passel.backends.tuning.plan import Plan
from passel.backends.tuning.search import Search
from passel.backends.tuning.space import OFF, ON, Space
from passel.backends.tuning.standing import Limits
from tests.backends.tuning.races import Makers, Runner, memory, planned


def test_short_searches_leave_kernels_alone() -> None:
    assert Limits.of("20s", None).kernel_seconds == 0
    assert Limits.of(None, 5).kernel_seconds == 0
    assert Limits.of("10min", None).kernel_seconds == 150


def test_the_decision_is_tvms_alone() -> None:
    space = Space(backends=("onnxruntime", "tvm"), kernel_seconds=30.0)
    asked: set[str] = set()

    def suggest(name: str, options: tuple) -> object:
        asked.add(name)
        return options[0]

    space.plan(suggest)
    assert "kernels" not in asked
    assert planned(space, {"backend": "tvm", "kernels": ON}).kernels == 30.0
    assert planned(space, {"backend": "tvm", "kernels": OFF}).kernels == 0.0
    tuned = [values for values in space.starts() if values.get("kernels") == ON]
    assert [planned(space, values).backend for values in tuned] == ["tvm"]
    assert planned(Space(backends=("onnxruntime", "tvm")), {"backend": "tvm", "kernels": ON}) == (
        planned(Space(backends=("onnxruntime", "tvm")), {"backend": "tvm"})
    )


def test_it_is_part_of_the_plan() -> None:
    plan = Plan(backend="tvm", form="", kernels=30.0)
    assert Plan.from_json(plan.to_json()) == plan
    assert plan.digest != Plan(backend="tvm", form="").digest
    assert "tuned kernels" in str(plan)


class Ticks:
    """A clock that others move."""

    seconds = 0.0


def test_kernels_are_tuned_for_no_longer_than_the_search_has_left(monkeypatch) -> None:
    """The budget counts, whatever share of it the plan would like; the plan stays what it is."""
    clock, given = Ticks(), []
    makers = Makers(lambda plan: 0.005 if plan.kernels else 0.010)
    build = makers.build

    def slow(plan: Plan, *, fresh: bool = False) -> Runner:
        given.append((plan.kernels, 90 - clock.seconds))
        clock.seconds += 10
        return build(plan, fresh=fresh)

    makers.build = slow
    monkeypatch.setattr(searching, "Clock", lambda: clock)
    space = Space(backends=("onnxruntime", "tvm"), kernel_seconds=80.0, threads=1)
    book = Book(memory(), "race", space, 0)
    found = Search(book, makers, "latency", Limits(100.0, None), lambda _: None).run()
    assert all(wanted <= max(left, 1) for wanted, left in given)
    assert any(1 < wanted < 80 for wanted, _ in given)
    assert given[-1][0] == 1  # the last measurement uses what is there
    assert found.plan.kernels == 80
