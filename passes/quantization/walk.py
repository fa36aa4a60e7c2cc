"""Work through a model stretch by stretch, with what the layers so far make of the samples.

For every group of products that read one value, the statistics are those of the half quantized
model up to there, beside the original's (LayerData.cross): what the first layers got wrong, later
ones can make good. Kept are the values at one cut for every sample, twice (float and quantized), in
memory or on disk, and the moments of one group: memory does not grow with the depth of the model.

Why: rounding layer by layer on the inputs that the quantized model has is what Frantar et al. 2022
(arXiv:2210.17323) and Nagel et al. 2020 (arXiv:2004.10568, asymmetric reconstruction) do.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ...graph import Graph, Op, Value
from ...graph.ops import Conv, Linear
from ...progress import say
from .calibration.moments import Moments, PatchMoments
from .candidates import matrix_of
from .segments import Segment, segments
from .store import Store

Arrays = list[np.ndarray]


@dataclass(frozen=True)
class Group:
    """Products that read one value, and the moments of what they are multiplied with."""

    ops: tuple[Op, ...]
    moments: Moments


class Walk:
    """The walk; `groups` gives each group once all before it are rewritten.

    Args:
        graph: the graph that is being rewritten.
        ops: the products to be quantized, in topological order.
        samples: the calibration data; gone through once per segment.
        store: where activations are kept.
    """

    def __init__(
        self, graph: Graph, ops: Sequence[Op], samples: Sequence[Arrays], store: Store
    ) -> None:
        self.graph, self.samples, self.store = graph, samples, store
        self.segments = segments(graph, ops)

    def groups(self) -> Iterator[Group]:
        """Every group, with the moments of the graph as it is when the group's turn comes."""
        for number, segment in enumerate(self.segments):
            say(f"quantize: stretch {number + 1} of {len(self.segments)}")
            yield from self._segment(segment)

    def _segment(self, segment: Segment) -> Iterator[Group]:
        groups = _grouped(segment.anchors)
        inputs = [*self.graph.inputs, *segment.inputs]
        sources = [ops[0].require(0) for ops in groups]
        plain = self.graph.probe([*sources, *segment.outputs], inputs)
        self._pass(plain, "float", len(sources))
        for index, ops in enumerate(groups):
            yield Group(tuple(ops), self._moments(ops, index, inputs))
        if segment.outputs:
            self._pass(self.graph.probe(list(segment.outputs), inputs), "quantized", 0)
        self.store.turn()

    def _pass(self, run: Callable[[Arrays], Arrays], side: str, taps: int) -> None:
        """Run all samples from this cut to the next, and keep what comes out."""
        for index, sample in enumerate(self.samples):
            results = run([*sample, *self.store.load(side, index)])
            self.store.save(side, index, results[taps:])
            if taps:
                self.store.save("taps", index, results[:taps])

    def _moments(self, ops: Sequence[Op], index: int, inputs: list[Value]) -> Moments:
        """Second and cross moments of the group's operand, over all samples."""
        found = moments_for(ops[0], cross=True)
        run = self.graph.probe([ops[0].require(0)], inputs)
        for number, sample in enumerate(self.samples):
            (seen,) = run([*sample, *self.store.load("quantized", number)])
            (wanted,) = self.store.load("taps", number, only=index)
            found.update(seen, wanted)
        return found


def moments_for(op: Op, *, cross: bool) -> Moments:
    """Empty moments for what a product multiplies its weight with."""
    width = matrix_of(op).shape[1]
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
