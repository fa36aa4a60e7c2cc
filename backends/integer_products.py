"""ONNX Runtime's own operators for quantized products, in place of standard Q/DQ.

    MatMul(dq(q(x)), dq(W)) + b          ->  MatMulIntegerToFloat(q(x), W, b)
    the same, with the scale of x found at run time, for one reader
                                         ->  DynamicQuantizeMatMul(x, W, b)
    MatMul(x, dq(W)), W in 2, 4 or 8 bits by blocks
                                         ->  MatMulNBits(x, W, b)
ONNX Runtime 1.32 makes these rewrites itself in some cases; with a bias and no quantized result it
dequantizes both sides at every call instead. A weight that no operator takes (8-bit floats) is
dequantized once, here.
"""

import itertools
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..graph.value import bits_of
from .block_weights import matmul_nbits
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


def integer_products(model: ir.Model) -> ir.Model:
    """The model with every quantized product in the operator that computes it fastest."""
    if not any(node.op_type == "DequantizeLinear" for node in model.graph):
        return model
    result = model.clone()
    for node in list(result.graph):
        if node.op_type in ("MatMul", "Gemm") and node.domain in ("", "ai.onnx"):
            _rewrite(result, node)
    _drop_unread(result.graph)
    return result


def _rewrite(model: ir.Model, node: ir.Node) -> None:
    weight = _weight(node)
    if weight is None or not _plain_gemm(node):
        return
    bias_node, bias = _bias(node)
    activation = _dequantized(node.inputs[0])
    writer = Writer(model, node, bias_node or node)
    if activation is None:
        made = matmul_nbits(writer, node.inputs[0], weight, bias, level=None)
    elif weight.block or bits_of(weight.codes.dtype) < 8:
        source = _dynamic_source(activation)
        made = None if source is None else matmul_nbits(writer, source, weight, bias, level=4)
    elif weight.codes.dtype in (np.int8, np.uint8):
        made = _integer(writer, activation, weight, bias)
    else:
        made = None
    if made is not None:
        writer.replace(made)
    elif weight.codes.dtype.kind not in "iu":
        node.replace_input_with(1, writer.initializer(_laid_out(node, weight.dense), "dense"))


def _laid_out(node: ir.Node, dense: np.ndarray) -> np.ndarray:
    return dense.T if node.attributes.get_int("transB", 0) else dense


class Writer:
    """Adds a node and its constants in place of a product and the bias's Add."""

    def __init__(self, model: ir.Model, node: ir.Node, last: ir.Node) -> None:
        self.model, self.node, self.last = model, node, last

    def initializer(self, array: np.ndarray, hint: str) -> ir.Value:
        """A new constant."""
        taken = self.model.graph.initializers
        name = next(
            n for k in itertools.count() if (n := f"{self.node.name}_{hint}_{k}") not in taken
        )
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

    def replace(self, made: ir.Node) -> None:
        """Put the node where the product was."""
        old, new = self.last.outputs[0], made.outputs[0]
        new.shape, new.type = old.shape, old.type
        name, old.name = old.name, f"{old.name}_replaced"
        new.name = name
        self.model.graph.insert_after(self.last, made)
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        self.model.graph.remove([self.last], safe=True)
        if self.last is not self.node:
            self.model.graph.remove([self.node], safe=True)


def _integer(
    writer: Writer, activation: ir.Node, weight: Weight, bias: np.ndarray | None
) -> ir.Node:
    """The product of 8-bit codes."""
    codes, scale = activation.inputs[:2]
    zero = activation.inputs[2] if len(activation.inputs) > 2 else None
    b = writer.initializer(weight.codes, "codes")
    b_scale = writer.initializer(weight.scale.astype(np.float32), "scale")
    b_zero = None if weight.zero is None else writer.initializer(weight.zero, "zero_point")
    added = None if bias is None else writer.initializer(bias, "bias")
    source = _dynamic_source(activation)
    assert codes is not None
    made = codes.producer()
    if source is not None and made is not None and _readers(made) == 1:
        return writer.make("DynamicQuantizeMatMul", [source, b, b_scale, b_zero, added])
    inputs = [codes, b, scale, b_scale, zero, b_zero, added]
    return writer.make("MatMulIntegerToFloat", inputs)


def _readers(quantizer: ir.Node) -> int:
    """How many products read what a DynamicQuantizeLinear makes."""
    found = set(quantizer.outputs[0].consumers())
    products = [one for each in found for one in each.outputs[0].consumers()]
    direct = [each for each in found if each.op_type == "MatMulIntegerToFloat"]
    return len([p for p in products if p.op_type in ("MatMul", "Gemm")]) + len(direct)


def _weight(node: ir.Node) -> Weight | None:
    """Operand 1, if it is dequantized from constants by columns or by blocks along I."""
    made = _dequantized(node.inputs[1])
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


def _plain_gemm(node: ir.Node) -> bool:
    attributes = node.attributes
    return (
        not attributes.get_int("transA", 0)
        and attributes.get_float("alpha", 1.0) == 1.0
        and attributes.get_float("beta", 1.0) == 1.0
    )


def _dequantized(value: ir.Value | None) -> ir.Node | None:
    """The DequantizeLinear that makes a value, if one does."""
    made = None if value is None else value.producer()
    return made if made is not None and made.op_type == "DequantizeLinear" else None


def _dynamic_source(activation: ir.Node) -> ir.Value | None:
    """What a DynamicQuantizeLinear reads, if codes come from one."""
    codes = activation.inputs[0]
    made = None if codes is None else codes.producer()
    if made is None or made.op_type != "DynamicQuantizeLinear":
        return None
    return made.inputs[0]


def _bias(node: ir.Node) -> "tuple[ir.Node | None, np.ndarray | None]":
    """The Add of a constant [O] that alone reads the product, and the constant in float32."""
    if node.op_type == "Gemm" and len(node.inputs) > 2 and node.inputs[2] is not None:
        return None, _constant(node.inputs[2])
    result = node.outputs[0]
    readers = list(result.consumers())
    if len(readers) != 1 or readers[0].op_type != "Add" or result.is_graph_output():
        return None, None
    other = next((v for v in readers[0].inputs if v is not result), None)
    bias = _constant(other)
    return (None, None) if bias is None or bias.ndim != 1 else (readers[0], bias)


def _constant(value: ir.Value | None) -> np.ndarray | None:
    """A constant, also one that is dequantized, in float32."""
    if value is None:
        return None
    if value.const_value is not None:
        return value.const_value.numpy().astype(np.float32)
    made = _dequantized(value)
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


def _drop_unread(graph: ir.Graph) -> None:
    """Remove nodes and constants that only the old forms read."""
    for node in reversed(list(graph)):
        if not any(output.uses() or output.is_graph_output() for output in node.outputs):
            graph.remove(node, safe=True)
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]
