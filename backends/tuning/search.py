"""The search: ask for a plan, let it meet the best so far, write down what came of it."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .arena import BETTER, Arena, Contenders
from .book import FAILED, LOST, MEASURED, SAME, Book, Result
from .known import Known, same
from .plan import Plan
from .space import Value
from .stable import Failed
from .standing import Clock, Limits, Progress, Standing

REPEATS, TRIES = 3, 300
"""Known plans in a row before a new one is drawn at random; draws before there is none left."""
RECOVER_SECONDS = 60.0
"""How often to look for trials of workers that were killed."""
KERNELS_AT_LEAST = 1.0
"""Seconds for a plan that wants its kernels tuned when no time is left; they must not be 0."""
CONFIRMED = 3
"""How many of the best plans get the chance to beat the baseline once more."""


@dataclass
class Found:
    """What a search came to.

    Attributes:
        plan: the best plan.
        cost, baseline: what it and the baseline take: ms, or MB of memory.
        error: relative error of its outputs.
        standing: trials, history and so on.
        interrupted: whether Ctrl-C ended it.
        notes: what the user should know.
    """

    plan: Plan
    cost: float
    baseline: float
    error: float
    standing: Standing
    interrupted: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def confirmed(self) -> bool:
        """Whether the plan was measured against the baseline once more."""
        return not self.interrupted

    @property
    def exhausted(self) -> bool:
        """Whether there was nothing left to try."""
        return not self.standing.is_over and not self.interrupted


class Search:
    """One worker's search.

    Args:
        book: what is known; shared with other workers.
        contenders: builds plans.
        objective: "latency", "throughput" or "memory".
        limits: when to stop.
        progress: told about every step.
        fallbacks: baselines to take where plain ONNX Runtime cannot be one, the best first.
    """

    def __init__(
        self,
        book: Book,
        contenders: Contenders,
        objective: str,
        limits: Limits,
        progress: Progress,
        fallbacks: Sequence[Plan] = (),
    ) -> None:
        self._book = book
        self._contenders = contenders
        self._progress = progress
        self._fallbacks = fallbacks
        self._random = random.Random(book.seed)
        self._repeats, self._recovered = 0, 0.0
        self.standing = Standing(objective, limits)
        self.notes: list[str] = []

    def run(self) -> Found:
        """Search until a limit is reached, all is known, or Ctrl-C.

        Raises:
            Failed: the baseline cannot be measured.
            KeyboardInterrupt: before it was.
        """
        self._clock = Clock()
        if lost := self._book.prepare():
            self.notes.append(f"{lost} trials of workers that were killed are tried again")
        self._say("measuring the baseline")
        self._arena = self._opened()
        self.standing.best, self.standing.baseline = self._arena.baseline, self._arena.cost
        self._known = Known(self._arena.baseline.backend)
        try:
            self._recall()
            self._meet_the_best()
            while not self.standing.is_over and self._turn():
                pass
            return self._confirmed()
        except KeyboardInterrupt:
            return self._interrupted()

    def _opened(self) -> Arena:
        """The arena with its baseline: plain ONNX Runtime, or a fallback where that fails."""
        first: Failed | None = None
        for plan in (self._book.space.baseline, *self._fallbacks):
            try:
                arena = Arena(self._contenders, self.standing.objective, plan)
            except Failed as failed:
                first = first or failed
                continue
            if first is not None:
                self.notes.append(f"the baseline is {plan}: plain ONNX Runtime fails: {first.why}")
            return arena
        assert first is not None
        raise first

    def _recall(self) -> None:
        """Take over what earlier runs and other workers found."""
        self._before = 0.0
        for plan, result, seconds in self._book.news():
            self._before += seconds
            self._known.learn(plan, result)
            self.standing.add(plan, result, self._before)

    def _hear(self) -> None:
        """Take over what finished since: this worker's own trial, and those of others."""
        for plan, result, _ in self._book.news():
            self._known.learn(plan, result)
            self.standing.add(plan, result, self._before + self._clock.seconds)

    def _meet_the_best(self) -> None:
        """Let the best plan that is known be the incumbent."""
        if self.standing.ratio > BETTER:
            return
        self._say("measuring the best plan so far")
        try:
            self._arena.challenge(self._within(self.standing.best), lambda _: None)
        except Failed as failed:
            self.notes.append(f"the best plan so far fails now: {failed.why}")

    def _turn(self) -> bool:
        """One trial; False where there is nothing left to try."""
        if self._clock.seconds > self._recovered + RECOVER_SECONDS:
            self._recovered = self._clock.seconds
            self._book.recover()
        if self._repeats >= REPEATS and not self._queue_new():
            return False
        trial, plan = self._book.ask()
        try:
            result = self._tried(plan)
        except KeyboardInterrupt:
            self._book.give_back(trial)
            raise
        self._finish(trial, result)
        return True

    def _tried(self, plan: Plan) -> Result:
        """What a plan comes to: known already, or built, verified and measured."""
        arena, busy = self._arena, self._book.others()
        self._hear()  # after asking who is at what: who has finished is not at it any more
        known = self._known.of(plan)
        if known is None and plan == arena.baseline:
            program = arena.incumbent.fingerprint if arena.incumbent.plan == plan else ""
            return Result(MEASURED, 1.0, arena.cost, fingerprint=program, error=arena.error)
        if known is not None:
            return same(known)
        if plan.digest in busy:
            return Result(SAME, kind=LOST, why="another worker is at it")
        self._say(f"trying {plan}")
        try:
            return arena.challenge(self._within(plan), self._known.programs.get)
        except Failed as failed:
            return Result(FAILED, why=failed.why, kind=failed.kind)

    def _within(self, plan: Plan) -> Plan:
        """The plan, its kernels tuned for no longer than the search has left.

        What was tuned before is used all the same.
        """
        left = self.standing.limits.search_seconds - self._before - self._clock.seconds
        return replace(plan, kernels=min(plan.kernels, max(left, KERNELS_AT_LEAST)))

    def _finish(self, trial: Any, result: Result) -> None:
        self._book.tell(trial, result)
        self._hear()
        self._repeats = self._repeats + 1 if result.outcome == SAME else 0
        self._progress(self.standing)

    def _queue_new(self) -> bool:
        """Queue a plan that nobody tried, drawn at random; whether there seems to be one."""
        for _ in range(TRIES):
            values: dict[str, Value] = {}
            if self._known.of(self._book.space.plan(self._drawn(values))) is None:
                self._book.queue(values)
                return True
        return False

    def _drawn(self, values: dict[str, Value]) -> "Callable[[str, tuple[Value, ...]], Value]":
        return lambda name, options: values.setdefault(name, self._random.choice(options))

    def _confirmed(self) -> Found:
        """The best plan that beats the baseline in new processes, or else the baseline."""
        for plan, result in self._book.best(CONFIRMED):
            if result.value is None or result.value >= 1 or plan == self._arena.baseline:
                break
            self._say(f"measuring {plan} against the baseline once more")
            try:
                baseline, cost = self._arena.confirm(self._within(plan))
            except Failed as failed:
                self.notes.append(f"not taken: {plan}: {failed.why}")
                continue
            if cost < baseline:
                return self._found(plan, cost, baseline, result.error)
            self.notes.append(f"not taken: {plan}: no faster than the baseline when measured again")
        cost = self._arena.cost
        return self._found(self._arena.baseline, cost, cost, self._arena.error)

    def _interrupted(self) -> Found:
        """The best so far, by what the trials said."""
        cost, error = self._arena.cost, self._arena.error
        for plan, result in self._book.best(1):
            if result.value is not None and result.value < 1:
                return self._found(plan, result.value * cost, cost, result.error, interrupted=True)
        return self._found(self._arena.baseline, cost, cost, error, interrupted=True)

    def _found(
        self, plan: Plan, cost: float, baseline: float, error: float, *, interrupted: bool = False
    ) -> Found:
        standing = self.standing
        standing.best, standing.ratio, standing.baseline = plan, cost / baseline, baseline
        return Found(plan, cost, baseline, error, standing, interrupted, self.notes)

    def _say(self, text: str) -> None:
        self.standing.doing = text
        self._progress(self.standing)
