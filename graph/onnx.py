"""The view over an `onnx_ir.Model`: lift it to a `Graph`, and bind that graph to ONNX.

Local functions are inlined and missing shapes inferred on a copy that shares every tensor, so the
model given stays as it is and no weight is read.
"""

import ast
from collections.abc import Sequence
from itertools import count

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from ..errors import InvalidModel
from . import onnx_rules, onnx_rules_shape, onnx_rules_tokens
from .graph import Graph
from .onnx_copy import captures, values_of
from .onnx_evaluate import evaluate
from .onnx_lower import Declared, lower
from .onnx_node import RULES, NodeView
from .onnx_reference import run
from .onnx_tensor import constant_of
from .ops import Elementwise, Norm, Opaque
from .shapes import broadcast
from .value import Op, Shape, Value

_ = onnx_rules, onnx_rules_shape, onnx_rules_tokens  # importing them fills the table

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
        opset: version of the standard operator set that the lowered model will import.
    """

    frontend = "onnx"

    def __init__(self, model: ir.Model, outputs: list[Declared]) -> None:
        self.model = model
        self.outputs = outputs

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


def opset_of(model: ir.Model) -> int:
    """Version of the standard operator set that a model imports."""
    return model.opset_imports.get("", 1)


def lift(model: ir.Model) -> Graph:
    """The graph of a model, one op per node; no tensor is read but small shape operands."""
    outputs = [Declared(value.shape, value.type) for value in model.graph.outputs]
    return _Lift(OnnxBinding(_prepared(model), outputs)).graph()


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
        tensor = _constant_tensor(node)
        if tensor is not None:
            _attach(self._value(node.outputs[0]), tensor)
            return
        inputs = [None if v is None else self._value(v) for v in node.inputs]
        outputs = [self._value(value) for value in node.outputs]
        captured = [self._value(value) for value in captures(node)]
        self.result.pinned.update(captured)
        op = self._read(node, inputs, outputs)
        op.inputs, op.outputs = [*inputs, *captured], outputs
        op.name, op.scope, op.source = node.name or node.op_type.lower(), _scope(node), node
        op.lifted_inputs = tuple(op.inputs)
        _complete_shape(op)
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


def _constant_tensor(node: ir.Node) -> ir.TensorProtocol | None:
    """The tensor of a Constant node."""
    if (node.domain, node.op_type) != ("", "Constant") or len(node.attributes) != 1:
        return None
    attribute = next(iter(node.attributes.values()))
    if attribute.name == "value":
        return attribute.as_tensor()
    if attribute.name in ("value_int", "value_ints"):
        return ir.Tensor(np.array(attribute.value, np.int64))
    if attribute.name in ("value_float", "value_floats"):
        return ir.Tensor(np.array(attribute.value, np.float32))
    return None


def _scope(node: ir.Node) -> str:
    """Dotted path of the module that a node was exported from."""
    props = node.metadata_props
    try:
        scopes = ast.literal_eval(props.get("pkg.torch.onnx.name_scopes", "[]"))
    except (ValueError, SyntaxError):
        scopes = []
    if len(scopes) > 1:
        return str(scopes[-2])
    if "namespace" in props:
        parts = [part.split(":")[0].strip() for part in props["namespace"].split("/")]
        return parts[-2] if len(parts) > 1 else ""
    if node.name and node.name.startswith("/"):  # the TorchScript exporter's habit
        return ".".join(node.name.split("/")[1:-1])
    return ""


def _complete_shape(op: Op) -> None:
    """Fill in what ONNX cannot infer: results of operators it has no schema for."""
    if len(op.outputs) != 1 or op.output.shape is not None:
        return
    shapes = [value.shape for value in op.inputs if value is not None]
    known = [shape for shape in shapes if shape is not None]
    if isinstance(op, Norm):
        op.output.shape, op.output.dtype = op.x.shape, op.output.dtype or op.x.dtype
    elif isinstance(op, Elementwise) and op.fn in ("gelu", "gelu_tanh", "silu"):
        if len(known) == len(shapes):
            op.output.shape = broadcast(*known)
        op.output.dtype = op.output.dtype or op.require(0).dtype
