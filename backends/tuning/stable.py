"""Contenders: plans built in processes of their own, and the processes kept for the next.

Starting a process and importing torch takes seconds, so a process whose candidate is done with
builds the next one, as long as both want the same environment. One that crashed is not used again.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from .child import Child, Lost, environment
from .duel import Side
from .plan import Plan

BUILD_SECONDS, CALL_SECONDS = 300.0, 120.0
"""How long a candidate may take to build and verify, and to answer any other order."""
OVERRUN = 2.0
"""How far tuning kernels may exceed its seconds: a round that has begun is finished."""


LOST_PROCESS = "Lost"
"""The kind of failure that takes the process along."""


class Failed(Exception):
    """A candidate is out.

    Attributes:
        kind: the error's name, LOST_PROCESS where its process ended.
        why: in words.
        who: the contender, where it was built.
    """

    def __init__(self, kind: str, why: str, who: "Contender | None" = None) -> None:
        super().__init__(why)
        self.kind = kind
        self.why = why
        self.who = who


class Contender(Side, Protocol):
    """A built plan."""

    plan: Plan
    fingerprint: str

    def verify(self) -> float:
        """The relative error of the outputs; Failed where that is too large."""

    def peak(self, calls: int) -> int:
        """Largest resident memory, bytes, over so many calls."""


class Built:
    """A plan built in a child process."""

    def __init__(self, plan: Plan, child: Child, fingerprint: str) -> None:
        self.plan = plan
        self.child = child
        self.fingerprint = fingerprint

    def verify(self) -> float:
        """The relative error of the outputs.

        Raises:
            Failed: they disagree with the original's.
        """
        answer = self._asked({"do": "verify"}, BUILD_SECONDS)
        if answer["wrong"]:
            raise Failed("VerificationError", answer["wrong"], self)
        return float(answer["error"])

    def time(self, calls: int) -> list[float]:
        answer = self._asked({"do": "time", "calls": calls}, CALL_SECONDS)
        return [float(one) for one in answer["seconds"]]

    def peak(self, calls: int) -> int:
        return int(self._asked({"do": "peak", "calls": calls}, CALL_SECONDS)["bytes"])

    def _asked(self, order: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        try:
            return asked(self.child, order, seconds)
        except Failed as failed:
            failed.who = self
            raise


def asked(child: Child, order: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """A child's answer.

    Raises:
        Failed: the candidate cannot do it, or took its process with it.
    """
    try:
        answer = child.ask(order, seconds)
    except Lost as lost:
        raise Failed(LOST_PROCESS, str(lost)) from None
    if "failed" in answer:
        raise Failed(answer["failed"], answer["why"])
    return answer


class Stable:
    """Where contenders come from.

    Args:
        start: starts a process in an environment.
        cores: processors that may be used.
    """

    def __init__(self, start: Callable[[dict[str, str]], Child], cores: int) -> None:
        self._start = start
        self._cores = cores
        self._idle: list[Child] = []
        self._busy: set[Child] = set()

    def build(self, plan: Plan, *, fresh: bool = False) -> Built:
        """Build a plan, in a process that did something else before unless it is to be `fresh`.

        Raises:
            Failed: it cannot be built.
        """
        own = environment(plan.threads, self._cores)
        child = (None if fresh else self._reused(own)) or self._start(own)
        self._busy.add(child)
        order = {"do": "build", "plan": plan.to_dict()}
        try:
            answer = asked(child, order, BUILD_SECONDS + OVERRUN * plan.kernels)
        except Failed as failed:
            self._let_go(child, broken=failed.kind == LOST_PROCESS)
            raise
        return Built(plan, child, answer["fingerprint"])

    def _reused(self, own: dict[str, str]) -> Child | None:
        for child in self._idle:
            if child.environment == own:
                self._idle.remove(child)
                return child
        while self._idle:  # one that waits for a plan like its last would only hold memory
            self._idle.pop().stop()
        return None

    def release(self, built: Contender, *, broken: bool = False) -> None:
        """Done with a contender; its process may build another."""
        assert isinstance(built, Built)
        self._let_go(built.child, broken=broken)

    def _let_go(self, child: Child, *, broken: bool) -> None:
        self._busy.remove(child)
        if broken:
            child.stop()
        else:
            self._idle.append(child)

    def close(self) -> None:
        """End all processes."""
        for child in (*self._idle, *self._busy):
            child.stop()
        self._idle, self._busy = [], set()
