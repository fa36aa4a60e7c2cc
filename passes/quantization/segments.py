"""Cut a graph into stretches that hand little on to each other, to work through it bit by bit.

A cut is a place between two ops; the values alive there are computed before it and read after it.
Cuts are taken where those are few, so that what one stretch computed for all calibration samples
can be kept while the next is worked on: of a transformer, one residual stream.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ...graph import Graph, Op, Value
from ...graph.cost_extents import Extents

SLACK = 1.5
"""A cut may hold this many times the least."""


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


def segments(graph: Graph, anchors: Sequence[Op]) -> list[Segment]:
    """Stretches that hold every anchor, in order; each has at least one."""
    wanted, cuts = set(anchors), list(_cuts(graph))
    least = min((cut.bytes for cut in cuts if cut.alive), default=0)
    found: list[Segment] = []
    held: list[Op] = []
    start: tuple[Value, ...] = ()
    for cut in cuts:
        if cut.before in wanted:
            held.append(cut.before)
        if held and cut.alive and cut.bytes <= SLACK * least:
            found.append(Segment(tuple(held), start, cut.alive))
            held, start = [], cut.alive
    if held:
        found.append(Segment(tuple(held), start, ()))
    elif found:
        last = found.pop()
        found.append(Segment(last.anchors, last.inputs, ()))
    return found


@dataclass(frozen=True)
class _Cut:
    before: Op
    alive: tuple[Value, ...]
    bytes: int


def _cuts(graph: Graph) -> Iterator[_Cut]:
    """The cut after each op."""
    position = {op: index for index, op in enumerate(graph.ops)}
    extents = Extents()
    alive: dict[Value, int] = {}
    ends: dict[Op, list[Value]] = {}
    total = 0
    for op in graph.ops:
        for value in ends.pop(op, ()):
            total -= alive.pop(value)
        for value in op.outputs:
            last = max((position[reader] for reader in value.readers), default=-1)
            if last > position[op]:
                alive[value] = extents.nbytes(value)
                total += alive[value]
                reader = next(each for each in value.readers if position[each] == last)
                ends.setdefault(reader, []).append(value)
        yield _Cut(op, tuple(alive), total)
