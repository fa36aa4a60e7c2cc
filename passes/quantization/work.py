"""One run of `quantize` over one graph: calibrate, equalize, round, in that order."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING
from uuid import uuid4

from ...errors import InvalidInput
from ...graph import Graph, Op, Value
from ...graph.ops import Gather, Linear
from ...progress import say
from ..base import Refusal
from ..driver import Pattern
from ..edits import Edit
from .calibration.collect import collect
from .calibration.data import Samples
from .calibration.observers import Observer, observer
from .candidates import Needs, candidates, is_quantized, matrix_of, structural_refusal
from .equalize.apply import equalize
from .equalize.awq import awq
from .equalize.smooth import smooth
from .layer import LayerData
from .place import Form, decide
from .plan import Plan
from .rounding import round_weight
from .sites import Left, Product, quality_of
from .store import Store
from .walk import Walk, has_moments, moments_for

if TYPE_CHECKING:
    from ..quantize import Quantize

BLIND = ("rtn", "binary", "ternary", "statsq", "pow2", "pow2-group", "shiftquant")
"""Stages that look at the weight alone."""
MOMENTS_BYTES = 1 << 30
"""Moments that are gathered in one pass over the data."""


@dataclass(frozen=True, eq=False)
class EqualizeSite:
    """A value whose channels are scaled so that its readers' weights round better."""

    anchor: Op
    edits: tuple[Edit, ...]
    refusal: Refusal | None = None

    @property
    def touched(self) -> tuple[Op, ...]:
        return (self.anchor, *(edit.op for edit in self.edits))

    def apply(self, graph: Graph) -> None:
        """Write it."""
        for edit in self.edits:
            edit.apply(graph)


