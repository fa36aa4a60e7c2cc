"""One run of `quantize` over one graph: calibrate, equalize, round, in that order."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import InvalidInput
from ...graph import Graph, Op, Value
from ...graph.ops import Conv, Gather
from ...progress import say
from ..base import Refusal
from ..patterns import Pattern, Patterns
from .activations import result_of
from .calibration.data import Samples
from .candidates import Needs, candidates, first_quantized, structural_refusal
from .equalized import Equalizer, EqualizeSite
from .grid import Grid
from .memory import Estimate, Needed, estimate
from .place import Form, Placed, decide
from .plan import Plan
from .ranges import RangeFinder, Ranges
from .rounds import BLIND, Rounds
from .sites import Left, Product

if TYPE_CHECKING:
    from ..quantize import Quantize


class Work:
    """See the module docstring."""

    def __init__(self, asked: "Quantize", graph: Graph) -> None:
        self.asked, self.graph = asked, graph
        self.scheme, self.stages = asked.resolved, asked.stages

    def sites(self) -> Iterator[Left | Product | EqualizeSite]:
        """Everything that is rewritten or left alone; each before the next is looked for."""
        first = first_quantized(self.graph)
        if first is not None:
            refusal = Refusal("the model is quantized already", first.name, first.kind)
            yield Left(first, refusal)
            return
        self.check_names()
        chosen: list[tuple[Op, Form]] = []
        for op, form in self.forms():
            if isinstance(form, Refusal):
                yield Left(op, form)
            else:
                chosen.append((op, form))
        if chosen:
            self._announce(chosen)
            if self.asked.equalizer:
                yield from self._equalized([op for op, _ in chosen])
            ranges = self.ranges(chosen)
            if self.asked.budget or self.asked.sensitivity:
                yield from Plan(self, chosen, ranges).sites()
            else:
                yield from self.products(chosen, ranges)

    def forms(self) -> Iterator[tuple[Op, Form | Refusal]]:
        """Every candidate with the form that it is to have, or why it stays as it is."""
        for op in candidates(self.graph, self.asked.op_types_to_quantize):
            refusal = structural_refusal(op, self.needs)
            yield op, refusal or decide(op, self.scheme, self.placed)

    # -- what is asked -----------------------------------------------------------------------------

    @cached_property
    def needs(self) -> Needs:
        patterns = tuple(Pattern(text) for text in self.asked.nodes_to_exclude)
        return Needs(self.asked.op_types_to_quantize, patterns)

    @cached_property
    def placed(self) -> Placed:
        return Placed(self.asked.placement)

    def check_names(self) -> None:
        """Look whether every pattern of the caller's matches something.

        Raises:
            InvalidInput: one does not.
        """
        Patterns(self.asked.nodes_to_exclude).check("nodes_to_exclude", self.graph.ops)
        self.placed.patterns.check("placement", self.graph.ops)

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
        wanted, folder = self.scheme.weight, self.folder
        return Equalizer(
            self.graph, self.asked.equalizer, wanted, self.stages, samples, folder, self.note
        ).sites(ops)

    def products(
        self, chosen: Sequence[tuple[Op, Form]], ranges: dict[Value, tuple[float, float]]
    ) -> Iterator[Product]:
        """Round the weights, each when those before it are rewritten."""
        return Rounds(self, dict(chosen), ranges).products()

    def stages_of(self, op: Op, form: Form, *, blind: bool = False) -> tuple[str, ...]:
        """What rounds a weight; `blind`: without what needs data."""
        if isinstance(op, Gather):
            return ("rtn",)
        own, stages = form.weight.grid == self.scheme.weight.grid, self.stages
        if isinstance(op, Conv):
            stages = tuple(one for one in stages if one.partition(":")[0] != "lorc")
        if blind and not self.scheme.fixed:
            stages = tuple(one for one in stages if one.partition(":")[0] in (*BLIND, "mse"))
        if own or not (self.scheme.fixed or self.scheme.weight.grid.is_float):
            return stages or ("rtn",)
        return ("rtn",) if form.weight.grid.bits >= 8 else ("mse",)

    def ranges(self, chosen: Sequence[tuple[Op, Form]]) -> Ranges:
        """Ranges of what static products read."""
        static = self._static(chosen)
        if not static:
            return {}
        return RangeFinder(
            self.graph,
            self.asked.calibrate_method,
            self.samples,
            self.asked.calibration_cache_path,
            None if self.folder is None else self.folder / "ranges",
            self.note,
        ).find(static)

    def _static(self, chosen: Sequence[tuple[Op, Form]]) -> dict[Value, Grid]:
        """What static products read, and convolutions make, with the format it will have."""
        found = {}
        for op, form in chosen:
            if form.activation is None or form.dynamic:
                continue
            found[op.require(0)] = form.activation
            made = None if form.activation.is_float else result_of(self.graph, op)
            if made is not None:
                found[made] = form.activation
        return found

    # -- what it takes -----------------------------------------------------------------------------

    @property
    def folder(self) -> Path | None:
        """Where state is kept; None for nowhere."""
        return Path(self.asked.work_dir) if self.asked.work_dir else None

    def note(self, text: str) -> None:
        """Tell the user, in the report."""
        if text not in self.asked.notes:
            self.asked.notes.append(text)

    def _announce(self, chosen: Sequence[tuple[Op, Form]]) -> None:
        """Say what memory it will take, before it starts.

        Raises:
            InvalidInput: the disk lacks room.
        """
        found = self.estimate(chosen)
        if found is None:
            return
        found.check()
        say(f"quantize: {found}")
        self.note(f"quantize {found}")

    def estimate(self, chosen: Sequence[tuple[Op, Form]]) -> Estimate | None:
        """What it will take; None where no data has to be looked at."""
        walked = tuple(Rounds(self, dict(chosen), {}).walked())
        equalized = tuple(op for op, _ in chosen) if self.asked.equalizer else ()
        wanted = Needed(tuple(self._static(chosen)), equalized, walked)
        if self.samples is None or wanted == Needed():
            return None
        return estimate(self.graph, wanted, self.samples, folder=self.folder)
