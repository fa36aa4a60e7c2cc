"""What the database remembers: the key of a search, and the best plan it found."""

import hashlib
import json
import math
import time
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from ...errors import InvalidInput

OBJECTIVES = {"latency": "ms", "throughput": "ms a call", "memory": "MB"}
"""What a search minimises, with the unit that costs are counted in."""


@dataclass(frozen=True)
class Key:
    """What a result holds for: the same key anywhere means that its plan can be used as it is.

    Attributes:
        graph: `graph_key` of the model as it was given.
        hardware: `fingerprint` of the machine and target.
        versions: the runtimes with their versions, as `Hardware.versions` writes them.
        objective: one of `OBJECTIVES`.
        bound: relative error that was allowed; None for exact plans only.

    Raises:
        InvalidInput: an unknown objective, or a bound that is no positive number.
    """

    graph: str
    hardware: str
    versions: str
    objective: str = "latency"
    bound: float | None = None

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            names = ", ".join(OBJECTIVES)
            raise InvalidInput(f"objective: expected one of {names}, got {self.objective!r}")
        if self.bound is not None and not (0 < self.bound < math.inf):
            raise InvalidInput(f"max_error: expected a positive number, got {self.bound!r}")

    @property
    def digest(self) -> str:
        """64 hexadecimal digits that stand for the whole key."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    @property
    def study(self) -> str:
        """Name of the Optuna study that searches for this key."""
        return f"passel-{self.digest}"


@dataclass(frozen=True)
class Record:
    """The best plan found for a key.

    Attributes:
        key: what it was found for.
        plan: the plan as JSON text.
        cost: median of the plan, in the objective's unit; less is better.
        baseline: the same of plain ONNX Runtime, measured interleaved with it.
        error: relative error of the plan's outputs.
        trials: candidates tried so far.
        model: what the user calls the model; for people only.
        created, updated: Unix time, seconds.

    Raises:
        InvalidInput: the plan is no JSON, or a number is not finite and positive.
    """

    key: Key
    plan: str
    cost: float
    baseline: float
    error: float = 0.0
    trials: int = 0
    model: str = ""
    created: float = field(default_factory=time.time)
    updated: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        for name in ("cost", "baseline"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise InvalidInput(f"record: expected a positive {name}, got {value!r}")
        try:
            json.loads(self.plan)
        except ValueError as error:
            raise InvalidInput(f"record: the plan is not JSON: {error}") from error

    @property
    def ratio(self) -> float:
        """Cost over the baseline's: what two searches are compared by.

        Both were measured in turn, so it does not depend on how busy the machine was that day.
        """
        return self.cost / self.baseline

    def to_dict(self) -> dict[str, Any]:
        """As JSON writes it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Self:
        """The record that `to_dict` wrote.

        Raises:
            InvalidInput: a field is missing, unknown or of the wrong kind.
        """
        try:
            return cls(**{**plain, "key": Key(**plain["key"])})
        except (TypeError, KeyError) as error:
            raise InvalidInput(f"record: expected the fields of a record: {error}") from error
