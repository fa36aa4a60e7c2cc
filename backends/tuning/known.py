"""What a search knows, so that nothing is measured twice."""

from dataclasses import dataclass, field, replace

from .book import LOST, SAME, Result
from .plan import Plan

CANNOT = ("UnsupportedModel", "BackendUnavailable", "ExportError")
"""Errors that say that a backend will not run this model, whatever else is decided."""


@dataclass
class Known:
    """Results by plan, by the program that plans make, and by what decides a program's outputs."""

    home: str
    """The baseline's backend, which no single failure rules out."""
    plans: dict[str, Result] = field(default_factory=dict)
    programs: dict[str, Result] = field(default_factory=dict)
    wrong: dict[tuple[object, ...], Result] = field(default_factory=dict)
    barred: dict[str, Result] = field(default_factory=dict)

    def learn(self, plan: Plan, result: Result) -> None:
        """Remember what a plan came to."""
        if result.verdict == LOST:
            return
        self.plans[plan.digest] = result
        if result.fingerprint and result.outcome != SAME:
            self.programs.setdefault(result.fingerprint, result)
        if result.kind == "VerificationError":
            self.wrong[plan.graph] = result
        if result.kind in CANNOT and plan.backend != self.home:
            self.barred[plan.backend] = result

    def of(self, plan: Plan) -> Result | None:
        """What is known of a plan before it is built."""
        found = self.plans.get(plan.digest) or self.wrong.get(plan.graph)
        return found or self.barred.get(plan.backend)


def same(result: Result) -> Result:
    """The result of a plan that is another again."""
    return replace(result, outcome=SAME, kind=result.verdict)
