"""How the ONNX operators that quantize and dequantize read in the vocabulary.

ONNX Runtime's own QuantizeLinear and DequantizeLinear (domain com.microsoft) mean the same. No
shape inference knows those, so the rules say what their results are.
"""

import numpy as np
import onnx_ir as ir

from .onnx_node import MICROSOFT, NodeView, rule
from .ops import Dequantize, DynamicQuantize, Quantize
from .quant_numbers import is_integer
from .shapes import normal_axis
from .value import Op, Value

UINT8 = np.dtype(np.uint8)


@rule("QuantizeLinear")
@rule("QuantizeLinear", domain=MICROSOFT)
def _quantize(view: NodeView) -> Op | None:
    x, found = view.operand(0), _axis(view)
    if x is None or found is None or not x.is_float or view.attr_int("precision", 0):
        return None
    dtype = _code_type(view)
    if not is_integer(dtype) and not view.attr_int("saturate", 1):
        return None
    _complete(view.outputs[0], x, dtype)
    return Quantize(axis=found[0], block=found[1])


@rule("DequantizeLinear")
@rule("DequantizeLinear", domain=MICROSOFT)
def _dequantize(view: NodeView) -> Op | None:
    codes, scale, found = view.operand(0), view.operand(1), _axis(view)
    if codes is None or scale is None or found is None:
        return None
    _complete(view.outputs[0], codes, _named_type(view) or scale.dtype)
    return Dequantize(axis=found[0], block=found[1])


@rule("DynamicQuantizeLinear")
def _dynamic_quantize(view: NodeView) -> Op | None:
    return DynamicQuantize() if len(view.outputs) == 3 else None


def _axis(view: NodeView) -> tuple[int | None, int] | None:
    """Axis and block of the scales; (None, 0) for a lone one; None where that is not known."""
    scale, rank = view.operand(1), view.rank(0)
    block = view.attr_int("block_size", 0)
    if scale is None or scale.shape is None or any(d == "" for d in scale.shape):
        return None
    if not block and scale.shape in ((), (1,)):
        return None, 0
    # By default axis is 1 in the standard; ONNX Runtime's own operators have no default.
    if rank is None or (view.node.domain == MICROSOFT and not view.has("axis")):
        return None
    if len(scale.shape) != (rank if block else 1):
        return None
    return normal_axis(view.attr_int("axis", 1), rank), block


def _code_type(view: NodeView) -> np.dtype:
    """Element type of the codes: that of the zero point, else as named, else uint8."""
    zero_point = view.operand(2)
    given = None if zero_point is None else zero_point.dtype
    return given or _named_type(view) or UINT8


def _named_type(view: NodeView) -> np.dtype | None:
    number = view.attr_int("output_dtype", 0)
    return ir.DataType(number).numpy() if number else None


def _complete(result: Value, like: Value, dtype: np.dtype | None) -> None:
    result.shape = like.shape if result.shape is None else result.shape
    result.dtype = dtype if result.dtype is None else result.dtype
