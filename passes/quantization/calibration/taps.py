"""The arrays that a graph's values have on a sample, some values at a time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ....graph import Graph, Value
from .checks import Arrays

MEMORY = 1 << 30
"""Bytes that one sample's wanted values may take."""
UNKNOWN = 1 << 24
"""Bytes that a value of unknown rank is taken for."""


@dataclass(frozen=True)
class Twin:
    """The float model, for moments that keep `cross`.

    Attributes:
        graph: it takes the same samples.
        values: for a wanted value, the one in its place there.
    """

    graph: Graph
    values: Mapping[Value, Value]


class Tapped:
    """Gives the arrays of some values, and of their twins, for a sample."""

    def __init__(self, graph: Graph, values: Sequence[Value], twin: Twin | None) -> None:
        self._values = values
        self._run = graph.probe(values)
        self._paired = [v for v in values if twin is not None and v in twin.values]
        self._beside = None
        if twin is not None and self._paired:
            self._beside = twin.graph.probe([twin.values[value] for value in self._paired])

    def __call__(self, sample: Arrays) -> list[tuple[Value, np.ndarray, np.ndarray | None]]:
        """(value, its array, the float model's in its place) of each value."""
        arrays = self._run(list(sample))
        beside = self._beside(list(sample)) if self._beside is not None else []
        twins = dict(zip(self._paired, beside, strict=True))
        pairs = zip(self._values, arrays, strict=True)
        return [(value, array, twins.get(value)) for value, array in pairs]


def chunked(
    graph: Graph, values: Sequence[Value], sample: Arrays, memory: int = MEMORY
) -> list[list[Value]]:
    """The values in chunks of at most `memory` bytes each, as this sample sizes them."""
    extents = {
        extent: size
        for value, array in zip(graph.inputs, sample, strict=True)
        for extent, size in zip(value.shape or (), array.shape, strict=False)
        if isinstance(extent, str)
    }
    chunks: list[list[Value]] = [[]]
    room = memory
    for value in values:
        size = _size(value, extents)
        if chunks[-1] and size > room:
            chunks.append([])
            room = memory
        chunks[-1].append(value)
        room -= size
    return chunks


def _size(value: Value, extents: Mapping[str, int]) -> int:
    if value.shape is None:
        return UNKNOWN
    largest = max(extents.values(), default=1)
    sizes = [e if isinstance(e, int) else extents.get(e, largest) for e in value.shape]
    return int(np.prod(sizes, dtype=np.int64)) * (value.dtype.itemsize if value.dtype else 4)
