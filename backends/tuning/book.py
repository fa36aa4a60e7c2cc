"""The book of a search: Optuna's study, what each plan came to, and who is still at work.

Every worker that searches for the same key writes in the same book, so none measures what another
has. A worker that was killed leaves a running trial behind; the next one to open the book fails it
and puts its values back in the queue, once.
"""

import hashlib
import json
import socket
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from .plan import Plan
from .space import Space, Value
from .workers import is_alive, worker_name

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

MEASURED, SLOWER, FAILED, SAME, LOST = "measured", "slower", "failed", "same", "lost"
"""What becomes of a trial: LOST ones were not the candidate's fault."""
WORK, RESULT = "work", "result"
"""Attributes of a trial: who does what, and what came of it."""
NAMELESS_SECONDS, ABROAD_SECONDS = 60.0, 3600.0
"""Age from which a running trial is dead whose worker did not sign, or is on another machine."""


@dataclass(frozen=True)
class Result:
    """What became of a plan.

    Attributes:
        outcome: one of the words above.
        value: its cost over the baseline's; of a plan that was sent home early, so far.
        milliseconds: median of its calls; 0 where it was not timed.
        why: what went wrong.
        kind: the error's name; of a plan that another is the same as, the outcome of that one.
        fingerprint: equal for plans that make the same program; "" where it was not built.
        error: relative error of the outputs.
    """

    outcome: str
    value: float | None = None
    milliseconds: float = 0.0
    why: str = ""
    kind: str = ""
    fingerprint: str = ""
    error: float = 0.0

    @property
    def verdict(self) -> str:
        """The outcome, or that of the plan that this one is the same as."""
        return self.kind if self.outcome == SAME else self.outcome


