"""A probe of an ONNX graph: the part between two sets of values as a model of its own."""

from collections.abc import Callable, Sequence

import onnx_ir as ir

from .binding import Compute
from .graph import Graph
from .onnx_lower import Writer, describe, is_overridable, model_like
from .onnx_reference import compiled
from .probe import Part, assembled, part_between
from .value import Value

Engine = Callable[[ir.Model], Compute]
"""Loads a model, to be run on arrays in the order of its inputs; it may take the model apart."""

reference: Engine = compiled


def probe(
    graph: Graph,
    model: ir.Model,
    engine: Engine,
    outputs: Sequence[Value],
    inputs: Sequence[Value],
) -> Compute:
    """The function from `inputs` to `outputs` of a graph lifted from `model`, run by `engine`."""
    part = part_between(graph, inputs, outputs)
    if not part.outputs:
        return assembled(part, outputs, lambda arrays: [])
    return assembled(part, outputs, engine(part_model(graph, model, part)))


def part_model(graph: Graph, model: ir.Model, part: Part) -> ir.Model:
    """A model that computes `part.outputs` from `part.read`, its tensors shared with `model`."""
    writer = Writer(graph, model, [])
    writer.reserve_inner_names()
    inputs = [_input(writer, value) for value in part.read]
    for op in part.ops:
        if is_overridable(op):
            name = writer.names.fresh(op.output.name)
            writer.values[op.output] = writer.initializer(op.source.const_value, name)
        else:
            writer.write(op)
    made = ir.Graph(
        inputs,
        [writer.read(value) for value in part.outputs],
        nodes=writer.nodes,
        initializers=[value for value in writer.initializers if value.uses()],
        opset_imports=dict(model.graph.opset_imports),
        name="probe",
    )
    return model_like(model, made)


def _input(writer: Writer, value: Value) -> ir.Value:
    if value.dtype is None:
        raise ValueError(f"expected a cut at tensors of known type, got {value.name!r}")
    made = ir.Value(name=writer.names.fresh(value.name))
    describe(value, made)
    writer.values[value] = made
    return made
