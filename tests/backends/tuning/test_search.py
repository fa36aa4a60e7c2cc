"""The search, with made-up times: what wins, what is measured, what a crash or Ctrl-C leaves."""

import pytest

from passel.backends.choices import SessionChoice
from passel.backends.tuning import arena as arenas
from passel.backends.tuning import duel as duels
from passel.backends.tuning.book import FAILED, MEASURED, SAME, SLOWER
from passel.backends.tuning.plan import EXPORTED, Plan
from passel.backends.tuning.space import Space
from passel.backends.tuning.stable import Failed
from tests.backends.tuning.races import SPACE, Makers, memory, race

BASELINE = SPACE.baseline


def by_form(plan: Plan) -> float:
    """Merged linears are best, one thread is better than two; torch is slow."""
    if plan.backend == "torch":
        return 0.05
    form = {EXPORTED: 0.010, "matrices": 0.009, "matrices, merged linears": 0.006}
    return form.get(plan.form, 0.012) * (0.9 if plan.threads == 1 else 1.0)


def test_the_fastest_plan_wins_and_the_baseline_is_a_candidate():
    search = race(Makers(by_form), 30)
    found = search.found
    assert found.plan.form == "matrices, merged linears"
    assert found.plan.threads == 1
    assert found.confirmed
    assert found.cost / found.baseline == pytest.approx(0.54)
    results = {plan.digest: result for plan, result, _ in search._book.results()}
    assert results[BASELINE.digest].value == 1.0


def test_nothing_is_kept_alive_but_the_incumbent():
    makers = Makers(by_form)
    race(makers, 20)
    assert len(makers.alive) == 1


@pytest.mark.parametrize("seed", range(3))
def test_the_result_is_never_slower_than_the_baseline(seed):
    found = race(Makers(lambda p: 0.01 if p.form == EXPORTED else 0.011), 12, seed=seed).found
    assert found.plan.form == EXPORTED
    assert found.cost <= found.baseline


def test_a_plan_that_was_only_lucky_does_not_win():
    """It looks faster until it is measured once more."""
    built = []

    def lucky(plan: Plan) -> float:
        return 0.01 if plan.form == EXPORTED or built.count(plan) > 1 else 0.008

    makers = Makers(lucky)
    makers.build, original = (
        lambda plan, fresh=False: (built.append(plan), original(plan, fresh=fresh))[1],
        makers.build,
    )
    found = race(makers, 6).found
    assert found.plan == BASELINE
    assert found.cost == found.baseline
    assert any("no faster than the baseline when measured again" in note for note in found.notes)


def test_a_plan_that_beat_the_best_by_luck_does_not_take_its_place(monkeypatch):
    """It has to win twice in a row, and the second time is what counts."""
    met = []

    def lucky(incumbent, challenger, **options):
        met.append(challenger.plan)
        share = 0.5 if met.count(challenger.plan) == 1 else 1.1
        return duels.Duel([([0.01], [0.01 * share])])

    monkeypatch.setattr(arenas, "duel", lucky)
    search = race(Makers(by_form), 10)
    results = [result for _, result, _ in search._book.results() if result.outcome == MEASURED]
    assert search._arena.incumbent.plan == BASELINE
    assert {round(result.value, 6) for result in results} == {1.0, 1.1}


def test_no_plan_is_built_twice_in_a_search():
    makers = Makers(by_form)
    search = race(makers, 25)
    confirmed = makers.built[-2:]
    assert confirmed == [BASELINE, search.found.plan]
    digests = [plan.digest for plan in makers.built[:-2]]
    assert len(digests) == len(set(digests))


def test_plans_that_make_the_same_program_are_measured_once():
    makers = Makers(by_form, program=lambda plan: plan.form or plan.backend)
    counts = race(makers, 100).standing.counts
    forms = len({plan.form for plan in makers.built})
    assert counts[MEASURED] + counts[SLOWER] == forms
    assert counts[SAME] > 5


def test_the_search_ends_when_there_is_nothing_left():
    space = Space(cores=(0,), threads=1)
    found = race(Makers(by_form), 10_000, space=space).found
    assert found.exhausted
    combinations = 6 * 3 * 2  # forms with EXPORTED, levels, spinning
    assert found.standing.tried == combinations


def test_a_clearly_slower_challenger_costs_few_turns():
    makers = Makers(by_form)
    search = race(makers, 8)
    slow = [result for plan, result, _ in search._book.results() if plan.backend == "torch"]
    assert [one.outcome for one in slow] == [SLOWER]
    assert slow[0].value > 3


