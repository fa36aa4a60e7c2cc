"""Contenders without processes: what each plan takes is a table, so a search is quick and exact."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import optuna

from passel.backends.tuning.book import Book
from passel.backends.tuning.plan import Plan
from passel.backends.tuning.search import Search
from passel.backends.tuning.space import Space, Value
from passel.backends.tuning.stable import Failed
from passel.backends.tuning.standing import Limits

SPACE = Space(backends=("onnxruntime", "torch"), cores=(0, 1))


class Runner:
    """A built plan whose calls take as long as its makers say."""

    def __init__(self, plan: Plan, makers: "Makers") -> None:
        self.plan, self.makers = plan, makers
        self.fingerprint = makers.program(plan)

    def verify(self) -> float:
        error = self.makers.error(self.plan)
        if error > 0.1:
            raise Failed("VerificationError", "output 'y' disagrees", self)
        return error

    def time(self, calls: int) -> list[float]:
        self.makers.calls += 1
        self.makers.on_call(self)
        return [self.makers.seconds(self.plan)] * calls

    def peak(self, calls: int) -> int:
        return int(self.makers.seconds(self.plan) * 1e9)


@dataclass
class Makers:
    """Where runners come from.

    Attributes:
        seconds: what a call of a plan takes.
        program: its fingerprint; by default every plan is a program of its own.
        error: relative error.
        broken: why a plan cannot be built, "" if it can.
        on_call: called before each timing.
        built: plans that were built, in order.
        alive: runners that were not released.
    """

    seconds: Callable[[Plan], float]
    program: Callable[[Plan], str] = lambda plan: plan.digest
    error: Callable[[Plan], float] = lambda plan: 0.0
    broken: Callable[[Plan], str] = lambda plan: ""
    on_call: Callable[[Runner], None] = lambda runner: None
    built: list[Plan] = field(default_factory=list)
    alive: list[Runner] = field(default_factory=list)
    calls: int = 0

    def build(self, plan: Plan, *, fresh: bool = False) -> Runner:
        self.built.append(plan)
        if why := self.broken(plan):
            raise Failed(*why.split(": ", 1))
        runner = Runner(plan, self)
        self.alive.append(runner)
        return runner

    def release(self, built: Runner, *, broken: bool = False) -> None:
        self.alive.remove(built)  # a second release fails here


def planned(space: Space, values: Mapping[str, Value]) -> Plan:
    """The plan of a table of values; a name that is missing takes its usual value."""
    return space.plan(lambda name, options: values.get(name, options[0]))


def memory() -> optuna.storages.BaseStorage:
    """A storage that no file holds."""
    return optuna.storages.InMemoryStorage()


def race(makers: Makers, trials: int, storage=None, space=SPACE, **options) -> "Search":
    """A search, over; its result is in `found`."""
    book = Book(storage or memory(), "race", space, options.pop("seed", 0))
    search = Search(
        book,
        makers,
        options.pop("objective", "latency"),
        Limits(None, trials),
        options.pop("progress", lambda _: None),
        **options,
    )
    search.found = search.run()
    return search
