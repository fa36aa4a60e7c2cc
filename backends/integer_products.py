"""ONNX Runtime's own operators for quantized products, in place of standard Q/DQ.

    MatMul(dq(q(x)), dq(W)) + b          ->  MatMulIntegerToFloat(q(x), W, b)
    the same, with the scale of x found at run time, for one reader
                                         ->  DynamicQuantizeMatMul(x, W, b)
    MatMul(x, dq(W)), W in 2, 4 or 8 bits by blocks
                                         ->  MatMulNBits(x, W, b)
ONNX Runtime 1.32 makes these rewrites itself in some cases; with a bias and no quantized result it
dequantizes both sides at every call instead. A weight that no operator takes (8-bit floats, blocks
of another size) is dequantized once, here.

`readable` is for models that stay as they are: it dequantizes the weights that ONNX Runtime 1.32
gets wrong when it makes these rewrites.
"""

import numpy as np
import onnx_ir as ir

from ..graph.value import bits_of
from .block_weights import matmul_nbits
from .quantized_nodes import (
    Weight,
    Writer,
    bias_of,
    dequantized,
    drop_unread,
    dynamic_source,
    is_plain_gemm,
    weight_of,
)


def integer_products(model: ir.Model, *, by_block: bool = False) -> ir.Model:
    """The model with every quantized product in an operator of ONNX Runtime's own.

    Args:
        by_block: 8-bit products whose activation is quantized at run time become MatMulNBits, which
            quantizes it by blocks: faster for a few rows (decoding), slower for many.
    """
    if not any(node.op_type == "DequantizeLinear" for node in model.graph):
        return model
    result = model.clone()
    for node in list(result.graph):
        if node.op_type in ("MatMul", "Gemm") and node.domain in ("", "ai.onnx"):
            _rewrite(result, node, by_block)
    drop_unread(result.graph)
    return result


def readable(model: ir.Model) -> ir.Model:
    """The model with those weights in float that ONNX Runtime 1.32 multiplies wrongly.

    They are 8-bit codes by blocks, which it takes for codes by columns where the activation is
    quantized, and 2-bit codes whose columns are not a multiple of 4.
    """
    result = model.clone()
    for node in list(result.graph):
        weight = weight_of(node) if node.op_type in ("MatMul", "Gemm") else None
        if weight is not None and _is_misread(node, weight):
            _write_dense(Writer(result, node, node), weight)
    drop_unread(result.graph)
    return result


def _is_misread(node: ir.Node, weight: Weight) -> bool:
    bits = bits_of(weight.codes.dtype)
    if bits == 2:
        return weight.codes.shape[1] % 4 != 0
    return bool(weight.block) and bits == 8 and dequantized(node.inputs[0]) is not None


def _rewrite(model: ir.Model, node: ir.Node, by_block: bool) -> None:
    weight = weight_of(node)
    if weight is None:
        return
    made, writer = None, Writer(model, node, node)
    if is_plain_gemm(node) and node.outputs[0].dtype is ir.DataType.FLOAT:
        bias_node, bias = bias_of(node)
        writer = Writer(model, node, bias_node or node)
        made = _made(writer, weight, bias, by_block)
    if made is not None:
        writer.replace(made)
    elif weight.block or weight.codes.dtype.kind not in "iu":
        _write_dense(writer, weight)


def _made(
    writer: Writer, weight: Weight, bias: np.ndarray | None, by_block: bool
) -> ir.Node | None:
    """The product in the operator that is best for it, if there is one."""
    x = writer.node.inputs[0]
    activation = dequantized(x)
    if activation is None:
        return matmul_nbits(writer, x, weight, bias, level=None)
    if weight.block or bits_of(weight.codes.dtype) < 8 or (by_block and _is_dynamic(activation)):
        source = dynamic_source(activation)
        return None if source is None else matmul_nbits(writer, source, weight, bias, level=4)
    if _in_bytes(activation, weight):
        return _integer(writer, activation, weight, bias)
    return None


def _in_bytes(activation: ir.Node, weight: Weight) -> bool:
    """Whether both sides are 8-bit codes, x with one scale, in signs that there is a kernel for."""
    if weight.codes.dtype not in (np.int8, np.uint8):
        return False
    codes, scale = activation.inputs[:2]
    assert codes is not None
    assert scale is not None
    held = scale.const_value
    is_one = dynamic_source(activation) is not None or (held is not None and held.size == 1)
    is_signed = codes.dtype is ir.DataType.INT8 and weight.codes.dtype == np.int8
    return is_one and (codes.dtype is ir.DataType.UINT8 or is_signed)


def _write_dense(writer: Writer, weight: Weight) -> None:
    """The weight as a constant in the type that the product reads."""
    node = writer.node
    old, dense = node.inputs[1], weight.dense
    assert old is not None
    if old.dtype is not None:
        dense = dense.astype(old.dtype.numpy())
    laid_out = dense.T if node.attributes.get_int("transB", 0) else dense
    node.replace_input_with(1, writer.initializer(laid_out, "dense"))


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
    source = dynamic_source(activation)
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


def _is_dynamic(activation: ir.Node) -> bool:
    return dynamic_source(activation) is not None
