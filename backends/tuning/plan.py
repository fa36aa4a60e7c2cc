"""A plan: everything needed to build one candidate again, as plain data."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

from ...errors import InvalidInput
from ..choices import LEVELS, SessionChoice

BACKENDS = ("onnxruntime", "tvm", "torch")
EXPORTED = "as exported"
"""The form that leaves the model as it came: no pass runs, nothing is rewritten."""

SEARCH = "search"
"""Beside the fields of a plan, its text may say how it was found; that is no part of it."""


@dataclass(frozen=True)
class Plan:
    """How to lower a model; the same plan on the same model gives the same program.

    Attributes:
        passes: specs, in order, as `registry.resolve` reads them.
        backend: one of `BACKENDS`.
        form: a form of `select.FORM`, or EXPORTED; "" on other backends than ONNX Runtime.
        session: options of ONNX Runtime; threads and affinities are filled in from this plan.
        threads: worker threads of one call; 0 for the runtime's own choice.
        affinity: processors (from 0) to run on, one a thread; () leaves that to the system.
        streams: calls that run at once, from as many threads of the caller's.
        kernels: seconds for which TVM's kernels are tuned on the machine before a candidate is
            built; 0 for passel's own schedules. What was found is used again, not searched again.

    Raises:
        InvalidInput: an unknown backend or level, or a number out of range.
    """

    passes: tuple[str, ...] = ()
    backend: str = "onnxruntime"
    form: str = EXPORTED
    session: SessionChoice = field(default_factory=SessionChoice)
    threads: int = 0
    affinity: tuple[int, ...] = ()
    streams: int = 1
    kernels: float = 0.0

    def __post_init__(self) -> None:
        """Check the values."""
        if self.backend not in BACKENDS:
            known = ", ".join(BACKENDS)
            raise InvalidInput(f"plan: expected a backend of {known}, got {self.backend!r}")
        if self.session.level not in LEVELS:
            known = ", ".join(LEVELS)
            raise InvalidInput(f"plan: expected a level of {known}, got {self.session.level!r}")
        if self.threads < 0 or self.streams < 1 or any(place < 0 for place in self.affinity):
            raise InvalidInput(f"plan: expected threads and streams, got {self!r}")
        if not self.kernels >= 0:
            raise InvalidInput(f"plan: expected seconds, got kernels={self.kernels!r}")

    @property
    def session_choice(self) -> SessionChoice:
        """The session's options with this plan's threads; the caller's own thread is not pinned."""
        pinned = ";".join(str(place + 1) for place in self.affinity[1:])
        return replace(self.session, threads=self.threads, affinities=pinned)

    @property
    def graph(self) -> tuple[object, ...]:
        """What decides the results of the program: all but how it is run."""
        return self.backend, self.passes, self.form, bool(self.kernels)

    def to_dict(self) -> dict[str, Any]:
        """As JSON writes it."""
        return {**asdict(self), "session": self.session.to_dict()}

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), sort_keys=True)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Self:
        """The plan that `to_dict` wrote.

        Raises:
            InvalidInput: a field is missing, unknown or of the wrong kind.
        """
        try:
            given = dict(plain)
            given["session"] = SessionChoice.from_dict(given["session"])
            for name in ("passes", "affinity"):
                given[name] = tuple(given[name])
            return cls(**given)
        except (TypeError, KeyError, ValueError) as error:
            raise InvalidInput(f"plan: expected the fields of a plan: {error}") from error

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The plan that `to_json` wrote.

        Raises:
            InvalidInput: the text is not that of a plan.
        """
        try:
            plain = json.loads(text)
        except ValueError as error:
            raise InvalidInput(f"plan: not JSON: {error}") from error
        if not isinstance(plain, dict):
            raise InvalidInput(f"plan: expected an object, got {type(plain).__name__}")
        plain.pop(SEARCH, None)
        return cls.from_dict(plain)

    @property
    def digest(self) -> str:
        """A short name, equal for equal plans."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    def __str__(self) -> str:
        """In a line, for people."""
        parts = [self.backend if self.backend != "onnxruntime" else "", self.form]
        parts += [f"{self.threads} threads" if self.threads else "", _session(self.session)]
        parts += [f"on processors {_listed(self.affinity)}" if self.affinity else ""]
        parts += [f"{self.streams} at once" if self.streams > 1 else ""]
        parts += ["tuned kernels" if self.kernels else ""]
        return ", ".join(part for part in parts if part)


def _session(choice: SessionChoice) -> str:
    level = f"level {choice.level}" if choice.level != "all" else ""
    return ", ".join(part for part in (level, "" if choice.spinning else "no spinning") if part)


def _listed(places: tuple[int, ...]) -> str:
    return " ".join(map(str, places))
