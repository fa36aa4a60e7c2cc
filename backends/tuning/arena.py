"""Where plans meet: the incumbent's process stays alive, challengers come and go.

A plan's value is its cost over the baseline's. It is measured against the incumbent, the best plan
so far: value = (challenger over incumbent) · the incumbent's value. So values of different hours
and of different machines of one kind can be compared.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from .book import MEASURED, SLOWER, Result
from .duel import Duel, duel
from .known import same
from .plan import Plan
from .stable import LOST_PROCESS, Contender, Failed

DUEL_SECONDS, CONFIRM_SECONDS = 0.6, 2.0
"""Time for each side of a duel, and of the last one, between the winner and the baseline."""
MEMORY_CALLS = 5
BETTER = 0.99
"""A challenger takes the incumbent's place when its cost is below this share."""


class Contenders(Protocol):
    """Where built plans come from; see `stable.Stable`."""

    def build(self, plan: Plan, *, fresh: bool = False) -> Contender: ...

    def release(self, built: Contender, *, broken: bool = False) -> None: ...


class Arena:
    """The incumbent, the baseline, and what they cost.

    Attributes:
        baseline: the plan that all is compared with.
        cost: what that takes, ms or MB.
        incumbent: the best plan, built.
        value: its cost over the baseline's.
    """

    def __init__(self, contenders: Contenders, objective: str, baseline: Plan) -> None:
        """Build, verify and measure the baseline.

        Raises:
            Failed: that is not possible.
        """
        self._contenders = contenders
        self._memory = objective == "memory"
        self.baseline = baseline
        self.incumbent, self.error = self._verified(baseline)
        self.value = 1.0
        with self._kept(self.incumbent):
            self.cost = self._cost(self.incumbent)

    def challenge(self, plan: Plan, known: Callable[[str], Result | None]) -> Result:
        """Build a plan and let it meet the incumbent, whose place it takes if it is better.

        Args:
            known: what is known of a program, by fingerprint; it is then not measured again.

        Raises:
            Failed: the plan does not work.
        """
        contender = self._contenders.build(plan, fresh=self._memory)
        with self._kept(contender):
            met = known(contender.fingerprint)
            result = same(met) if met is not None else self._met(contender, contender.verify())
        if result.outcome != MEASURED or result.value is None or result.value > BETTER * self.value:
            self._contenders.release(contender)
            return result
        self._contenders.release(self.incumbent)
        self.incumbent, self.value = contender, result.value
        return result

    def _met(self, contender: Contender, error: float) -> Result:
        if self._memory:
            cost = self._cost(contender)
            value, outcome = cost / self.cost, MEASURED
        else:
            found = self._duel(contender)
            if found.ratio < BETTER and not found.stopped:
                found = self._duel(contender)  # of many, some win by luck: that is not to count
            cost, value = found.milliseconds[1], found.ratio * self.value
            outcome = SLOWER if found.stopped else MEASURED
        return Result(outcome, value, cost, fingerprint=contender.fingerprint, error=error)

    def _duel(self, challenger: Contender) -> Duel:
        """Against the incumbent; if that one's process is gone, once more with a new one."""
        try:
            return duel(self.incumbent, challenger, seconds=DUEL_SECONDS)
        except Failed as failed:
            if failed.who is not self.incumbent:
                raise
        plan = self.incumbent.plan
        self._contenders.release(self.incumbent, broken=True)
        self.incumbent, _ = self._verified(plan)
        return duel(self.incumbent, challenger, seconds=DUEL_SECONDS)

    def confirm(self, plan: Plan) -> tuple[float, float]:
        """Cost of the baseline and of a plan, both built anew, side by side and for longer.

        The plan gets a new process: what it owed to a lucky place in memory is gone.

        Raises:
            Failed: one of them does not work.
        """
        ours, _ = self._verified(self.baseline)
        with self._kept(ours):
            theirs, _ = self._verified(plan, fresh=True)
            with self._kept(theirs):
                if self._memory:
                    found = self._cost(ours), self._cost(theirs)
                else:
                    last = duel(ours, theirs, seconds=CONFIRM_SECONDS, early=False)
                    cost = last.milliseconds[0]
                    found = cost, cost * last.ratio
            self._contenders.release(theirs)
        self._contenders.release(ours)
        return found

    def _verified(self, plan: Plan, *, fresh: bool = False) -> tuple[Contender, float]:
        contender = self._contenders.build(plan, fresh=fresh or self._memory)
        with self._kept(contender):
            return contender, contender.verify()

    def _cost(self, contender: Contender) -> float:
        if self._memory:
            return contender.peak(MEMORY_CALLS) / 1e6
        contender.time(3)
        return sorted(contender.time(5))[2] * 1e3

    @contextmanager
    def _kept(self, contender: Contender) -> Iterator[None]:
        """Give a contender's process back if anything goes wrong."""
        try:
            yield
        except Failed as failed:
            mine = failed.who is contender
            self._contenders.release(contender, broken=mine and failed.kind == LOST_PROCESS)
            raise
        except KeyboardInterrupt:
            self._contenders.release(contender, broken=True)
            raise
