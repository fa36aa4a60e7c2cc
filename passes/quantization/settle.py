"""Fill in what a `quantize` leaves to its caller: data, and a placement by measurement."""

from dataclasses import replace
from typing import TYPE_CHECKING

from ...graph import Graph
from ..base import Context
from ..driver import Pattern
from .calibration.data import Samples
from .calibration.select import Selection
from .candidates import Needs, is_quantized
from .measured import measured_placement, shapes_of
from .place import Placement, pairs
from .schemes import U8

if TYPE_CHECKING:
    from ..quantize import Quantize

EXAMPLES_ONLY = (
    "quantize: calibrated on the example inputs only; pass calibration= with data like the model's"
)


def settle(asked: "Quantize", graph: Graph, context: Context) -> "Quantize":
    """The pass with the caller's examples where data is needed, and with measured forms."""
    if is_quantized(graph):
        return asked
    one = replace(asked, calibration=_data(asked, graph, context))
    measures = context.time_products is not None and one.resolved.activation == U8
    if not measures or one.placement == "all" or one.resolved.weight.block > 0:
        return one
    return replace(one, placement=_measured(one, graph, context))


def _data(asked: "Quantize", graph: Graph, context: Context) -> "Samples | None":
    """The calibration data, opened once whatever it is: some sources can be read only once."""
    source = asked.calibration
    if source is None and asked.needs_data and context.examples:
        source = context.examples
        context.notes.append(EXAMPLES_ONLY)
    if source is None:
        return None
    held = context.data.get(id(source))
    if isinstance(held, Samples):
        return held
    wanted = Selection.of(asked.calibration_samples or None)
    found = wanted.applied(graph, Samples.of(source, graph.inputs))
    context.data[id(source)] = found
    context.notes += found.notes
    return found


def _measured(asked: "Quantize", graph: Graph, context: Context) -> Placement:
    """The fastest form of each product, after the caller's own pairs."""
    assert context.time_products is not None
    scheme, given = asked.resolved, pairs(asked.placement)
    needs = Needs(asked.op_types_to_quantize, tuple(map(Pattern, asked.nodes_to_exclude)))
    shapes = shapes_of(graph, scheme, needs, given or "auto")
    distinct = list(dict.fromkeys(shapes.values()))
    times = zip(distinct, context.time_products(distinct), strict=True)
    return (*given, *measured_placement(shapes, scheme, list(times)))
