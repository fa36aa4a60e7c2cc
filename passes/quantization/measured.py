"""Placement by measurement: of each shape of product the fastest form on the target."""

from collections.abc import Iterator, Sequence
from math import prod

from ...graph import Graph, Op
from ...graph.ops import Linear
from ..base import Refusal, Timings
from .candidates import Needs, candidates, matrix_shape, structural_refusal
from .place import Placed, Placement, decide, follows_activation, pairs
from .schemes import Scheme

GAIN = 0.97
"""A form that costs more accuracy has to take at most this share of the other's time."""

Shape = tuple[int, int, int]
"""Rows of x, I, O of a product; a symbolic extent counts as 1."""


def shapes_of(
    graph: Graph, scheme: Scheme, needs: Needs, placement: "str | Placement"
) -> dict[Op, Shape]:
    """The products that would be quantized by rule, with their shapes."""
    return {
        op: _shape(op)
        for op in _products(graph, scheme, needs, placement)
        if isinstance(op, Linear) and op.x.shape is not None
    }


def _products(
    graph: Graph, scheme: Scheme, needs: Needs, placement: "str | Placement"
) -> Iterator[Op]:
    asked, placed = {pattern for pattern, _ in pairs(placement)}, Placed(placement)
    for op in candidates(graph, needs.kinds):
        refusal = structural_refusal(op, needs) or decide(op, scheme, placed)
        if not isinstance(refusal, Refusal) and op.name not in asked:
            yield op


def _shape(op: Linear) -> Shape:
    rows = prod(dim for dim in (op.x.shape or ())[:-1] if isinstance(dim, int))
    outputs, inputs = matrix_shape(op)
    return rows, inputs, outputs


def fastest(op: Op, scheme: Scheme, times: Timings) -> str:
    """The form of a product by the times measured: "float", "static" or "dynamic"."""
    if not scheme.mixed:
        own = "dynamic" if scheme.dynamic else "static"
        return own if times[own] <= times["float"] else "float"
    static_pays = times["static"] <= GAIN * times["dynamic"]
    own = "static" if static_pays and not follows_activation(op.require(0)) else "dynamic"
    return own if times[own] <= times["float"] else "float"


def measured_placement(
    shapes: dict[Op, Shape], scheme: Scheme, times: Sequence[tuple[Shape, Timings]]
) -> Placement:
    """Pairs (op, form) for every product that was measured."""
    found = dict(times)
    return tuple((op.name, fastest(op, scheme, found[shape])) for op, shape in shapes.items())
