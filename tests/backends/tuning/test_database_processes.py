"""Several processes at one database at once, and processes that are killed while they write."""

import json
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from passel.backends.tuning.database import Database, Key

PATIENCE = 240
"""Seconds that a process may take."""
WORKER = """
import json, sys
import optuna
from passel.backends.tuning.database import Database, Key, Record

optuna.logging.set_verbosity(optuna.logging.ERROR)
url, worker, count, studied = sys.argv[1], *map(int, sys.argv[2:])
key = lambda graph: Key(str(graph) * 64, "machine", "versions")
sys.stdin.readline()  # begin together
print(-1, flush=True)
database = Database.open(url)
if studied:
    storage = database.storage()
    study = optuna.create_study(storage=storage, study_name="both", load_if_exists=True)
for step in range(count):
    cost = 1.0 + ((step * 7 + worker * 3) % count) + worker / 10
    plan = json.dumps([worker, step])
    database.store(Record(key(step % 3), plan, cost, baseline=10.0, trials=step))
    if step < studied:
        study.tell(study.ask(), cost)
    print(step, flush=True)
"""


def start(url: str, worker: int, count: int, studied: int = 0) -> subprocess.Popen:
    arguments = [url, str(worker), str(count), str(studied)]
    return subprocess.Popen(
        [sys.executable, "-P", "-c", WORKER, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def race(workers: list[subprocess.Popen]) -> None:
    """Let them begin together, and end well."""
    for worker in workers:
        worker.stdin.write("\n")
        worker.stdin.flush()
    for worker in workers:
        _, errors = worker.communicate(timeout=PATIENCE)
        assert worker.returncode == 0, errors


def expected(workers: int, count: int) -> dict[int, float]:
    """The least cost that any worker stores for each of the three graphs."""
    least: dict[int, float] = {}
    for worker in range(workers):
        for step in range(count):
            cost = 1.0 + ((step * 7 + worker * 3) % count) + worker / 10
            least[step % 3] = min(cost, least.get(step % 3, cost))
    return least


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_two_processes_make_and_fill_one_database(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path = tmp_path / "tuned.db"
    url = request.getfixturevalue("postgres_url") if kind == "postgres" else str(path)
    workers = [start(url, worker, 12, studied=4) for worker in range(2)]
    race(workers)
    database = Database.open(url)
    assert database.notes == []
    for graph, least in expected(2, 12).items():
        found = database.best(Key(str(graph) * 64, "machine", "versions"))
        assert found.cost == pytest.approx(least)
        worker, step = json.loads(found.plan)
        assert found.cost == 1.0 + ((step * 7 + worker * 3) % 12) + worker / 10
        assert found.trials == max(step for step in range(12) if step % 3 == graph)
    (study,) = database.storage().get_all_studies()
    trials = database.storage().get_all_trials(study._study_id)
    assert sorted(trial.number for trial in trials) == list(range(8))


@pytest.mark.parametrize("delay", [0.004, 0.02, 0.1])
def test_what_was_committed_survives_kill_9(delay: float, tmp_path: Path) -> None:
    path = tmp_path / "tuned.db"
    victim = start(str(path), 0, 100_000)
    victim.stdin.write("\n")
    victim.stdin.flush()
    victim.stdout.readline()
    time.sleep(delay)  # in the middle of making tables, or of storing
    victim.send_signal(signal.SIGKILL)
    lines, _ = victim.communicate(timeout=PATIENCE)
    last = max((int(line) for line in lines.split("\n")[:-1]), default=-1)
    connection = sqlite3.connect(path)
    assert connection.execute("pragma integrity_check").fetchone() == ("ok",)
    connection.close()
    database = Database.open(path)
    assert database.notes == []
    if last >= 0:
        found = database.best(Key(str(last % 3) * 64, "machine", "versions"))
        assert found.trials >= last


def test_two_processes_set_a_damaged_file_aside_once(tmp_path: Path) -> None:
    path = tmp_path / "tuned.db"
    path.write_bytes(b"garbage" * 3000)
    workers = [start(str(path), worker, 3) for worker in range(2)]
    race(workers)
    assert len(list(tmp_path.glob("tuned.db.corrupt-*"))) == 1
    assert len(Database.open(path).records()) == 3
