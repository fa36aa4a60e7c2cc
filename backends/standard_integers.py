"""Products of 8-bit codes in standard ONNX, in the spelling that runtimes compute as such.

Where x is quantized at run time:
    MatMul(dq(q(x)), dq(W)) + b  ->  Cast(MatMulInteger(q(x), W))·(scale_x·scale_W) + b
with q as DynamicQuantizeLinear, which all products of one x share. With zero points z both compute
scale_x·scale_W·Σ (q(x) − z_x)·(W − z_W), the left one in float32, the right one exactly up to the
last two products.
Where scales are constants, Q/DQ stays, for runtimes look for it; the zero point of W is written out
even if it is 0.

ONNX Runtime 1.32 computes with codes in these forms (2-D, 3-D, with a bias or without). In the
others it dequantizes both sides at every call where there is a bias, which takes ten times as long.
"""

import numpy as np
import onnx_ir as ir

from .quantized_nodes import (
    Weight,
    Writer,
    bias_of,
    dequantized,
    drop_unread,
    is_plain_gemm,
    weight_of,
)

FLOAT = ir.DataType.FLOAT


def standard_integers(model: ir.Model) -> ir.Model:
    """The model with every product of 8-bit codes in these forms."""
    if not any(node.op_type == "DequantizeLinear" for node in model.graph):
        return model
    result = model.clone()
    for node in list(result.graph):
        if node.op_type in ("MatMul", "Gemm") and node.domain in ("", "ai.onnx"):
            _rewrite(result, node)
    drop_unread(result.graph)
    return result


def _rewrite(model: ir.Model, node: ir.Node) -> None:
    activation, weight = dequantized(node.inputs[0]), weight_of(node)
    if activation is None or weight is None or not is_plain_gemm(node):
        return
    if not _in_bytes(weight) or activation.outputs[0].dtype is not FLOAT:
        return
    bias_node, bias = bias_of(node)
    writer = Writer(model, node, bias_node or node)
    if _is_dynamic(activation):
        _write_integers(writer, activation, weight, bias)
    else:
        _write_zero(writer, dequantized(node.inputs[1]))


def _is_dynamic(activation: ir.Node) -> bool:
    """Whether scale and zero point come from one DynamicQuantizeLinear; moves may follow it."""
    if len(activation.inputs) < 3:
        return False
    scale, zero = (None if v is None else v.producer() for v in activation.inputs[1:3])
    return scale is not None and scale is zero and scale.op_type == "DynamicQuantizeLinear"


def _in_bytes(weight: Weight) -> bool:
    return not weight.block and weight.codes.dtype in (np.int8, np.uint8)


def _write_zero(writer: Writer, made: ir.Node | None) -> None:
    """Give a weight's DequantizeLinear a zero point of zeros."""
    assert made is not None
    codes, scale = made.inputs[:2]
    if len(made.inputs) > 2 or codes is None or scale is None:
        return
    assert codes.dtype is not None
    zeros = np.zeros(scale.shape.numpy() if scale.shape is not None else (), codes.dtype.numpy())
    made.resize_inputs(3)
    made.replace_input_with(2, writer.initializer(zeros, "zero_point"))


def _write_integers(
    writer: Writer, activation: ir.Node, weight: Weight, bias: np.ndarray | None
) -> None:
    codes, scale, zero = activation.inputs[:3]
    matrix = writer.initializer(weight.codes, "codes")
    steps = writer.initializer(weight.scale.astype(np.float32), "scale")
    operands = [codes, matrix, zero]
    if weight.zero is not None:
        operands.append(writer.initializer(weight.zero, "zero_point"))
    sums = writer.standard("MatMulInteger", *operands)
    floats = writer.standard("Cast", sums.outputs[0], to=FLOAT.value)
    unit = writer.standard("Mul", scale, steps)
    made = [sums, floats, unit, writer.standard("Mul", floats.outputs[0], unit.outputs[0])]
    if bias is not None:
        made.append(writer.standard("Add", made[-1].outputs[0], writer.initializer(bias, "bias")))
    writer.replace(made[-1], *made[:-1])
