"""What the database keeps, on SQLite and on a real PostgreSQL server."""

import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from passel.backends.tuning.database import Database, Key, Record
from passel.errors import InvalidInput

DAY = 86400.0
GRAPH, MACHINE, VERSIONS = "a" * 64, "b" * 16, "passel=0.1.0 onnxruntime=1.32.0"


def key(graph: str = GRAPH, **more: object) -> Key:
    return Key(graph, MACHINE, **{"versions": VERSIONS, **more})


def record(cost: float, *, of: Key | None = None, **more: object) -> Record:
    values = {"plan": f'{{"cost": {cost}}}', "baseline": 10.0, **more}
    return Record(of or key(), cost=cost, **values)


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    where = tmp_path / "tuned.db"
    if request.param == "postgres":
        return Database.open(request.getfixturevalue("postgres_url"))
    return Database.open(where)


def test_a_record_comes_back_as_it_was(database: Database) -> None:
    kept = record(2.5, of=key(bound=0.01), error=3e-3, trials=7, model="vit", created=1.5)
    assert database.best(kept.key) is None
    assert database.store(kept)
    assert database.best(kept.key) == kept
    assert database.records() == [kept]
    assert database.notes == []


def test_every_part_of_the_key_counts(database: Database) -> None:
    keys = [
        key(),
        key("c" * 64),
        Key(GRAPH, "other", VERSIONS),
        key(versions="passel=0.2.0"),
        key(objective="memory"),
        key(bound=0.1),
        key(bound=0.2),
    ]
    assert len({one.digest for one in keys}) == len({one.study for one in keys}) == len(keys)
    for number, one in enumerate(keys):
        assert database.store(record(1.0 + number, of=one))
    assert [database.best(one).cost for one in keys] == [1.0 + n for n in range(len(keys))]


def test_the_better_ratio_stays_and_trials_add_up(database: Database) -> None:
    assert database.store(record(5.0, trials=3, created=1.0, updated=2.0))
    # Slower in ms, but on a day when plain ONNX Runtime was slower by more.
    better = record(6.0, baseline=20.0, trials=2, created=5.0, updated=6.0)
    assert database.store(better)
    found = database.best(key())
    assert (found.cost, found.baseline, found.plan) == (6.0, 20.0, better.plan)
    assert (found.trials, found.created, found.updated) == (3, 1.0, 6.0)
    assert not database.store(record(4.0, trials=9, updated=7.0))
    found = database.best(key())
    assert (found.cost, found.trials, found.updated) == (6.0, 9, 6.0)


def test_a_model_gets_the_first_name_it_is_given(database: Database) -> None:
    database.store(record(5.0))
    database.store(record(4.0, model="vit"))
    database.store(record(3.0, model="other"))
    assert database.best(key()).model == "vit"


def test_forget_removes_one_record(database: Database) -> None:
    database.store(record(5.0))
    database.store(record(5.0, of=key("c" * 64)))
    assert database.forget(key())
    assert not database.forget(key())
    assert [one.key.graph for one in database.records()] == ["c" * 64]


def filled(database: Database) -> float:
    """Five results, updated 0, 1, .. 4 days ago, that of 2 days ago by other versions."""
    now = time.time()
    for days in range(5):
        versions = "passel=0.0.1" if days == 2 else VERSIONS
        one = key(str(days) * 64, versions=versions)
        database.store(record(1.0, of=one, updated=now - days * DAY))
    return now


@pytest.mark.parametrize(
    ("how", "left"),
    [
        ({"older_than_days": 2.5}, "012"),
        ({"keep": 2}, "01"),
        ({"other_versions": VERSIONS}, "0134"),
        ({"keep": 4, "older_than_days": 1.5}, "01"),
        ({"keep": 0}, ""),
        ({}, "01234"),
    ],
)
def test_prune(database: Database, how: dict[str, object], left: str) -> None:
    filled(database)
    assert database.prune(**how) == 5 - len(left)
    assert "".join(one.key.graph[0] for one in database.records()) == left


