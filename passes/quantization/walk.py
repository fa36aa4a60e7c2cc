"""Work through a model stretch by stretch, with what the layers so far make of the samples.

For every group of products that read one value, the statistics are those of the half quantized
model up to there, beside the original's (LayerData.cross): what the first layers got wrong, later
ones can make good. Kept are the values at one cut for every sample, twice (float and quantized), in
memory or on disk, and the moments of one group: memory does not grow with the depth of the model.

Why: rounding layer by layer on the inputs that the quantized model has is what Frantar et al. 2022
(arXiv:2210.17323) and Nagel et al. 2020 (arXiv:2004.10568, asymmetric reconstruction) do.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ...graph import Graph, Op, Value
from ...graph.binding import Compute
from ...graph.ops import Conv, Linear
from .calibration.moments import Moments, PatchMoments
from .calibration.ticker import Ticker
from .candidates import matrix_shape
from .segments import Segment, segments, sizes_of
from .store import TAPS, Store
from .telling import tell

Arrays = list[np.ndarray]


@dataclass(frozen=True)
class Group:
    """Products that read one value, and the moments of what they are multiplied with.

    `moments` is None where all of them are known.
    """

    ops: tuple[Op, ...]
    moments: Moments | None


class Walk:
    """The walk; `groups` gives each group once all before it are rewritten.

    Args:
        graph: the graph that is being rewritten.
        ops: the products to be quantized, in topological order.
        samples: the calibration data, gone through several times a segment, one in memory at once.
        store: where activations are kept.
        known: products whose rounding is known already, so that nothing is gathered for them.

    Attributes:
        segments: the stretches.
    """

    def __init__(
        self,
        graph: Graph,
        ops: Sequence[Op],
        samples: Iterable[Arrays],
        store: Store,
        known: Collection[Op] = (),
    ) -> None:
        self.graph, self.samples, self.store, self.known = graph, samples, store, known
        self.segments = segments(graph, ops, sizes_of(graph, next(iter(samples))))

    def groups(
        self, start: int = 0, passed: Callable[[int], None] = lambda position: None
    ) -> Iterator[Group]:
        """Every group, with the moments of the graph as it is when the group's turn comes.

        Args:
            start: segments that are done: their products are known, and the store stands at the
                end of the last of them.
            passed: called after each segment with how many are done.
        """
        for number, segment in enumerate(self.segments):
            groups = _grouped(segment.anchors)
            if number < start:
                yield from (Group(tuple(ops), None) for ops in groups)
                continue
            label = f"stretch {number + 1} of {len(self.segments)}"
            yield from self._segment(segment, groups, label)
            self.store.turn(lambda done=number + 1: passed(done))  # type: ignore[misc]

    def _segment(
        self, segment: Segment, groups: Sequence[Sequence[Op]], label: str
    ) -> Iterator[Group]:
        inputs = [*self.graph.inputs, *segment.inputs]
        unknown = [ops for ops in groups if not self.known or not set(ops) <= set(self.known)]
        sources = [ops[0].require(0) for ops in unknown]
        if sources or segment.outputs:
            wanted = [*sources, *segment.outputs]
            self._pass(wanted, inputs, "float", len(sources), f"{label}, as it was")
        for ops in groups:
            moments = None
            if ops in unknown:
                what = f"{label}: moments at {ops[0].name}"
                moments = self._moments(ops, unknown.index(ops), inputs, what)
            yield Group(tuple(ops), moments)
            del moments
        if segment.outputs:
            self._pass(segment.outputs, inputs, "quantized", 0, f"{label}, quantized")

    def _pass(
        self, values: Sequence[Value], inputs: Sequence[Value], side: str, taps: int, label: str
    ) -> None:
        """Run all samples from this cut to the next, and keep what comes out."""
        with Ticker(tell, 0) as ticker:
            ticker.step(0, label)
            run = self.graph.probe(list(values), inputs)
            for index, results in self._run(run, side, ticker, label):
                self.store.save(side, index, results[taps:])
                if taps:
                    self.store.save(TAPS, index, results[:taps])

    def _moments(
        self, ops: Sequence[Op], place: int, inputs: Sequence[Value], label: str
    ) -> Moments:
        """Second and cross moments of the group's operand, over all samples."""
        found = moments_for(ops[0], cross=True)
        with Ticker(tell, 0) as ticker:
            ticker.step(0, label)
            run = self.graph.probe([ops[0].require(0)], inputs)
            for index, (seen,) in self._run(run, "quantized", ticker, label):
                (wanted,) = self.store.load(TAPS, index, only=place)
                found.update(seen, wanted)
        return found

    def _run(
        self, run: Compute, side: str, ticker: Ticker, label: str
    ) -> Iterator[tuple[int, Arrays]]:
        """The results on every sample, from what the store holds at this cut."""
        for index, sample in enumerate(self.samples):
            ticker.step(index, f"{label}, sample {index + 1}")
            yield index, run([*sample, *self.store.load(side, index)])


def moments_for(op: Op, *, cross: bool) -> Moments:
    """Empty moments for what a product multiplies its weight with."""
    width = matrix_shape(op)[1]
    if isinstance(op, Conv):
        return PatchMoments(op, width, cross=cross)
    return Moments(width, cross=cross)


def has_moments(op: Op) -> bool:
    """Whether one matrix of moments tells what the weight is multiplied with."""
    return isinstance(op, Linear) or (isinstance(op, Conv) and op.groups == 1)


def _grouped(ops: Sequence[Op]) -> list[list[Op]]:
    """Ops by what they read, in order; a convolution's patches are its own."""
    found: dict[tuple[Value, Op | None], list[Op]] = {}
    for op in ops:
        key = op.require(0), op if isinstance(op, Conv) else None
        found.setdefault(key, []).append(op)
    return list(found.values())