class Work:
    """See the module docstring."""

    def __init__(self, asked: "Quantize", graph: Graph) -> None:
        self.asked, self.graph = asked, graph
        self.scheme, self.stages = asked.resolved, asked.stages

    def sites(self) -> Iterator[Left | Product | EqualizeSite]:
        """Everything that is rewritten or left alone; each before the next is looked for."""
        if is_quantized(self.graph):
            yield self._quantized_already()
            return
        self._check_names()
        chosen: list[tuple[Op, Form]] = []
        for op in candidates(self.graph, self.asked.op_types_to_quantize):
            form = structural_refusal(op, self.needs) or decide(
                op, self.scheme, self.asked.placement
            )
            if isinstance(form, Refusal):
                yield Left(op, form)
            else:
                chosen.append((op, form))
        if chosen:
            if self.asked.equalizer:
                yield from self._equalized([op for op, _ in chosen])
            ranges = self.ranges(chosen)
            if self.asked.budget or self.asked.sensitivity:
                yield from Plan(self, chosen, ranges).sites()
            else:
                yield from self.products(chosen, ranges)

    # -- what is asked -----------------------------------------------------------------------------

    @cached_property
    def needs(self) -> Needs:
        patterns = tuple(Pattern(text) for text in self.asked.nodes_to_exclude)
        return Needs(self.asked.op_types_to_quantize, patterns)

    def _check_names(self) -> None:
        ops = list(self.graph.ops)
        for pattern in self.needs.excluded:
            if not any(pattern.matches(op) for op in ops):
                raise InvalidInput(
                    f"nodes_to_exclude: {pattern.text!r} matches no op name, op kind or module "
                    "path; `passel inspect` lists them"
                )

    def _quantized_already(self) -> Left:
        first = next(op for op in self.graph.ops if op.kind in _QUANTIZED or _is_foreign(op))
        return Left(first, Refusal("the model is quantized already", first.name, first.kind))

    @cached_property
    def samples(self) -> Samples | None:
        """The calibration data, if there is any."""
        if self.asked.calibration is None:
            return None
        return Samples.of(self.asked.calibration, self.graph.inputs)

    def needed(self, why: str) -> Samples:
        """The calibration data.

        Raises:
            InvalidInput: there is none.
        """
        if self.samples is None:
            raise InvalidInput(
                f"calibration: expected data, for {why} needs it; pass calibration= (an iterable "
                "of inputs, a DataLoader, an .npz file or a folder of them)"
            )
        return self.samples

    # -- the three steps ---------------------------------------------------------------------------

    def _equalized(self, ops: Sequence[Op]) -> Iterator[EqualizeSite]:
        """Scale the channels of every value that Linears read."""
        samples = self.needed(f"weights={self.asked.equalizer!r}")
        groups = _linear_groups(ops)
        find = awq if self.asked.equalizer == "awq" else smooth
        for chunk in _chunks(groups):
            wanted = {readers[0].x: [moments_for(readers[0], cross=False)] for readers in chunk}
            collect(self.graph, wanted, samples, progress=_progress)
            for readers in chunk:
                value = readers[0].x
                layers = [wanted[value][0].layer(matrix_of(op), op.name) for op in readers]
                found = find(layers, self.scheme.weight, self.stages)
                plan = equalize(self.graph, value, found.scale)
                if isinstance(plan, Refusal):
                    yield EqualizeSite(readers[0], (), plan)
                elif plan:
                    yield EqualizeSite(readers[0], tuple(plan))

    def products(
        self, chosen: Sequence[tuple[Op, Form]], ranges: dict[Value, tuple[float, float]]
    ) -> Iterator[Product]:
        """Round the weights, each when those before it are rewritten."""
        forms = dict(chosen)
        for op, layer in self._layers([op for op, _ in chosen]):
            form = forms[op]
            rounded = round_weight(layer, form.weight, self.stages_of(op, form))
            low, high = ranges.get(op.require(0), (0.0, 0.0))
            yield Product(op, form, rounded, low, high, quality_of(op, form, rounded, layer))

    def stages_of(self, op: Op, form: Form, *, blind: bool = False) -> tuple[str, ...]:
        """What rounds a weight; `blind`: without what needs data."""
        if isinstance(op, Gather):
            return ("rtn",)
        own, stages = form.weight == self.scheme.weight, self.stages
        if blind and not self.scheme.fixed:
            stages = tuple(one for one in stages if one.partition(":")[0] in (*BLIND, "mse"))
        if own or not (self.scheme.fixed or self.scheme.weight.grid.is_float):
            return stages or ("rtn",)
        return ("rtn",) if form.weight.grid.bits >= 8 else ("mse",)

    def ranges(self, chosen: Sequence[tuple[Op, Form]]) -> dict[Value, tuple[float, float]]:
        """Ranges of what static products read."""
        static = {op.require(0): f for op, f in chosen if f.activation and not f.dynamic}
        if not static:
            return {}
        samples = self.needed(f"scheme {self.asked.scheme!r}")
        wanted: dict[Value, list[Observer]] = {
            value: [observer(self.asked.calibrate_method)] for value in static
        }
        state = self.asked.work_dir and Path(self.asked.work_dir) / "ranges"
        collect(self.graph, wanted, samples, progress=_progress, state=state or None)
        found = {}
        for value, form in static.items():
            assert form.activation is not None
            low, high = wanted[value][0].range(form.activation)
            found[value] = (float(low), float(high))
        return found

    def _layers(self, ops: Sequence[Op]) -> Iterator[tuple[Op, LayerData]]:
        """Every op with what its rounding is told, once those before it are rewritten."""
        blind = all(stage.partition(":")[0] in BLIND for stage in self.stages)
        walked = [] if blind or self.samples is None else [op for op in ops if has_moments(op)]
        rest = [op for op in ops if op not in set(walked)]
        for op in rest:
            yield op, LayerData(matrix_of(op), name=op.name)
        if walked:
            assert self.samples is not None
            folder = Path(self.asked.work_dir or gettempdir()) / f"passel-{uuid4().hex}"
            store = Store(folder)
            try:
                for group in Walk(self.graph, walked, list(self.samples), store).groups():
                    for op in group.ops:
                        yield op, group.moments.layer(matrix_of(op), op.name)
            finally:
                store.close()


_QUANTIZED = ("Quantize", "Dequantize", "DynamicQuantize")


def _is_foreign(op: Op) -> bool:
    from .candidates import FOREIGN

    return op.kind in FOREIGN


def _linear_groups(ops: Sequence[Op]) -> list[list[Linear]]:
    found: dict[Value, list[Linear]] = {}
    for op in ops:
        if isinstance(op, Linear):
            found.setdefault(op.x, []).append(op)
    return list(found.values())


def _chunks(groups: Sequence[list[Linear]]) -> Iterator[list[list[Linear]]]:
    """Groups whose moments fit in memory together."""
    chunk: list[list[Linear]] = []
    held = 0
    for readers in groups:
        size = 8 * matrix_of(readers[0]).shape[1] ** 2
        if chunk and held + size > MOMENTS_BYTES:
            yield chunk
            chunk, held = [], 0
        chunk.append(readers)
        held += size
    if chunk:
        yield chunk


def _progress(done: int, total: int, label: str) -> None:
    say(f"quantize: {label}")
