"""The view over an `onnx_ir.Model`: lift it to a `Graph`, and bind that graph to ONNX.

Local functions are inlined and missing shapes inferred on a copy that shares every tensor, so the
model given stays as it is and no weight is read.
"""

from collections.abc import Sequence
from itertools import count

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from ..errors import InvalidModel
from . import onnx_rules, onnx_rules_quant, onnx_rules_shape, onnx_rules_tokens
from .binding import Compute
from .graph import Graph
from .onnx_copy import captures, values_of
from .onnx_evaluate import evaluate
from .onnx_lower import Declared, lower
from .onnx_node import RULES, NodeView
from .onnx_parts import complete_shape, constant_tensor, scope
from .onnx_probe import Engine, probe, reference
from .onnx_reference import run
from .onnx_tensor import constant_of
from .ops import Opaque
from .value import Op, Shape, Value

# Importing them fills the table.
_ = onnx_rules, onnx_rules_quant, onnx_rules_shape, onnx_rules_tokens

RANDOM = {
    "Bernoulli",
    "Dropout",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
}


class OnnxBinding:
    """What a graph over an ONNX model needs from ONNX.

    Attributes:
        model: the prepared copy (functions inlined, shapes inferred) that the ops' sources live in.
        outputs: what the model given says of its outputs, which inference may say better.
        engine: what probes run on; onnx.reference unless the lift is given another.
        opset: version of the standard operator set that the lowered model will import.
    """

    frontend = "onnx"

    def __init__(
        self, model: ir.Model, outputs: list[Declared], engine: Engine = reference
    ) -> None:
        self.model = model
        self.outputs = outputs
        self.engine = engine

    @property
    def opset(self) -> int:
        return opset_of(self.model)

    def evaluate(
        self, op: Op, arrays: "Sequence[np.ndarray | None]", *, wide: bool = True
    ) -> list[np.ndarray]:
        """Run one op on constant operands, if `wide` in float64 where the op allows."""
        return evaluate(op, arrays, self.model.opset_imports, wide)

    def lower(self, graph: Graph) -> ir.Model:
        """Write the graph back as a new model; the original stays as it is."""
        return lower(graph, self.model, self.outputs)

    def run(self, graph: Graph, inputs: "Sequence[np.ndarray]") -> list[np.ndarray]:
        """Execute the graph with onnx.reference, in the graph's own element types."""
        return run(self.lower(graph), inputs)

    def probe(self, graph: Graph, outputs: "Sequence[Value]", inputs: "Sequence[Value]") -> Compute:
        """The function from the arrays of `inputs` to those of `outputs`, run by the engine."""
        return probe(graph, self.model, self.engine, outputs, inputs)


def opset_of(model: ir.Model) -> int:
    """Version of the standard operator set that a model imports."""
    return model.opset_imports.get("", 1)


def lift(model: ir.Model, engine: Engine = reference) -> Graph:
    """The graph of a model, one op per node; no tensor is read but small shape operands.

    `engine` runs the graph's probes.
    """
    outputs = [Declared(value.shape, value.type) for value in model.graph.outputs]
    return _Lift(OnnxBinding(_prepared(model), outputs, engine)).graph()


def _prepared(model: ir.Model) -> ir.Model:
    """A copy with functions inlined and every shape that ONNX can infer."""
    try:
        copy = model.clone()
        if copy.functions:
            common.InlinePass()(copy)
        copy.opset_imports.setdefault("", 18)  # ops made by passes need the standard operators
    except Exception as error:
        raise InvalidModel(f"cannot read the graph of this ONNX model: {error}") from error
    if any(_untyped(value) for node in copy.graph for value in node.outputs):
        common.ShapeInferencePass(check_type=False, strict_mode=False)(copy)
    return copy


def _untyped(value: ir.Value) -> bool:
    if value.type is None or value.shape is None:
        return bool(value.name)
    return any(isinstance(dim, ir.SymbolicDim) and dim.value is None for dim in value.shape)


class _Lift:
    """One walk over the nodes of a prepared model."""

    def __init__(self, binding: OnnxBinding) -> None:
        self.model = binding.model
        self.result = Graph(binding, binding.model.graph.name or "graph")
        self.values: dict[ir.Value, Value] = {}
        self.unknown = (f"?{k}" for k in count())

    def graph(self) -> Graph:
        self._reserve_names()
        self._boundary()
        for node in self.model.graph:
            self._node(node)
        for output in self.model.graph.outputs:
            self.result.outputs.append(self._value(output))
            self.result.output_names.append(output.name or "")
        return self.result

    def _reserve_names(self) -> None:
        for graph in self.model.graphs():
            for value in values_of(graph):
                if value.name:
                    self.result.reserve(value.name)

    def _boundary(self) -> None:
        """Graph inputs; initializers that a caller may override are results of an opaque op."""
        source, overridable = self.model.graph, self.model.ir_version >= 4
        for value in source.inputs:
            if value.name not in source.initializers:
                self.result.inputs.append(self._value(value))
            elif overridable:
                target = "overridable initializer"
                op = Opaque(target=target, impure=True, source=value, name=value.name or "")
                op.outputs = [self._value(value, constant=False)]
                self.result.append(op)

    def _value(self, source: ir.Value, *, constant: bool = True) -> Value:
        found = self.values.get(source)
        if found is None:
            tensor = source.const_value if constant and source.producer() is None else None
            name = source.name or self.result.fresh_name("unnamed")
            shape, dtype = self._shape(source), _dtype(source)
            found = Value(name, shape, dtype, origin=source)
            if tensor is not None:
                _attach(found, tensor)
            self.values[source] = found
        return found

    def _shape(self, source: ir.Value) -> Shape | None:
        if source.shape is None:
            return None
        return tuple(
            dim if isinstance(dim, int) else dim.value or next(self.unknown) for dim in source.shape
        )

    def _node(self, node: ir.Node) -> None:
        tensor = constant_tensor(node)
        if tensor is not None:
            _attach(self._value(node.outputs[0]), tensor)
            return
        inputs = [None if v is None else self._value(v) for v in node.inputs]
        outputs = [self._value(value) for value in node.outputs]
        captured = [self._value(value) for value in captures(node)]
        self.result.pinned.update(captured)
        op = self._read(node, inputs, outputs)
        op.inputs, op.outputs = [*inputs, *captured], outputs
        op.name, op.scope, op.source = node.name or node.op_type.lower(), scope(node), node
        op.lifted_inputs = tuple(op.inputs)
        complete_shape(op)
        self.result.append(op)

    def _read(self, node: ir.Node, inputs: "list[Value | None]", outputs: list[Value]) -> Op:
        rule = RULES.get((node.domain, node.op_type))
        opset = self.model.opset_imports.get(node.domain, 1)
        found = rule(NodeView(node, inputs, outputs, opset)) if rule is not None else None
        if found is not None:
            return found
        target = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
        return Opaque(target=target, impure=not node.domain and node.op_type in RANDOM)


def _attach(value: Value, tensor: ir.TensorProtocol) -> None:
    """Make a value constant; its elements stay where they are until someone asks."""
    value.constant = constant_of(tensor)
    value.shape, value.dtype = value.constant.shape, value.constant.dtype


def _dtype(source: ir.Value) -> np.dtype | None:
    if not isinstance(source.type, ir.TensorType):
        return None
    if source.type.dtype == ir.DataType.UNDEFINED:
        return None
    return source.type.dtype.numpy()