class Book:
    """One study, opened by one worker."""

    def __init__(self, storage: Any, name: str, space: Space, seed: int) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.space = space
        digest = _digest(space)
        with quiet():
            study = optuna.create_study(storage=storage, study_name=name, load_if_exists=True)
            if study.user_attrs.get("space", digest) != digest:  # another version's decisions
                optuna.delete_study(study_name=name, storage=storage)
                study = optuna.create_study(storage=storage, study_name=name, load_if_exists=True)
            study.set_user_attr("space", digest)
            self.study: Study = study
            self.worker = worker_name()
            study.set_user_attr(f"worker {self.worker}", time.time())
            ordinal = self._ordinal()
            study.sampler = optuna.samplers.TPESampler(
                seed=seed + ordinal, multivariate=True, group=True, n_startup_trials=8
            )
        self.seed = seed + ordinal
        self._heard: set[int] = set()

    def _ordinal(self) -> int:
        """How many workers came before: two that use the same seed must not try the same."""
        found = {k: v for k, v in self.study.user_attrs.items() if k.startswith("worker ")}
        return sorted((v, k) for k, v in found.items()).index(
            (found[f"worker {self.worker}"], f"worker {self.worker}")
        )

    def prepare(self) -> int:
        """Put lost trials and, in a new book, the start points in the queue; how many were lost."""
        lost = self.recover()
        with quiet():
            for values in self.space.starts():
                self.study.enqueue_trial(dict(values), skip_if_exists=True)
        return lost

    def recover(self) -> int:
        """Put the trials of workers that were killed in the queue; how many there were."""
        with quiet():
            lost = [trial for trial in self._all("RUNNING") if self._is_dead(trial)]
            for trial in lost:
                self._requeue(trial)
        return len(lost)

    def _is_dead(self, trial: "FrozenTrial") -> bool:
        started = trial.datetime_start or datetime.now()
        age = (datetime.now() - started).total_seconds()
        work = trial.user_attrs.get(WORK)
        if work is None:
            return age > NAMELESS_SECONDS
        host, _, rest = work["worker"].partition(":")
        return not is_alive(rest) if host == socket.gethostname() else age > ABROAD_SECONDS

    def _requeue(self, trial: "FrozenTrial") -> None:
        """Fail a trial that nobody works on, and queue its values unless they were lost before."""
        import optuna

        values = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
        again = trial.user_attrs.get("again", False)
        try:
            self.study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        except ValueError:  # another worker was faster
            return
        if values and not again:
            self.study.enqueue_trial(values, user_attrs={"again": True})

    def ask(self) -> "tuple[Trial, Plan]":
        """The next trial and its plan, signed by this worker."""
        from optuna.exceptions import UpdateFinishedTrialError

        while True:
            with quiet(), suppress(UpdateFinishedTrialError):
                return self._drawn()

    def _drawn(self) -> "tuple[Trial, Plan]":
        """A trial; SQLite may give one to two workers, the slower of which then fails to sign."""
        trial = self.study.ask()
        trial.set_user_attr(WORK, {"worker": self.worker})
        plan = self.space.plan(lambda n, options: trial.suggest_categorical(n, options))
        trial.set_user_attr(WORK, {"worker": self.worker, "plan": plan.to_dict()})
        return trial, plan

    def queue(self, values: Mapping[str, Value]) -> None:
        """Let the next trial have these values."""
        with quiet():
            self.study.enqueue_trial(dict(values))

    def tell(self, trial: "Trial", result: Result) -> None:
        """Finish a trial. What was sent home early counts with the ratio it had by then.

        One that another worker finished meanwhile, having drawn it at the same moment, stays so.
        """
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        states = {MEASURED: TrialState.COMPLETE, SLOWER: TrialState.PRUNED}
        with quiet(), suppress(UpdateFinishedTrialError):
            trial.set_user_attr(RESULT, asdict(result))
            state = states.get(result.verdict, TrialState.FAIL)
            if state is TrialState.PRUNED and result.value is not None:
                trial.report(result.value, 0)
            values = result.value if state is TrialState.COMPLETE else None
            self.study.tell(trial, values, state=state)

    def give_back(self, trial: "Trial") -> None:
        """Fail a trial that could not be finished, and queue its values again."""
        with quiet():
            self._requeue(self.study.trials[trial.number])

    def results(self) -> Iterator[tuple[Plan, Result, float]]:
        """Every finished plan, in order, with the seconds that its trial took."""
        return map(_read, self._finished())

    def news(self) -> list[tuple[Plan, Result, float]]:
        """The same of what finished since the last call, here or elsewhere."""
        found = [trial for trial in self._finished() if trial.number not in self._heard]
        self._heard |= {trial.number for trial in found}
        return [_read(trial) for trial in found]

    def _finished(self) -> "list[FrozenTrial]":
        found = self._all("COMPLETE", "PRUNED", "FAIL")
        return [one for one in found if one.user_attrs.keys() >= {WORK, RESULT}]

    def best(self, count: int) -> list[tuple[Plan, Result]]:
        """The plans of the lowest value, of all workers."""
        found = [
            (plan, result)
            for plan, result, _ in self.results()
            if result.outcome == MEASURED and result.value is not None
        ]
        return sorted(found, key=lambda one: one[1].value or 0.0)[:count]

    def others(self) -> set[str]:
        """Digests of the plans that other workers are busy with."""
        found = (trial.user_attrs.get(WORK) for trial in self._all("RUNNING"))
        return {
            Plan.from_dict(work["plan"]).digest
            for work in found
            if work is not None and work["worker"] != self.worker and "plan" in work
        }

    def _all(self, *states: str) -> "list[FrozenTrial]":
        from optuna.trial import TrialState

        wanted = tuple(TrialState[state] for state in states)
        return self.study.get_trials(deepcopy=False, states=wanted)


def _read(trial: "FrozenTrial") -> tuple[Plan, Result, float]:
    spent = trial.duration.total_seconds() if trial.duration else 0.0
    work, result = trial.user_attrs[WORK], trial.user_attrs[RESULT]
    return Plan.from_dict(work["plan"]), Result(**result), spent


def _digest(space: Space) -> str:
    """A name for the decisions and options of a space: a study knows only one set of them.

    For how long kernels may be tuned follows from the budget, which may grow.
    """
    plain = asdict(replace(space, kernel_seconds=0.0))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


@contextmanager
def quiet() -> Iterator[None]:
    """Without Optuna's notes that multivariate sampling is experimental."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
