"""What a pass is: a frozen value that matches sites, refuses some with a reason, rewrites the rest.

`match` finds structure, `refuse` decides legality, `rewrite` edits and cannot fail. What legality
learns and the rewrite needs travels in the site. The driver owns traversal, fixpoint, exclusion,
verification, timing and the report.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar  # noqa: TID251

import numpy as np

from ..graph import Graph, Op


class Exactness(Enum):
    """How a pass's result relates to the original function."""

    BITWISE = "bitwise"
    REASSOCIATES = "reassociates"
    APPROXIMATE = "approximate"


@dataclass(frozen=True)
class Refusal:
    """Why a site was left alone.

    Attributes:
        reason: a literal, so that reports can be counted by it.
        node: name of the op that stands in the way.
        detail: what is special about this case (sizes, the operator's name).
    """

    reason: str
    node: str = ""
    detail: str = ""

    def __str__(self) -> str:
        where = f" at {self.node}" if self.node else ""
        return f"{self.reason}{where}" + (f" ({self.detail})" if self.detail else "")


def decibels(signal: float, noise: float) -> float:
    """10·log₁₀(signal/noise)."""
    if noise <= 0:
        return float("inf")
    return 10 * float(np.log10(max(signal, 1e-300) / noise))


@dataclass(frozen=True)
class LayerQuality:
    """What a lossy pass made of one op.

    Attributes:
        name: of the op.
        form: how it is computed now, e.g. "uint8 dynamic × int8".
        method: how its weight was rounded, e.g. "mse+gptq".
        bits: bits per weight, scales included.
        weight_snr_db: 10·log₁₀(‖W‖²/‖W − Ŵ‖²).
        output_snr_db: the same of y = W·x over the calibration data; nan when it was not measured.
        notes: what else the user should know.
        alone_snr_db: signal-to-noise ratio at the worst output of the model with only this op
            quantized; nan when it was not measured.
    """

    name: str
    form: str
    method: str
    bits: float
    weight_snr_db: float
    output_snr_db: float = float("nan")
    notes: tuple[str, ...] = ()
    alone_snr_db: float = float("nan")


Timings = dict[str, float]
"""Milliseconds by form: "float", "static", "dynamic"."""


@dataclass
class Context:
    """What a caller of the passes offers them.

    Attributes:
        examples: flat inputs that the model was given with; [] if there are none.
        time_products: times the forms of products (rows, I, O) on the target; None where nothing is
            measured.
        notes: what the user should know; passes may add to it.
        data: calibration data that passes have opened, by the id of what they were given.
    """

    examples: "list[list[np.ndarray]]" = field(default_factory=list)
    time_products: "Callable[[Sequence[tuple[int, int, int]]], list[Timings]] | None" = None
    notes: list[str] = field(default_factory=list)
    data: "dict[int, Iterable[list[np.ndarray]]]" = field(default_factory=dict)


class Site(Protocol):
    """A place where a pass applies. A lossy pass's site may have a `quality` (LayerQuality)."""

    @property
    def anchor(self) -> Op:
        """The op that names the site in reports."""
        ...

    @property
    def touched(self) -> tuple[Op, ...]:
        """Every op that the rewrite edits or erases, so that `exclude=` can keep it off."""
        ...


@dataclass(frozen=True)
class OpSite:
    """A site that is one op, and touches no other."""

    op: Op

    @property
    def anchor(self) -> Op:
        return self.op

    @property
    def touched(self) -> tuple[Op, ...]:
        return (self.op,)


S = TypeVar("S", bound=Site)


@dataclass(frozen=True)
class Pass(Generic[S]):
    """Base of all passes; subclasses are frozen dataclasses whose fields are their parameters."""

    name: ClassVar[str] = ""
    exactness: ClassVar[Exactness] = Exactness.REASSOCIATES
    once: ClassVar[bool] = False
    """One walk over the sites instead of as many as find something; a site may then depend on the
    rewriting of those before it."""

    def match(self, graph: Graph) -> Iterator[S]:
        """Candidate sites, in topological order. Pure."""
        raise NotImplementedError

    def refuse(self, graph: Graph, site: S) -> Refusal | None:
        """Why the site must be left alone, or None when the rewrite is legal. Pure."""
        return None

    def rewrite(self, graph: Graph, site: S) -> None:
        """Edit the graph. Called only on sites that were not refused."""
        raise NotImplementedError

    def space(self, graph: Graph) -> tuple[Self, ...]:
        """The variants worth measuring on this graph; by default only this one."""
        return (self,)

    def settled(self, graph: Graph, context: "Context") -> Self:
        """The pass as it runs on `graph`, with what it leaves to its caller filled in."""
        return self

    def before(self) -> "tuple[AnyPass, ...]":
        """Passes that have to run right before this one, as it was asked for."""
        return ()

    @property
    def spec(self) -> str:
        """The pass as text, e.g. "compress(form='paper')"; `parse` in registry.py reads it back."""
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        default = {f.name: f.default for f in fields(self)}
        changed = ", ".join(f"{k}={v!r}" for k, v in given.items() if v != default[k])
        return f"{self.name}({changed})" if changed else self.name

    @property
    def summary(self) -> str:
        """The first line of the module's method card."""
        import sys

        doc = sys.modules[type(self).__module__].__doc__ or ""
        return doc.strip().splitlines()[0]


AnyPass = Pass[Any]
"""A pass of any kind of site, for those who only pass it on."""
