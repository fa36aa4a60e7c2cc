"""How quantize and dequantize are written in ONNX."""

import numpy as np
import onnx_ir as ir

from .onnx_build import Builder, Operand, dtype_of
from .onnx_emit import Results, emits, needed
from .onnx_quant_opset import op_opset
from .ops import Dequantize, DynamicQuantize, Quantize
from .value import is_float

FLOAT32, FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)
NAMED_CODES = 21
"""From this opset on a QuantizeLinear says the type of its codes."""
NAMED_RESULT = 23
"""From this opset on a DequantizeLinear says the type of its result."""


@emits(Quantize)
def _quantize(build: Builder, op: Quantize, operands: "list[Operand]") -> Results:
    _check_opset(build, op)
    x, scale = _narrowed(build, needed(operands[0])), _narrowed(build, needed(operands[1]))
    if dtype_of(x) != dtype_of(scale) and build.opset < NAMED_RESULT:
        x = build.cast(x, dtype_of(scale))
    assert op.output.dtype is not None
    zero_point, named = operands[2], None
    if is_float(op.output.dtype) and build.opset >= NAMED_CODES:
        # Floats have no zero point but 0. ONNX Runtime 1.32 takes one that is written out for the
        # lowest code, and drops a Relu before it.
        zero_point, named = None, op.output.dtype
    elif zero_point is None and op.output.dtype != np.uint8:
        # A zero that is written out is what all runtimes take, whatever the opset.
        zero_point = _zero(build, op, op.output.dtype)
        named = op.output.dtype if zero_point is None else None
    result = build(
        "QuantizeLinear",
        *(x, scale, zero_point),
        axis=op.axis,
        block_size=op.block or None,
        output_dtype=None if named is None else ir.DataType.from_numpy(named).value,
    )
    result.type = ir.TensorType(ir.DataType.from_numpy(op.output.dtype))
    return result


def _zero(build: Builder, op: Quantize, dtype: np.dtype) -> Operand:
    """Zeros of the scale's shape; None where that is known only at run time."""
    shape = tuple(extent for extent in op.scale.shape or () if isinstance(extent, int))
    if op.scale.shape is None or len(shape) != len(op.scale.shape):
        if build.opset < NAMED_CODES:
            raise TypeError(f"expected {op.name!r} to have a zero point or a scale of known shape")
        return None
    return build.array(np.zeros(shape, dtype), "zero_point")


@emits(Dequantize)
def _dequantize(build: Builder, op: Dequantize, operands: "list[Operand]") -> Results:
    _check_opset(build, op)
    scale = _narrowed(build, needed(operands[1]))
    wanted = op.output.dtype or dtype_of(scale)
    by_name = wanted not in (dtype_of(scale), FLOAT64) and build.opset >= NAMED_RESULT
    made = wanted if by_name else dtype_of(scale)
    result = build(
        "DequantizeLinear",
        *(operands[0], scale, operands[2]),
        axis=op.axis,
        block_size=op.block or None,
        output_dtype=ir.DataType.from_numpy(made).value if by_name else None,
    )
    result.type = ir.TensorType(ir.DataType.from_numpy(made))
    return result if made == wanted else build.cast(result, wanted)


@emits(DynamicQuantize)
def _dynamic_quantize(build: Builder, op: DynamicQuantize, operands: "list[Operand]") -> Results:
    x = needed(operands[0])
    if dtype_of(x) != FLOAT32:
        x = build.cast(x, FLOAT32)
    codes, scale, zero_point = build.many("DynamicQuantizeLinear", x, results=3)
    codes.type = zero_point.type = ir.TensorType(ir.DataType.UINT8)
    return codes, scale, zero_point


def _narrowed(build: Builder, value: ir.Value) -> ir.Value:
    """In float32 if it is in float64, which ONNX does not quantize."""
    return build.cast(value, FLOAT32) if dtype_of(value) == FLOAT64 else value


def _check_opset(build: Builder, op: Quantize | Dequantize) -> None:
    need = op_opset(op)
    if build.opset < need:
        codes = op.output.dtype if isinstance(op, Quantize) else op.x.dtype
        blocks = f" in blocks of {op.block}" if op.block else ""
        raise TypeError(
            f"{op.kind} {op.name!r}: {codes}{blocks} needs opset {need}, and the model is at "
            f"{build.opset}: raise it before it is lifted"
        )
