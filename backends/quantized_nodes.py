"""What a quantized product reads, found in an ONNX model, and the nodes that replace it."""

import itertools
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from .ort_forms import CONTRIB


@dataclass(frozen=True)
class Weight:
    """A dequantized weight that a product reads.

    Attributes:
        codes: [I, O].
        scale, zero: [O] or [], of 8-bit codes; [blocks, O] of blocked ones.
        block: weights along I that share a scale; 0 for all.
    """

    codes: np.ndarray
    scale: np.ndarray
    zero: np.ndarray | None
    block: int

    @property
    def dense(self) -> np.ndarray:
        """The weight in float32 [I, O]."""
        scale, zero = self.scale, self.zero
        if self.block:
            width = self.codes.shape[0]
            scale = np.repeat(scale, self.block, axis=0)[:width]
            zero = None if zero is None else np.repeat(zero, self.block, axis=0)[:width]
        codes = self.codes.astype(np.float32)
        return (codes if zero is None else codes - zero.astype(np.float32)) * scale


class Writer:
    """Adds a node and its constants in place of a product and the bias's Add."""

    def __init__(self, model: ir.Model, node: ir.Node, last: ir.Node) -> None:
        self.model, self.node, self.last = model, node, last
        self._count = itertools.count()
        made = (value for each in model.graph for value in each.outputs)
        values = (*model.graph.inputs, *model.graph.initializers.values(), *made)
        self._taken = {str(value.name) for value in values}

    def initializer(self, array: np.ndarray, hint: str) -> ir.Value:
        """A new constant."""
        name = next(
            n for k in itertools.count() if (n := f"{self.node.name}_{hint}_{k}") not in self._taken
        )
        self._taken.add(name)
        array = np.ascontiguousarray(array)
        value = ir.Value(name=name, const_value=ir.Tensor(array, name=name))
        value.shape, value.type = (
            ir.Shape(array.shape),
            ir.TensorType(ir.DataType.from_numpy(array.dtype)),
        )
        self.model.graph.register_initializer(value)
        return value

    def make(self, op_type: str, inputs: "list[ir.Value | None]", **attributes: int) -> ir.Node:
        """A node of ONNX Runtime's domain."""
        while inputs and inputs[-1] is None:
            inputs.pop()
        given = [ir.AttrInt64(name, value) for name, value in attributes.items()]
        self.model.graph.opset_imports.setdefault(CONTRIB, 1)
        return ir.Node(CONTRIB, op_type, inputs, attributes=given, name=f"{self.node.name}_integer")

    def standard(self, op_type: str, *inputs: "ir.Value | None", **attributes: int) -> ir.Node:
        """A node of ONNX's own domain."""
        given = [ir.AttrInt64(name, value) for name, value in attributes.items()]
        name = f"{self.node.name}_{op_type.lower()}_{next(self._count)}"
        return ir.Node("", op_type, inputs, attributes=given, name=name)

    def replace(self, made: ir.Node, *before: ir.Node) -> None:
        """Put the node, after those that it needs, where the product was."""
        old, new = self.last.outputs[0], made.outputs[0]
        new.shape, new.type = old.shape, old.type
        name, old.name = old.name, f"{old.name}_replaced"
        new.name = name
        self.model.graph.insert_after(self.last, [*before, made])
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        self.model.graph.remove([self.last], safe=True)
        if self.last is not self.node:
            self.model.graph.remove([self.node], safe=True)


def weight_of(node: ir.Node) -> Weight | None:
    """Operand 1, if it is dequantized from constants by columns or by blocks along I."""
    made = dequantized(node.inputs[1])
    if made is None or len(node.inputs[1].shape or ()) != 2:  # type: ignore[union-attr]
        return None
    arrays = _arrays(made)
    if arrays is None:
        return None
    codes, scale = arrays[0], arrays[1]
    zero = arrays[2] if len(arrays) > 2 else None
    axis = made.attributes.get_int("axis", 1) % 2
    block = made.attributes.get_int("block_size", 0)
    if node.attributes.get_int("transB", 0):
        codes, axis = codes.T, 1 - axis
        scale, zero = scale.T, None if zero is None else zero.T
    if scale.ndim and (axis != 0 if block else axis != 1 and scale.size > 1):
        return None
    if scale.ndim == 1 and scale.size == 1:
        scale, zero = scale.reshape(()), None if zero is None else zero.reshape(())
    return Weight(codes, scale, zero, block)


def is_plain_gemm(node: ir.Node) -> bool:
    """Whether a node is x·W or x·W + b with a constant b [O]."""
    attributes = node.attributes
    added = node.inputs[2] if node.op_type == "Gemm" and len(node.inputs) > 2 else None
    if added is not None and not _is_row(constant_of(added), node):
        return False
    return (
        not attributes.get_int("transA", 0)
        and attributes.get_float("alpha", 1.0) == 1.0
        and attributes.get_float("beta", 1.0) == 1.0
    )


def dequantized(value: ir.Value | None) -> ir.Node | None:
    """The DequantizeLinear that makes a value, if one does."""
    made = None if value is None else value.producer()
    return made if made is not None and made.op_type == "DequantizeLinear" else None


def dynamic_source(activation: ir.Node) -> ir.Value | None:
    """What a DynamicQuantizeLinear reads, if codes come from one."""
    codes = activation.inputs[0]
    made = None if codes is None else codes.producer()
    if made is None or made.op_type != "DynamicQuantizeLinear":
        return None
    return made.inputs[0]


def bias_of(node: ir.Node) -> "tuple[ir.Node | None, np.ndarray | None]":
    """The Add of a constant [O] that alone reads the product, and the constant in float32."""
    if node.op_type == "Gemm" and len(node.inputs) > 2 and node.inputs[2] is not None:
        return None, constant_of(node.inputs[2])
    result = node.outputs[0]
    readers = list(result.consumers())
    if len(readers) != 1 or readers[0].op_type != "Add" or result.is_graph_output():
        return None, None
    other = next((v for v in readers[0].inputs if v is not result), None)
    bias = constant_of(other)
    return (readers[0], bias) if _is_row(bias, node) else (None, None)


def _is_row(bias: np.ndarray | None, node: ir.Node) -> bool:
    """Whether a bias holds one number for every column of the product."""
    weight = node.inputs[1]
    if bias is None or weight is None or weight.shape is None:
        return False
    return bias.shape == (weight.shape[-2 if node.attributes.get_int("transB", 0) else -1],)


def constant_of(value: ir.Value | None) -> np.ndarray | None:
    """A constant, also one that is dequantized, in float32."""
    if value is None:
        return None
    if value.const_value is not None:
        return value.const_value.numpy().astype(np.float32)
    made = dequantized(value)
    if made is None:
        return None
    arrays = _arrays(made)
    if arrays is None or len(arrays) > 2:
        return None
    return (arrays[0].astype(np.float64) * arrays[1]).astype(np.float32)


def _arrays(made: ir.Node) -> list[np.ndarray] | None:
    """The constants that a node reads, if it reads nothing else."""
    held = [None if value is None else value.const_value for value in made.inputs]
    return [one.numpy() for one in held if one is not None] if None not in held else None


def drop_unread(graph: ir.Graph) -> None:
    """Remove nodes and constants that only the old forms read."""
    for node in reversed(list(graph)):
        if not any(output.uses() or output.is_graph_output() for output in node.outputs):
            graph.remove(node, safe=True)
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]
