"""Which opset ONNX needs to say that a tensor is quantized: older ones lack formats and blocks."""

import numpy as np

from .graph import Graph
from .ops import Dequantize, Quantize

FIRST = 13
"""Before it there were no axes."""
FORMATS = {
    "int8": FIRST,
    "uint8": FIRST,
    "int32": FIRST,
    "float8_e4m3fn": 19,
    "float8_e4m3fnuz": 19,
    "float8_e5m2": 19,
    "float8_e5m2fnuz": 19,
    "int16": 21,
    "uint16": 21,
    "int4": 21,
    "uint4": 21,
    "float4_e2m1fn": 23,
    "int2": 25,
    "uint2": 25,
}
"""The first opset with each format of codes."""
SCALES = {
    "float32": FIRST,
    "float64": FIRST,  # by casts
    "float16": 19,
    "bfloat16": 19,
    "float8_e8m0fnu": 24,
}
"""The first opset with each type of scale."""
BLOCKED = 21


def opset_for(codes: np.dtype, *, block: int = 0, scale: np.dtype | None = None) -> int:
    """The smallest opset that can say codes of this type, in blocks, with scales of this type.

    Raises:
        TypeError: no opset can.
    """
    types = [(codes, FORMATS, "codes"), (scale or np.dtype(np.float32), SCALES, "scales")]
    needs = [BLOCKED if block else FIRST]
    for dtype, known, what in types:
        if dtype.name not in known:
            raise TypeError(f"expected {what} of a type that ONNX quantizes to, got {dtype.name}")
        needs.append(known[dtype.name])
    return max(needs)


def quantized_opset(graph: Graph) -> int:
    """The smallest opset that can say every Quantize and Dequantize of a graph.

    A model that is older has to be raised to it (`onnx_opset.raise_opset`) before it is lifted.
    """
    return max(
        (op_opset(op) for op in graph.ops if isinstance(op, Quantize | Dequantize)), default=FIRST
    )


def op_opset(op: Quantize | Dequantize) -> int:
    """The smallest opset that can say one op."""
    codes = op.output.dtype if isinstance(op, Quantize) else op.x.dtype
    scale = op.scale.dtype
    if codes is None or scale is None:
        raise TypeError(f"expected {op.kind} {op.name!r} to know its types, got none")
    return opset_for(codes, block=op.block, scale=scale)
