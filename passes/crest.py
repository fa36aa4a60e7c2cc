"""How far a few large entries stand out of vectors: the squared crest factor d·max v²/‖v‖².

It is 1 for entries of one size, about 2·ln d for normal numbers, d for one entry alone; and the
mean squared error of rounding to a range of ±max v, relative to ‖v‖², is proportional to it.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from ..graph import Op, Value
from .consumers import Consumer
from .streams import Stream
from .weights import row_axis
from .zero_mean import written_constants

SAMPLE = 256
"""Vectors that are looked at, evenly spaced, of each weight."""
Sided = tuple[np.ndarray, int, np.ndarray]
"""A constant beside a stream, the axis of its features, and the gain [d] or [1] on them."""


def crest(vectors: np.ndarray) -> float:
    """Σ d·max v² / Σ ‖v‖² over the rows of float64 [n, d]; 0 if all are zero."""
    squares = vectors * vectors
    total = float(squares.sum())
    return float(squares.max(axis=1).sum()) * vectors.shape[1] / total if total else 0.0


def mean_crest(weights: Sequence[np.ndarray]) -> float:
    """The mean over those that are not zero, whatever their sizes; 0 if there are none."""
    found = [value for value in map(crest, weights) if value]
    return sum(found) / len(found) if found else 0.0


def sample(array: np.ndarray, axis: int) -> np.ndarray:
    """At most SAMPLE of the vectors along `axis`, float64 [n, d]."""
    moved = np.moveaxis(array, axis, -1)
    if moved.ndim == 1:
        return moved[None].astype(np.float64)
    count = int(np.prod(moved.shape[:-1]))
    chosen = np.arange(0, count, max(1, -(-count // SAMPLE)))
    rows: np.ndarray = moved[np.unravel_index(chosen, moved.shape[:-1])].astype(np.float64)
    return rows


def written(stream: Stream) -> Iterator[Sided]:
    """What the stream's writers are made from, each constant once."""
    found = {
        pair: None for w in stream.writers if not w.is_computed for pair in written_constants(w)
    }
    for value, axis in found:
        if axis >= 0:
            yield value.array(), axis, np.ones(1)


def read(consumers: Sequence[Consumer]) -> Iterator[Sided]:
    """The weights of what reads the stream's norms, each once with each gain."""
    found: dict[tuple[Value, int, Value | None, Op | None], Consumer] = {}
    for reader in consumers:
        for linear in reader.linears:
            gain = reader.norm.scale, reader.scaling
            found[(linear.weight, 1 - row_axis(linear), *gain)] = reader
    for (weight, axis, *_), reader in found.items():
        yield weight.array(), axis, reader.gain


def crests(
    stream: Stream,
    consumers: Sequence[Consumer],
    function: Callable[[np.ndarray], np.ndarray],
) -> float:
    """Mean squared crest factors of what writes and of what reads, mapped by `function`."""
    return sum(
        mean_crest([function(sample(array, axis) * gain) for array, axis, gain in side])
        for side in (written(stream), read(consumers))
    )
