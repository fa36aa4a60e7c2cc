"""Decisions of our own rules: what may be chosen, how it is found, kept and applied."""

import json
from typing import Any

import numpy as np
import pytest

from passel.backends.explain import InputSpec
from passel.backends.tvm import kernel_search, metaschedule
from passel.backends.tvm.kernel_search import Search, best_decisions
from passel.backends.tvm.kernel_timer import built, times
from passel.backends.tvm.kernels import kernels_of
from passel.backends.tvm.metaschedule import Step, tune
from passel.backends.tvm.pipeline import build, fused
from passel.backends.tvm.schedules.decide import OFFERED, decide, taking
from passel.backends.tvm.tuned import FILE, Tuned, Winner, by_rules, form_of, kernel_key, replayed
from passel.backends.tvm.verdicts import Verdicts
from passel.errors import InvalidModel
from tests.backends.tvm.programs import module

WEIGHT = np.random.default_rng(0).standard_normal((48, 64), np.float32)


def product(rows: Any = 32, twice: bool = False) -> Any:
    """A Relax module with one matrix product, or with one and the same twice."""
    from tvm import relax

    spec = InputSpec("x", "float32", (rows, 48))

    def body(builder: Any, x: Any, weight: Any) -> list[Any]:
        one = builder.emit(relax.op.matmul(x, weight))
        if not twice:
            return [one]
        return [one, relax.op.matmul(builder.emit(relax.op.add(x, x)), weight)]

    return module([spec], [WEIGHT], body)


def kernel(machine: Any) -> Any:
    (found,) = kernels_of(fused(product(), machine.target()), machine)
    return found


@pytest.mark.parametrize(
    ("choices", "found"), [({}, 5), ({"size": "7"}, 7), ({"size": "8"}, 5), ({"other": "7"}, 5)]
)
def test_decisions(choices, found):
    assert decide("size", [5, 6, 7]) == 5
    with taking(choices) as offered:
        assert decide("size", [5, 6, 7]) == found
        assert decide("long", list(range(100))) == 0
    assert offered == {"size": ["5", "6", "7"], "long": [str(k) for k in range(OFFERED)]}
    assert decide("size", [5, 6, 7]) == 5


def test_kernels_are_counted_once_each(machine):
    found = kernels_of(fused(product(twice=True), machine.target()), machine)
    products = [one for one in found if "matmul" in one.name]
    assert sum(one.calls for one in products) == 2
    assert len({one.key for one in found}) == len(found)
    assert products[0].decisions


def test_the_matmul_rule_offers_its_tile(machine):
    one = kernel(machine)
    name, options = options_of(one, machine)
    forms = {o: form_of(by_rules(one.plain, machine, {name: o})[0]) for o in options}
    assert len(options) > 2
    assert len(built(forms, machine)) == len(options)


def options_of(one: Any, machine: Any) -> tuple[str, list[str]]:
    """The decision of a kernel, and those of its options that make different code."""
    ((name, options),) = one.decisions.items()
    forms = {o: kernel_key(form_of(by_rules(one.plain, machine, {name: o})[0])) for o in options}
    return name, [o for k, o in enumerate(options) if forms[o] not in list(forms.values())[:k]]


@pytest.fixture
def search(machine) -> Search:
    return Search(machine, Verdicts(None), lambda: 1000.0)


def timing(monkeypatch: pytest.MonkeyPatch, rank: Any) -> list[list[str]]:
    """Let times be what `rank` says of an option; returns what was asked for."""
    asked: list[list[str]] = []

    def fake(plain: Any, forms: Any, machine: Any, seconds: float) -> dict[str, float]:
        asked.append(list(forms))
        return {name: 100.0 * rank(name, len(asked)) for name in forms}

    monkeypatch.setattr(kernel_search, "times", fake)
    return asked


def test_the_fastest_option_wins(machine, search, monkeypatch):
    one = kernel(machine)
    name, options = options_of(one, machine)
    asked = timing(monkeypatch, lambda option, _: 0.5 if option == options[2] else 1.0)
    winner, complete = best_decisions(one, search, 1.0)
    assert complete
    assert winner == Winner(50.0, 100.0, {name: options[2]})
    assert asked == [options, ["ours", options[0], options[2]]]


@pytest.mark.parametrize(
    "rank",
    [
        lambda option, turn: 1.0,
        lambda option, turn: 0.99 if "rows=4" in option else 1.0,
        lambda option, turn: 0.5 if "rows=4" in option and turn == 1 else 1.0,
    ],
    ids=["all alike", "hardly faster", "once only"],
)
def test_what_is_not_clearly_faster_changes_nothing(machine, search, monkeypatch, rank):
    timing(monkeypatch, rank)
    assert best_decisions(kernel(machine), search, 1.0) == (None, True)


