"""The book of a search: what a worker that was killed leaves, and what another one is at."""

import os
import socket
import subprocess
import sys
from dataclasses import replace

import optuna

from passel.backends.tuning import book as books
from passel.backends.tuning.book import MEASURED, Book, Result
from passel.backends.tuning.space import Space
from passel.backends.tuning.workers import is_alive, worker_name
from tests.backends.tuning.races import SPACE, Makers, memory, race


def dead_worker() -> str:
    """The name of a worker that has ended."""
    done = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True
    )
    return f"{socket.gethostname()}:{int(done.stdout)}:1"


def states(book: Book) -> list[str]:
    return [trial.state.name for trial in book.study.trials]


def test_a_process_is_known_by_its_number_and_its_beginning():
    assert is_alive(worker_name().partition(":")[2])
    assert not is_alive(f"{os.getpid()}:0")  # the number was given to another process
    assert not is_alive(dead_worker().partition(":")[2])


def test_the_trial_of_a_killed_worker_is_tried_again_once():
    storage = memory()
    book = Book(storage, "race", SPACE, 0)
    book.prepare()
    book.worker = dead_worker()
    _, plan = book.ask()
    again = Book(storage, "race", SPACE, 0)
    assert again.prepare() == 1
    assert states(again)[0] == "FAIL"
    waiting = [t for t in again.study.trials if t.state.name == "WAITING"]
    assert sum(t.user_attrs.get("again", False) for t in waiting) == 1
    found = [again.ask()[1] for _ in waiting]
    assert plan in found
    # and is lost for good if that kills the next one too
    third = Book(storage, "race", SPACE, 0)
    third.prepare()
    lost = [t for t in third.study.trials if t.user_attrs.get("again", False)]
    assert len(lost) == 1


def test_a_running_trial_of_a_live_worker_is_left_alone():
    storage = memory()
    book = Book(storage, "race", SPACE, 0)
    book.prepare()
    book.ask()
    other = Book(storage, "race", SPACE, 0)
    assert other.prepare() == 0
    assert states(other)[0] == "RUNNING"


def test_a_worker_on_another_machine_is_given_time(monkeypatch):
    storage = memory()
    book = Book(storage, "race", SPACE, 0)
    book.prepare()
    book.worker = "elsewhere:1:1"
    book.ask()
    other = Book(storage, "race", SPACE, 0)
    assert other.prepare() == 0
    monkeypatch.setattr(books, "ABROAD_SECONDS", -1.0)
    assert other.prepare() == 1


def test_the_start_points_are_queued_once_however_many_workers():
    storage = memory()
    for _ in range(3):
        Book(storage, "race", SPACE, 0).prepare()
    book = Book(storage, "race", SPACE, 0)
    assert len(book.study.trials) == len(SPACE.starts())


def test_workers_use_seeds_of_their_own():
    storage = memory()
    first = Book(storage, "race", SPACE, 5)
    first_name, books_seed = first.worker, first.seed
    assert books_seed == 5
    second = Book.__new__(Book)
    original = books.worker_name
    books.worker_name = lambda: first_name + "2"
    try:
        second.__init__(storage, "race", SPACE, 5)
    finally:
        books.worker_name = original
    assert second.seed == 6


def test_what_another_worker_is_at_is_not_measured_here():
    storage = memory()
    other = Book(storage, "race", SPACE, 0)
    other.prepare()
    other.worker = "elsewhere:1:1"
    _, busy = other.ask(), other.ask()
    makers = Makers(lambda plan: 0.01 if plan.threads else 0.02)
    race(makers, 10, storage)
    assert busy[1] not in makers.built


def test_other_decisions_begin_a_new_study():
    storage = memory()
    race(Makers(lambda plan: 0.01), 3, storage)
    wider = Space(backends=("onnxruntime", "torch"), cores=(0, 1, 2))
    search = race(Makers(lambda plan: 0.01), 3, storage, space=wider)
    assert search.standing.tried == 3
    assert len(optuna.get_all_study_names(storage)) == 1


def test_a_trial_that_another_worker_finished_stays_as_it_is():
    book = Book(memory(), "race", SPACE, 0)
    book.prepare()
    trial, _ = book.ask()
    book.study.tell(trial.number, 0.5)
    book.tell(trial, Result(MEASURED, 0.9, 1.0))
    assert states(book)[trial.number] == "COMPLETE"
    assert book.study.trials[trial.number].value == 0.5


def test_a_larger_budget_goes_on_with_the_same_study():
    storage = memory()
    first = Book(storage, "race", SPACE, 0)
    first.prepare()
    trial, _ = first.ask()
    first.tell(trial, Result(MEASURED, 0.9, 1.0))
    longer = Book(storage, "race", replace(SPACE, kernel_seconds=150.0), 0)
    assert [result.value for _, result, _ in longer.results()] == [0.9]