def test_a_plan_that_cannot_be_built_or_is_wrong_fails_alone():
    makers = Makers(
        by_form,
        broken=lambda p: "Lost: the process was ended by SIGSEGV" if "skip" in p.form else "",
        error=lambda p: 1.0 if "merged" in p.form else 0.0,
    )
    search = race(makers, 12)
    results = list(search._book.results())
    assert search.found.plan.form == "matrices"
    assert search.standing.failures["the process was ended by SIGSEGV"] >= 1
    wrong = [one for plan, one, _ in results if "merged" in plan.form and one.outcome == FAILED]
    assert [one.kind for one in wrong] == ["VerificationError"]  # once: options do not mend it
    assert len(makers.alive) == 1


def test_a_backend_that_cannot_run_the_model_is_tried_once():
    makers = Makers(
        by_form, broken=lambda p: "UnsupportedModel: no kernel" if p.backend == "torch" else ""
    )
    race(makers, 25)
    assert [plan.backend for plan in makers.built].count("torch") == 1


def test_a_baseline_that_fails_is_an_error_or_is_replaced():
    broken = lambda p: "UnsupportedModel: no kernel" if p.backend != "torch" else ""  # noqa: E731
    with pytest.raises(Failed, match="no kernel"):
        race(Makers(by_form, broken=broken), 4)
    fallback = Plan(backend="torch", form="")
    found = race(Makers(by_form, broken=broken), 4, fallbacks=[fallback]).found
    assert found.plan.backend == "torch"
    assert found.notes == ["the baseline is torch: plain ONNX Runtime fails: no kernel"]
    other = Plan(form="as lowered")
    broken = lambda p: "InvalidModel: no mask" if p.form == EXPORTED else ""  # noqa: E731
    search = race(Makers(by_form, broken=broken), 6, fallbacks=[other, fallback])
    assert search._arena.baseline == other
    assert len(search.found.notes) == 1


def test_an_incumbent_whose_process_dies_is_started_again():
    deaths = []

    def on_call(runner):
        if runner.plan.form == "matrices" and len(deaths) < 1 and len(makers.built) > 2:
            if makers.alive.index(runner) == 0:
                deaths.append(runner)
                raise Failed("Lost", "killed by someone", runner)

    makers = Makers(by_form, on_call=on_call)
    search = race(makers, 10)
    assert deaths
    assert search.standing.counts[FAILED] == 0
    assert search.found.plan.form == "matrices, merged linears"
    assert len(makers.alive) == 1


def test_ctrl_c_keeps_the_best_and_the_next_call_goes_on():
    storage = memory()
    standings = []

    def interrupt(runner):
        if standings and standings[-1].tried >= 4:
            raise KeyboardInterrupt

    makers = Makers(by_form, on_call=interrupt)
    first = race(makers, 20, storage, progress=standings.append)
    assert first.found.interrupted
    assert not first.found.confirmed
    assert first.found.plan.form == "matrices, merged linears"
    known = {plan.digest for plan, _, _ in first._book.results() if plan != BASELINE}
    assert len(known) == 3
    again = Makers(by_form)
    second = race(again, 20, storage)
    assert second.standing.tried == 20
    assert makers.built[-1] in again.built  # what Ctrl-C met is tried again
    repeated = [plan for plan in again.built[1:-2] if plan.digest in known]
    assert repeated == [first.found.plan]  # as the incumbent, and nothing else


def test_memory_is_compared_in_bytes():
    makers = Makers(by_form)
    found = race(makers, 15, objective="memory").found
    assert found.plan.form == "matrices, merged linears"
    assert found.cost / found.baseline == pytest.approx(0.54)
    assert makers.calls == 0


def test_the_same_seed_tries_the_same(monkeypatch):
    monkeypatch.setattr(duels, "TURN_SECONDS", 0.01)
    first, second = Makers(by_form), Makers(by_form)
    race(first, 20, seed=3)
    race(second, 20, seed=3)
    assert first.built == second.built
    other = Makers(by_form)
    race(other, 20, seed=4)
    assert other.built != first.built


def test_session_options_are_part_of_the_search():
    def spinning(plan: Plan) -> float:
        return 0.01 * (1.0 if plan.session.spinning else 0.5)

    found = race(Makers(spinning), 20).found
    assert found.plan.session == SessionChoice(spinning=False, level=found.plan.session.level)
