"""Write a graph back as a new `onnx_ir.Model`: untouched nodes are copied, the others written anew.

Tensors are shared with the original, never copied; inputs, outputs, metadata and opsets stay.
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from . import onnx_emit_norm, onnx_emit_quant, onnx_emit_shape, onnx_emit_tokens
from .graph import Graph
from .onnx_build import Builder
from .onnx_copy import copy_node, is_copyable, values_of
from .onnx_emit import emit
from .onnx_names import Names
from .onnx_tensor import tensor_of
from .ops import Opaque
from .value import Constant, Op, Value

# Importing them fills the table.
_ = onnx_emit_norm, onnx_emit_quant, onnx_emit_shape, onnx_emit_tokens


@dataclass(frozen=True)
class Declared:
    """What a model says of one of its outputs."""

    shape: ir.Shape | None
    type: ir.TypeProtocol | None


def lower(graph: Graph, model: ir.Model, outputs: list[Declared]) -> ir.Model:
    """A new model for `graph`, which was lifted from `model`."""
    return Writer(graph, model, outputs).model()


class Writer:
    """One lowering: what was written so far."""

    def __init__(self, graph: Graph, model: ir.Model, outputs: list[Declared]) -> None:
        self.graph = graph
        self.old = model
        self.declared = outputs
        self.names, self.node_names = Names(), Names()
        self.values: dict[Value, ir.Value] = {}
        self.nodes: list[ir.Node] = []
        self.inputs: dict[ir.Value, ir.Value] = {}
        self.initializers: list[ir.Value] = []
        self.shared: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}
        self.claims: dict[Value, str] = {}

    def model(self) -> ir.Model:
        self._boundary()
        for op in self.graph.ops:
            self.write(op)
        outputs = self._outputs()
        inputs = [self.inputs[v] for v in self.old.graph.inputs if v in self.inputs]
        used = [v for v in self.initializers if v.uses() or v in inputs or v.is_graph_output()]
        old = self.old.graph
        graph = ir.Graph(
            inputs,
            outputs,
            nodes=self.nodes,
            initializers=used,
            doc_string=old.doc_string,
            opset_imports=dict(old.opset_imports),
            name=old.name,
            metadata_props=dict(old.metadata_props),
        )
        return model_like(self.old, graph)

    # -- the boundary ----------------------------------------------------------------------------

    def _boundary(self) -> None:
        """Fix the names that callers and control-flow bodies know before handing out others."""
        for value in self.graph.inputs:
            self._input(value)
        known = [value.name or "" for value in self.old.graph.inputs]
        for name in (*known, *self.graph.output_names):
            self.names.taken.setdefault(name, 0)
        self.reserve_inner_names()
        for value, name in zip(self.graph.outputs, self.graph.output_names, strict=True):
            if value.producer is not None and not is_overridable(value.producer):
                self.claims.setdefault(value, name)

    def reserve_inner_names(self) -> None:
        """Let no value take a name that a control-flow body uses."""
        for body in list(self.old.graphs())[1:]:
            for inner in values_of(body):
                self.names.taken.setdefault(inner.name or "", 0)
        self.names.taken.setdefault("", 0)

    def _input(self, value: Value) -> ir.Value:
        old = value.origin
        new = ir.Value(name=old.name, shape=old.shape, type=old.type, doc_string=old.doc_string)
        new.metadata_props.update(old.metadata_props)
        self.inputs[old] = self.values[value] = new
        return new

    def _outputs(self) -> list[ir.Value]:
        made: dict[str, ir.Value] = {}
        result = []
        parts = (self.graph.outputs, self.graph.output_names, self.declared, self.old.graph.outputs)
        for value, name, declared, old in zip(*parts, strict=True):
            if name not in made:
                made[name] = self._output(value, name)
                made[name].shape, made[name].type = declared.shape, declared.type
                made[name].doc_string = old.doc_string
                made[name].metadata_props.update(old.metadata_props)
            result.append(made[name])
        return result

    def _output(self, value: Value, name: str) -> ir.Value:
        source = self.read(value)
        if source.name == name:
            return source
        node = ir.node("Identity", [source], name=self.node_names.fresh(f"{name}_identity"))
        self.nodes.append(node)
        node.outputs[0].name = name
        return node.outputs[0]

    # -- values ----------------------------------------------------------------------------------

    def read(self, value: Value) -> ir.Value:
        """The value as ONNX has it; a constant becomes an initializer when first read."""
        found = self.values.get(value)
        if found is None:
            assert value.constant is not None, f"{value.name!r} is read before it is made"
            name = self.names.fresh(value.name)
            found = self.values[value] = self.initializer(tensor_of(value.constant, name), name)
        return found

    def initializer(self, tensor: ir.TensorProtocol, name: str) -> ir.Value:
        """A new initializer."""
        kind = ir.TensorType(tensor.dtype)
        value = ir.Value(
            name=name, shape=ir.Shape(tensor.shape.numpy()), type=kind, const_value=tensor
        )
        self.initializers.append(value)
        return value

    def _constant(self, array: np.ndarray, hint: str) -> ir.Value:
        """A small operand that an emitter made up; equal ones are one initializer."""
        key = array.dtype.name, array.shape, array.tobytes()
        if key not in self.shared:
            name = self.names.fresh(hint)
            self.shared[key] = self.initializer(ir.Tensor(array, name=name), name)
        return self.shared[key]

    def _transposed(self, weight: Value) -> ir.Value | None:
        constant = weight.constant
        if constant is None or self.graph.only_reader(weight) is None:
            return None
        turned = Constant(
            lambda: np.ascontiguousarray(constant.array().T),
            constant.shape[::-1],
            constant.dtype,
        )
        name = self.names.fresh(f"{weight.name}_transposed")
        return self.initializer(tensor_of(turned, name), name)

    # -- ops -------------------------------------------------------------------------------------

    def write(self, op: Op) -> None:
        """Write one op, as a copy where that says the same."""
        if is_overridable(op):
            tensor = op.source.const_value
            self._input(op.output).const_value = tensor
            self.initializers.append(self.values[op.output])
            return
        operands = [None if v is None else self.read(v) for v in op.inputs]
        if is_copyable(op):
            node = copy_node(op, operands)
            node.name = self.node_names.fresh(node.name) if node.name else node.name
            made, results = [node], list(node.outputs)
        else:
            if isinstance(op, Opaque):
                raise ValueError(f"{op.kind} {op.name!r} lost the node that it stands for")
            build = Builder(self.old.opset_imports[""], self._constant, self._transposed)
            results = emit(build, op, operands)
            made = build.nodes
            self._label(op, made, results)
        self.nodes.extend(made)
        for value, result in zip(op.outputs, results, strict=True):
            self._name_result(value, result)

    def _label(self, op: Op, made: list[ir.Node], results: list[ir.Value]) -> None:
        for node in made:
            last = node.outputs[0] is results[0]
            node.name = self.node_names.fresh(op.name if last else f"{op.name}/{node.op_type}")
            if op.scope:
                props = node.metadata_props
                props["namespace"] = f"{op.scope}: passel/{op.name}: {op.kind}"
            for output in node.outputs:
                if not any(output is result for result in results):
                    output.name = self.names.fresh(f"{op.output.name}/{node.op_type}")

    def _name_result(self, value: Value, result: ir.Value) -> None:
        unwanted = value.origin is not None and not value.origin.name
        if unwanted and not value.uses and value not in self.claims:
            result.name = ""
            return
        result.name = self.claims.get(value) or self.names.fresh(value.name)
        if value.origin is not None:
            result.doc_string = value.origin.doc_string
            result.metadata_props.update(value.origin.metadata_props)
        describe(value, result)
        self.values[value] = result


def describe(value: Value, result: ir.Value) -> None:
    """Type and shape of a result; dimension names that the lift made up are left out."""
    if value.dtype is not None:
        result.type = ir.TensorType(ir.DataType.from_numpy(value.dtype))
    elif value.origin is not None:
        result.type = value.origin.type
    if value.shape is not None:
        result.shape = ir.Shape([None if _made_up(dim) else dim for dim in value.shape])


def _made_up(dim: int | str) -> bool:
    return isinstance(dim, str) and dim.startswith("?")


def is_overridable(op: Op) -> bool:
    """Whether the op stands for an initializer that a caller may override."""
    return isinstance(op, Opaque) and isinstance(op.source, ir.Value)


def model_like(old: ir.Model, graph: ir.Graph) -> ir.Model:
    """A model around `graph` that says of itself what the old one said."""
    return ir.Model(
        graph,
        # Before IR 4 every initializer had to be a graph input too.
        ir_version=max(old.ir_version, 4),
        producer_name=old.producer_name,
        producer_version=old.producer_version,
        domain=old.domain,
        model_version=old.model_version,
        doc_string=old.doc_string,
        functions=[function.clone() for function in old.functions.values()],
        metadata_props=dict(old.metadata_props),
        device_configurations=old.device_configurations,
    )
