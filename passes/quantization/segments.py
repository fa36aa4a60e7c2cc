"""Cut a graph into stretches that hand little on to each other, to work through it bit by bit.

A cut is a place between two ops; the values alive there are computed before it and read after it.
Cuts are taken where those are few, so that what one stretch computed for all calibration samples
can be kept while the next is worked on: of a transformer, one residual stream. No cut is between
an op that only moves elements and its one reader: quantizing that reader may turn what is moved
into codes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ...graph import Graph, Op, Value
from ...graph.cost_extents import Extents, Sizes
from .activations import MOVES

SLACK = 1.5
"""A cut may hold this many times the least one near it."""
NEAR = 4
"""How many products to either side are near: extents shrink from layer to layer of a CNN, and the
one token that a classifier reads says nothing of the blocks before."""


@dataclass(frozen=True)
class Segment:
    """One stretch of a graph.

    Attributes:
        anchors: the ops in it that the caller asked about, in order.
        inputs: values alive where it begins, graph inputs left out.
        outputs: values alive where it ends; () for the last one.
    """

    anchors: tuple[Op, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]


def sizes_of(graph: Graph, sample: Sequence[np.ndarray]) -> dict[str, int]:
    """Numbers for symbolic dimensions, from one sample of the graph's inputs."""
    return {
        dim: size
        for value, array in zip(graph.inputs, sample, strict=True)
        for dim, size in zip(value.shape or (), array.shape, strict=False)
        if isinstance(dim, str)
    }


def segments(graph: Graph, anchors: Sequence[Op], sizes: Sizes | None = None) -> list[Segment]:
    """Stretches that hold every anchor, in order; each has at least one.

    `sizes` are numbers for symbolic dimensions, 1 where there is none.
    """
    wanted = set(anchors)
    gaps: list[tuple[Op, list[_Cut]]] = []
    for cut in _cuts(graph, sizes):
        if cut.before in wanted:
            gaps.append((cut.before, []))
        if gaps and cut.fits:
            gaps[-1][1].append(cut)
    smallest = [min(cuts, key=lambda cut: cut.bytes, default=None) for _, cuts in gaps[:-1]]
    found: list[Segment] = []
    held: list[Op] = []
    start: tuple[Value, ...] = ()
    for number, (anchor, _) in enumerate(gaps):
        held.append(anchor)
        taken = _taken(smallest, number)
        if taken is not None or number == len(gaps) - 1:
            end = () if taken is None else taken.alive
            found.append(Segment(tuple(held), start, end))
            held, start = [], end
    return found


@dataclass(frozen=True)
class _Cut:
    before: Op
    alive: tuple[Value, ...]
    bytes: int
    fits: bool


def _taken(smallest: "Sequence[_Cut | None]", number: int) -> _Cut | None:
    """The cut after a product, unless it is large beside the least ones before and behind it."""
    own = smallest[number] if number < len(smallest) else None
    if own is None:
        return None
    sides = smallest[max(0, number - NEAR) : number + 1], smallest[number : number + NEAR + 1]
    longest = max(map(len, sides))
    least = [
        min(cut.bytes for cut in side if cut is not None)
        for side in sides
        if len(side) == longest  # the ends of the model have few on one side
    ]
    return own if own.bytes <= SLACK * max(least) else None


def _cuts(graph: Graph, sizes: Sizes | None) -> Iterator[_Cut]:
    """The cut after each op."""
    position = {op: index for index, op in enumerate(graph.ops)}
    extents = Extents(sizes)
    alive: dict[Value, int] = {}
    ends: dict[Op, list[Value]] = {}
    total = 0
    for op in graph.ops:
        extents.learn(op)
        for value in ends.pop(op, ()):
            total -= alive.pop(value)
        for value in op.outputs:
            last = max((position[reader] for reader in value.readers), default=-1)
            if last > position[op]:
                alive[value] = extents.nbytes(value)
                total += alive[value]
                reader = next(each for each in value.readers if position[each] == last)
                ends.setdefault(reader, []).append(value)
        fits = bool(alive) and all(_can_be_given(graph, value) for value in alive)
        yield _Cut(op, tuple(alive), total, fits)


def _can_be_given(graph: Graph, value: Value) -> bool:
    """Whether a stretch can begin at a value: it is a tensor, and will not become codes."""
    if value.dtype is None and graph.binding.frontend == "onnx":
        return False
    return not isinstance(value.producer, MOVES) or graph.only_reader(value) is None