def test_prune_removes_the_study_behind_a_result(database: Database) -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    old, new = key("0" * 64), key("1" * 64)
    for one, days in ((old, 9), (new, 0)):
        database.store(record(1.0, of=one, updated=time.time() - days * DAY))
        study = optuna.create_study(storage=database.storage(), study_name=one.study)
        study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    assert database.prune(older_than_days=1) == 1
    left = database.storage().get_all_studies()
    assert [study.study_name for study in left] == [new.study]
    assert len(optuna.load_study(study_name=new.study, storage=database.storage()).trials) == 2


@pytest.mark.parametrize("how", [{"keep": -1}, {"older_than_days": -0.5}])
def test_prune_refuses_negative_numbers(database: Database, how: dict[str, int]) -> None:
    with pytest.raises(InvalidInput, match="at least 0"):
        database.prune(**how)


def test_export_and_merge_keep_the_better(database: Database, tmp_path: Path) -> None:
    for name, cost in (("0", 5.0), ("1", 2.0)):
        database.store(record(cost, of=key(name * 64), model=name))
    assert database.export(tmp_path / "out.json") == 2
    other = Database.open(tmp_path / "other.db")
    other.store(record(1.0, of=key("1" * 64)))
    assert other.merge(tmp_path / "out.json") == 1
    assert other.best(key("0" * 64)) == database.best(key("0" * 64))
    assert other.best(key("1" * 64)).cost == 1.0
    assert not list(tmp_path.glob(".out.json*"))


def test_size_grows_with_what_is_stored(database: Database) -> None:
    before = database.size_bytes
    for number in range(20):
        plan = json.dumps({"filler": "x" * 20_000})
        database.store(record(1.0, of=key(f"{number:064d}"), plan=plan))
    grown = database.size_bytes
    assert grown > before + 20 * 200  # a server compresses long texts
    if "://" not in database.where:
        assert grown > 20 * 20_000
        database.prune(keep=0)
        assert database.size_bytes < before + 50_000


costs = st.floats(1e-3, 1e3)


@given(st.lists(st.tuples(costs, costs), min_size=1, max_size=12))
def test_what_is_best_does_not_depend_on_the_order(
    tmp_path_factory: pytest.TempPathFactory, measured: list[tuple[float, float]]
) -> None:
    database = Database.open(tmp_path_factory.mktemp("order") / "tuned.db")
    best = float("inf")
    for cost, baseline in measured:
        assert database.store(record(cost, baseline=baseline)) == (cost / baseline < best)
        best = min(best, cost / baseline)
    assert database.best(key()).ratio == min(cost / baseline for cost, baseline in measured)


@given(
    st.builds(
        Record,
        st.builds(
            Key,
            st.text(),
            st.text(),
            st.text(),
            st.sampled_from(["latency", "throughput", "memory"]),
            st.none() | costs,
        ),
        plan=st.recursive(
            st.none() | st.integers() | st.text(), lambda some: st.lists(some, max_size=3)
        ).map(json.dumps),
        cost=costs,
        baseline=costs,
        error=st.floats(0, 1),
        trials=st.integers(0, 1 << 30),
        model=st.text(),
    )
)
def test_records_survive_json(kept: Record) -> None:
    assert Record.from_dict(json.loads(json.dumps(kept.to_dict()))) == kept


@pytest.mark.parametrize("bad", [{"cost": 0.0}, {"cost": float("nan")}, {"baseline": float("inf")}])
def test_a_record_needs_positive_numbers(bad: dict[str, float]) -> None:
    with pytest.raises(InvalidInput, match="expected a positive"):
        Record(key(), "{}", **{"cost": 1.0, "baseline": 1.0, **bad})


def test_a_record_needs_a_plan() -> None:
    with pytest.raises(InvalidInput, match="the plan is not JSON"):
        record(1.0, plan="{")


def test_keys_are_checked() -> None:
    with pytest.raises(InvalidInput, match="latency, throughput, memory, got 'speed'"):
        key(objective="speed")
    with pytest.raises(InvalidInput, match="max_error: expected a positive number, got -1"):
        key(bound=-1)
