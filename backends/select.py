"""Choose how a graph runs on ONNX Runtime: build candidates, drop the wrong ones, measure the rest.

The cost table's favourite comes first and is what `measure=False` takes. A candidate that cannot be
loaded, or that disagrees with the original, is never chosen; the outcome says so.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir
import torch

from ..errors import InvalidModel, UnsupportedModel
from ..graph import onnx as onnx_view
from ..passes.driver import run_passes
from ..passes.registry import resolve
from ..passes.report import OutputError
from ..verify import Runner, first_violation
from .choices import Choice, SessionChoice
from .integer_products import integer_products, readable
from .kept_forms import KeptForm
from .measure import interleaved, medians
from .onnxruntime import Session
from .ort_forms import fused
from .packed_heads import packed_heads

MEASURE_SECONDS = 0.4
"""Time given to each candidate."""
MEASURE_BYTES = 1 << 30
"""Above this size of weights only the favourite is built: each candidate holds packed copies."""

AS_LOWERED = "as lowered"
"""The form in which only what the runtime could not read is spelled otherwise."""
FORM = Choice(
    "form",
    (
        "matrices",
        "matrices, merged linears",
        "matrices, skip norms",
        "matrices, products by block",
        AS_LOWERED,
    ),
)
"""Which spelling of the graph the runtime gets, the usual winner first."""

Check = Callable[[Runner], list[OutputError]]
"""Errors of a runner against the original, over all verification inputs."""


@dataclass
class Candidate:
    """One lowering, loaded.

    Attributes:
        errors: against the original; empty when nothing was verified.
    """

    name: str
    model: ir.Model
    session_choice: SessionChoice
    session: Session
    errors: list[OutputError] = field(default_factory=list)


@dataclass
class Selection:
    """The winner (None if all disagree) and what became of each: median in ms, or why it fell out.

    Attributes:
        errors: of the winner, or else of the last candidate that disagreed.
    """

    winner: Candidate | None
    outcomes: dict[str, float | str]
    errors: list[OutputError]


def select(
    lowered: ir.Model,
    inputs: Sequence[torch.Tensor],
    target: str,
    session_choice: SessionChoice,
    *,
    measure: bool,
    check: Check | None,
    kept: KeptForm | None = None,
) -> Selection:
    """The fastest correct candidate on this machine.

    Args:
        lowered: the graph after the passes.
        inputs: what is timed.
        target, session_choice: how it is to run.
        measure: time the candidates; else the favourite is taken.
        check: compares a candidate with the original.
        kept: what was fastest before, which then is not measured again, and where to keep it.

    Raises:
        UnsupportedModel: ONNX Runtime can load none of them.
    """
    search = _Search(lowered, inputs, target, session_choice, check)
    known = None if kept is None else kept.name
    if known in FORM.options:
        search.consider(known)
        if search.best is not None:
            search.outcomes[known] = "the fastest when they were measured before"
            return Selection(search.best, search.outcomes, search.best.errors)
    heavy = weight_bytes(lowered) > MEASURE_BYTES
    names = FORM.options if measure and not heavy else FORM.options[:1]
    for name in names:
        if name != known:
            search.consider(name)
    if search.best is None and FORM.options[-1] not in names:
        search.consider(FORM.options[-1])
    if search.best is None and not search.wrong:
        raise UnsupportedModel(search.refusal)
    if kept is not None and search.best is not None:
        kept.keep(search.best.name)
    errors = search.best.errors if search.best is not None else search.wrong
    return Selection(search.best, search.outcomes, errors)


@dataclass
class _Search:
    """A tournament: each candidate meets the best so far, so two sessions at most are in memory.

    Attributes:
        best: the fastest correct candidate so far.
        wrong: errors of the last candidate that disagreed, for the message when all do.
        refusal: why the last candidate could not be loaded.
        seen: operators of the graphs tried, in order.
    """

    lowered: ir.Model
    inputs: Sequence[torch.Tensor]
    target: str
    session_choice: SessionChoice
    check: Check | None
    best: Candidate | None = None
    wrong: list[OutputError] = field(default_factory=list)
    refusal: str = ""
    outcomes: dict[str, float | str] = field(default_factory=dict)
    seen: list[list[tuple[str, str]]] = field(default_factory=list)

    def consider(self, name: str) -> None:
        """Build, load, check and time one candidate; it becomes the best if it is."""
        model = build(name, self.lowered)
        if operators(model) in self.seen:
            self.outcomes[name] = "the same graph as another candidate"
            return
        self.seen.append(operators(model))
        try:
            session = Session(model, self.target, self.session_choice)
        except InvalidModel as error:
            self.outcomes[name] = self.refusal = str(error)
            return
        candidate = Candidate(name, model, self.session_choice, session)
        if self.check is not None:
            candidate.errors = self.check(session.run_arrays)
        if first_violation(candidate.errors) is not None:
            self.outcomes[name], self.wrong = "disagrees with the original", candidate.errors
        else:
            self._meet(candidate)

    def _meet(self, candidate: Candidate) -> None:
        if self.best is None:
            self.best = candidate
            self.outcomes[candidate.name] = "not measured"
            return
        pair = {c.name: c for c in (self.best, candidate)}
        calls = {
            name: (lambda session=c.session: session.run_tensors(self.inputs))
            for name, c in pair.items()
        }
        found = medians(interleaved(calls, seconds=MEASURE_SECONDS))
        for name, milliseconds in found.items():
            self.outcomes[name] = round(milliseconds, 3)
        self.best = pair[min(found, key=found.__getitem__)]


def build(form: str, lowered: ir.Model) -> ir.Model:
    """The lowered model in one of the forms of `FORM`."""
    if form == AS_LOWERED:
        return readable(lowered)
    merge = ["merge-linears"] if "merged" in form else []
    specs = ["canonicalize", *merge, "flatten-tokens", "canonicalize", "eliminate-dead-code"]
    graph = onnx_view.lift(lowered)
    run_passes(graph, resolve(specs))
    model = graph.binding.lower(graph)
    assert isinstance(model, ir.Model)
    packed = integer_products(packed_heads(model), by_block="by block" in form)
    return fused(packed) if "skip norms" in form else packed


def operators(model: ir.Model) -> list[tuple[str, str]]:
    """The operators of a model in order: two lowerings of one model that agree here are one."""
    return [(node.domain, node.op_type) for node in model.graph]


def weight_bytes(model: ir.Model) -> int:
    """Size of all initializers."""
    tensors = [value.const_value for value in model.graph.initializers.values()]
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)
