"""Choose how a graph runs on ONNX Runtime: build candidates, drop the wrong ones, measure the rest.

The cost table's favourite comes first and is what `measure=False` takes. A candidate that cannot be
loaded, or that disagrees with the original, is never chosen; the outcome says so.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir
import torch

from ..errors import InvalidModel
from ..graph import onnx as onnx_view
from ..passes.driver import run_passes
from ..passes.registry import resolve
from ..passes.report import OutputError
from ..verify import Runner, first_violation
from .choices import Choice, SessionChoice
from .measure import interleaved, medians
from .onnxruntime import Session
from .ort_forms import fused

MEASURE_SECONDS = 0.4
"""Time given to each candidate."""
MEASURE_BYTES = 1 << 30
"""Above this size of the weights only the favourite is built: each candidate holds packed copies."""

FORM = Choice("form", ("matrices", "matrices, merged linears", "matrices, skip norms", "as lowered"))
"""Which spelling of the graph the runtime gets, the usual winner first."""

Check = Callable[[Runner], list[OutputError]]
"""Errors of a runner against the original, over all verification inputs."""


@dataclass
class Candidate:
    """One lowering, loaded.

    Attributes:
        errors: against the original; empty when nothing was verified.
        median_ms: median time of a call, when measured.
    """

    name: str
    model: ir.Model
    session_choice: SessionChoice
    session: Session
    errors: list[OutputError] = field(default_factory=list)
    median_ms: float | None = None


@dataclass
class Selection:
    """The winner, and what became of the others (name: median in ms, or why it fell out)."""

    winner: Candidate
    outcomes: dict[str, float | str]


def select(
    lowered: ir.Model,
    inputs: Sequence[torch.Tensor],
    target: str,
    session_choice: SessionChoice,
    *,
    measure: bool,
    check: Check | None,
) -> Selection:
    """The fastest correct candidate on this machine.

    Raises:
        InvalidModel: ONNX Runtime can load none of them.
    """
    heavy = weight_bytes(lowered) > MEASURE_BYTES
    names = FORM.options if measure and not heavy else FORM.options[:1]
    outcomes: dict[str, float | str] = {}
    loaded = _load(names, lowered, target, session_choice, outcomes)
    if not loaded:
        loaded = _load(FORM.options[-1:], lowered, target, session_choice, outcomes)
    if not loaded:
        raise InvalidModel(f"ONNX Runtime cannot load the lowered model: {outcomes[FORM.options[-1]]}")
    if check is not None:
        for candidate in loaded:
            candidate.errors = check(candidate.session.run_arrays)
    right = [candidate for candidate in loaded if first_violation(candidate.errors) is None]
    for candidate in loaded:
        if candidate not in right:
            outcomes[candidate.name] = "disagrees with the original"
    if len(right) > 1:
        _time(right, inputs, outcomes)
    ranked = sorted(right, key=lambda candidate: candidate.median_ms or 0.0)
    return Selection(ranked[0] if ranked else loaded[0], outcomes)


def _load(
    names: Sequence[str],
    lowered: ir.Model,
    target: str,
    session_choice: SessionChoice,
    outcomes: dict[str, float | str],
) -> list[Candidate]:
    found: list[Candidate] = []
    for name in names:
        model = build(name, lowered)
        if any(same_ops(model, other.model) for other in found):
            outcomes[name] = "the same graph as another candidate"
            continue
        try:
            session = Session(model, target, session_choice)
        except InvalidModel as error:
            outcomes[name] = str(error)
            continue
        found.append(Candidate(name, model, session_choice, session))
    return found


def _time(
    candidates: Sequence[Candidate], inputs: Sequence[torch.Tensor], outcomes: dict[str, float | str]
) -> None:
    calls = {c.name: (lambda session=c.session: session.run_tensors(inputs)) for c in candidates}
    found = medians(interleaved(calls, seconds=MEASURE_SECONDS))
    for candidate in candidates:
        candidate.median_ms = found[candidate.name]
        outcomes[candidate.name] = round(found[candidate.name], 3)


def build(form: str, lowered: ir.Model) -> ir.Model:
    """The lowered model in one of the forms of `FORM`."""
    if form == "as lowered":
        return lowered
    merge = ["merge-linears"] if "merged" in form else []
    specs = ["canonicalize", *merge, "flatten-tokens", "canonicalize", "eliminate-dead-code"]
    graph = onnx_view.lift(lowered)
    run_passes(graph, resolve(specs))
    model = graph.binding.lower(graph)
    assert isinstance(model, ir.Model)
    return fused(model) if "skip norms" in form else model


def same_ops(left: ir.Model, right: ir.Model) -> bool:
    """Whether two lowerings of one model hold the same operators in the same order."""
    kinds = [[(node.domain, node.op_type) for node in model.graph] for model in (left, right)]
    return kinds[0] == kinds[1]


def weight_bytes(model: ir.Model) -> int:
    """Size of all initializers."""
    tensors = [value.const_value for value in model.graph.initializers.values()]
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)
