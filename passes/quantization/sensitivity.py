"""How much one quantized product changes the model's outputs, all others being float.

Why: for output j and samples s, n_j = Σ_s ‖y_js − y_float,js‖²/Σ_s ‖y_float,js‖² is the noise that
the product adds, and the worst output counts: n = max_j n_j. An edit is tried on the graph itself
and undone (graph/snapshot.py). A trial runs from the last cut before the product, where the float
model's activations are kept, so that what precedes it is computed once.
References: Wu et al. 2020, arXiv:2004.09602, section 4 (one layer quantized at a time).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice

import numpy as np

from ...errors import InvalidInput
from ...graph import Graph, Op, Value
from ...graph.cost import payloads
from ...graph.snapshot import Snapshot
from ...progress import say
from .calibration.data import Samples
from .segments import Segment, segments
from .sites import Product

LIMIT = 8
"""Samples that are looked at: noise varies little from one to the next."""
Arrays = list[np.ndarray]
Trials = Mapping[Op, Sequence[Product]]
"""Products to try, each alone."""


@contextmanager
def trial(graph: Graph, *products: Product) -> Iterator[None]:
    """Apply products, and undo it in the end."""
    before = Snapshot(graph)
    try:
        for product in products:
            product.apply(graph)
        yield
    finally:
        before.restore()


def measure(
    graph: Graph, trials: Trials, samples: Samples, *, limit: int = LIMIT
) -> dict[Op, list[float]]:
    """The noise of each product tried alone, in the order given. The graph stays as it is.

    Raises:
        InvalidInput: the graph has no float output.
    """
    sensitivity = Sensitivity(graph, samples, limit=limit)
    return dict(sensitivity.each(trials))


class Sensitivity:
    """A float graph's outputs on some samples, to compare trials with.

    Attributes:
        samples: the first `limit` of those given.
    """

    def __init__(self, graph: Graph, samples: Samples, *, limit: int = LIMIT) -> None:
        self.graph = graph
        self.samples = list(islice(samples, limit))
        self._float = [index for index, value in enumerate(graph.outputs) if value.is_float]
        if not self._float:
            raise InvalidInput(
                "expected a model with a float output to measure the error of, got outputs "
                + ", ".join(f"{value.name!r} of {value.dtype}" for value in graph.outputs)
            )
        run = graph.probe(graph.outputs)
        self._expected = [self._floats(run(sample)) for sample in self.samples]

    def noise(self, inputs: Sequence[Value] = (), kept: Sequence[Arrays] = ()) -> float:
        """Noise of the graph as it is now, run from its inputs and `inputs`, which hold `kept`."""
        run = self.graph.probe(self.graph.outputs, [*self.graph.inputs, *inputs])
        power = np.zeros((2, len(self._float)))
        for index, sample in enumerate(self.samples):
            found = self._floats(run([*sample, *(kept[index] if inputs else ())]))
            for place, pair in enumerate(zip(self._expected[index], found, strict=True)):
                power[:, place] += _powers(*pair)
        return max(_ratio(float(signal), float(lost)) for signal, lost in power.T)

    def each(self, trials: Trials) -> Iterator[tuple[Op, list[float]]]:
        """The noise of each product tried alone."""
        count, done = sum(map(len, trials.values())), 0
        kept: list[Arrays] = [[] for _ in self.samples]
        for segment in segments(self.graph, list(trials)):
            for op in segment.anchors:
                found = []
                for product in trials[op]:
                    done += 1
                    say(f"quantize: sensitivity {done} of {count}: {op.name}")
                    found.append(self._alone(product, segment.inputs, kept))
                yield op, found
            kept = self._advanced(segment, kept)

    def _alone(self, product: Product, cut: Sequence[Value], kept: Sequence[Arrays]) -> float:
        with trial(self.graph, product):
            return self.noise(cut, kept)

    def _advanced(self, segment: Segment, kept: Sequence[Arrays]) -> list[Arrays]:
        """What the float model has at the segment's end."""
        if not segment.outputs:
            return []
        run = self.graph.probe(list(segment.outputs), [*self.graph.inputs, *segment.inputs])
        return [run([*sample, *arrays]) for sample, arrays in zip(self.samples, kept, strict=True)]

    def _floats(self, outputs: Arrays) -> Arrays:
        return [outputs[index] for index in self._float]


def held(graph: Graph) -> int:
    """Bytes of all constants."""
    return sum(payload.nbytes for payload in payloads(graph.constants()))


def _powers(expected: np.ndarray, found: np.ndarray) -> tuple[float, float]:
    """(‖y‖², ‖y − ŷ‖²) where y is finite: masks hold infinities."""
    y, seen = expected.astype(np.float64), found.astype(np.float64)
    finite = np.isfinite(y)
    return float((y[finite] ** 2).sum()), float(((seen - y)[finite] ** 2).sum())


def _ratio(signal: float, lost: float) -> float:
    if not np.isfinite(lost):
        return float("inf")
    return 0.0 if lost == 0 else lost / signal if signal else float("inf")