def test_a_wrong_schedule_never_wins(machine, search, monkeypatch):
    one = kernel(machine)
    name, options = options_of(one, machine)
    wrong, second = options[1:3]
    timing(monkeypatch, lambda option, _: {wrong: 0.1, second: 0.5}.get(option, 1.0))
    right = kernel_search.agrees
    bad = kernel_key(by_rules(one.plain, machine, {name: wrong})[0].mod["main"])
    monkeypatch.setattr(
        kernel_search, "agrees", lambda k, form, s: kernel_key(form) != bad and right(k, form, s)
    )
    winner, _ = best_decisions(one, search, 1.0)
    assert winner is not None
    assert list(winner.decisions.values()) == [second]


def test_no_time_is_left(machine, monkeypatch):
    timing(monkeypatch, lambda option, _: 1.0)
    late = Search(machine, Verdicts(None), lambda: 0.0)
    assert best_decisions(kernel(machine), late, 1.0) == (None, False)


def test_times_are_of_the_forms_that_compile(machine):
    from tvm import tirx

    one = kernel(machine)
    unknown = tirx.call_extern("handle", "f", tirx.Var("v", "int32"))
    broken = one.plain.with_body(tirx.Evaluate(unknown))
    found = times(one.plain, {"ours": one.ours, "broken": broken}, machine, 0.01)
    assert found.keys() == {"ours"}
    assert 0 < found["ours"] < 1e5


def test_tuning_decisions_only(machine, tmp_path, monkeypatch):
    """Found once, kept, applied when the module is built, and not searched for again."""
    _, options = options_of(kernel(machine), machine)
    timing(monkeypatch, lambda option, _: 0.5 if option == options[1] else 1.0)
    told: list[Step] = []
    tuned = tune(product(), machine, tmp_path, 100.0, trials=0, progress=told.append)
    assert [(step.kernel, step.microseconds) for step in told] == [("matmul", 50.0)]
    assert Tuned.load(tmp_path) == tuned
    _, scheduled = build(product(), machine, check=True, tuned=tuned)
    assert scheduled.rules == {"matmul": "measured"}
    assert scheduled.rejected == {}
    plain = build(product(), machine)[1]
    assert kernel_key(scheduled.module["matmul"]) != kernel_key(plain.module["matmul"])
    told.clear()
    again = tune(product(), machine, tmp_path, 100.0, trials=0, progress=told.append)
    assert again == tuned
    assert not told


def test_time_that_was_spent_on_a_module_counts(machine, tmp_path, monkeypatch):
    """A plan that is built again is not tuned again; a larger budget goes on."""
    timing(monkeypatch, lambda option, _: 1.0)
    budgets: list[float] = []

    def traces(kernels: Any, weights: Any, tuned: Any, bench: Any, tell: Any) -> dict[str, str]:
        budgets.append(bench.left())
        return {}

    monkeypatch.setattr(metaschedule, "search_traces", traces)
    for seconds in (100.0, 100.0, 60.0, 130.0):
        tune(product(), machine, tmp_path, seconds)
    assert len(budgets) == 2
    assert 0 < budgets[1] <= 30 < budgets[0] <= 100
    tune(product(rows=33), machine, tmp_path, 100.0)
    assert len(budgets) == 3


def test_tuned_schedules_as_text():
    tuned = Tuned({"a": Winner(1.5, 2.0, {"x": "1"}), "b": Winner(1.0, 3.0, trace="[1]")}, {"a"}, 7)
    tuned.notes.append("a note")
    tuned.spent["m"] = 12.5
    assert Tuned.from_json(tuned.to_json()) == tuned
    other = json.loads(tuned.to_json())
    assert Tuned.from_json(json.dumps({**other, "tvm": "0.9"})) == Tuned()
    for text in ("{", "[]", json.dumps({**other, "winners": {"a": {"speed": 1}}})):
        with pytest.raises(InvalidModel, match="the tuned schedules are damaged"):
            Tuned.from_json(text)


def test_a_damaged_file_is_set_aside(tmp_path):
    (tmp_path / FILE).write_text("{")
    tuned = Tuned.load(tmp_path)
    assert tuned.winners == {}
    assert "is damaged; it was set aside as 'winners.damaged'" in tuned.notes[0]
    assert (tmp_path / "winners.damaged").read_text() == "{"
    assert Tuned.load(tmp_path) == Tuned()


def test_a_trace_that_does_not_fit_is_passed_over(machine):
    one = kernel(machine)
    for trace in ("[[],[]]", '[[["Nothing",[],[],["b"]]],[]]'):
        schedule = replayed(trace, one.plain)
        assert schedule is None or kernel_key(schedule.mod["main"]) == one.key
    tuned = Tuned({one.key: Winner(1.0, 2.0, trace='[[["Nothing",[],[],["b"]]],[]]')})
    assert build(product(), machine, tuned=tuned)[1].rules == {"matmul": "matmul"}


def test_remote_kernels_are_weighed_by_their_size(machine):
    one = kernel(machine)
    assert metaschedule._weights([one], machine, here=False) == {one.key: 32 * 48 * 64 * 1e-3}
