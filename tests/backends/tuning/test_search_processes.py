"""Searches in processes: killed at random moments and resumed, and two at once on one study."""

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import optuna
import pytest
from sqlalchemy.pool import NullPool

from passel.backends.tuning.book import FAILED, MEASURED, SAME, SLOWER, Book
from passel.backends.tuning.known import Known
from tests.backends.tuning.races import SPACE

ROOT = Path(__file__).parents[3]
WORKER = """
import sys, time
sys.path.insert(0, {root!r})
from passel.backends.tuning.database import Database
from tests.backends.tuning.races import Makers, race
from tests.backends.tuning.test_search import by_form

def slowly(plan):
    time.sleep(0.002)
    return by_form(plan)

search = race(Makers(slowly), {trials}, Database.open({url!r}).storage(), seed=1)
print(search.found.plan.to_json())
print(search.standing.tried)
"""


def worker(url: str, trials: int) -> "subprocess.Popen[str]":
    code = WORKER.format(root=str(ROOT), trials=trials, url=url)
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-P", "-c", code], text=True, stdout=subprocess.PIPE
    )


def book_of(url: str) -> Book:
    """The book, read through a storage that keeps no connection open."""
    address = url if "://" in url else f"sqlite:///{url}"
    engine = {"poolclass": NullPool, "connect_args": {} if "://" in url else {"timeout": 60}}
    return Book(optuna.storages.RDBStorage(address, engine), "race", SPACE, 0)


def finished(url: str) -> dict[int, str]:
    """Every finished trial with what came of it."""
    trials = book_of(url).study.trials
    return {t.number: str(t.user_attrs.get("result")) for t in trials if t.state.is_finished()}


def check_book(url: str, tried: int) -> None:
    """Nothing is measured twice, and all that counts is there.

    Nothing is still running either, but what a worker did not live to sign: that waits a minute.
    """
    book = book_of(url)
    running = [trial for trial in book.study.trials if trial.state.name == "RUNNING"]
    assert not [trial for trial in running if "work" in trial.user_attrs]
    results = list(book.results())
    counted = Counter(plan.digest for plan, one, _ in results if one.outcome in (MEASURED, SLOWER))
    assert max(counted.values()) == 1
    outcomes = Counter(one.outcome for _, one, _ in results)
    assert outcomes[MEASURED] + outcomes[SLOWER] + outcomes[FAILED] >= tried
    known = Known("onnxruntime")
    for plan, result, _ in results:
        assert result.outcome != SAME or known.of(plan) is not None
        known.learn(plan, result)


@pytest.mark.slow
def test_a_search_that_is_killed_ten_times_loses_only_what_was_running(tmp_path):
    url = str(tmp_path / "tuned.db")
    moments, kept, trials = random.Random(0), {}, 40
    for _ in range(10):
        process = worker(url, trials)
        time.sleep(2.0 + 3 * moments.random())
        process.send_signal(signal.SIGKILL)
        process.communicate()
        now = finished(url)
        assert kept.items() <= now.items()
        kept = now
    process = worker(url, trials)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0
    assert int(output.split()[-1]) >= trials
    assert kept.items() <= finished(url).items()
    check_book(url, trials)


def test_a_search_that_is_killed_goes_on(tmp_path):
    url = str(tmp_path / "tuned.db")
    process = worker(url, 12)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and len(finished(url)) < 3:
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = finished(url)
    assert len(kept) >= 3
    process = worker(url, 12)
    output, _ = process.communicate(timeout=120)
    assert "merged linears" in output
    assert kept.items() <= finished(url).items()
    check_book(url, 12)


def share(url: str) -> None:
    """Two workers on one study: together they do what one would, each a part."""
    workers = [worker(url, 10) for _ in range(2)]
    outputs = [one.communicate(timeout=200)[0].split("\n") for one in workers]
    assert [one.returncode for one in workers] == [0, 0]
    assert all("merged linears" in one[0] for one in outputs)
    names = {
        trial.user_attrs["work"]["worker"]
        for trial in book_of(url).study.trials
        if "work" in trial.user_attrs
    }
    assert len(names) == 2
    assert all(10 <= int(one[1]) <= 11 for one in outputs)  # the other may finish one more
    check_book(url, 10)


def test_two_workers_share_a_study_in_sqlite(tmp_path):
    share(str(tmp_path / "tuned.db"))


def test_two_workers_share_a_study_in_postgresql(postgres_url):
    share(postgres_url)
