"""Quantization for onnx.reference, whose own lacks formats, and saturates some of them wrongly."""

from typing import Any

import numpy as np
import onnx
from onnx.reference.op_run import OpRun

from .onnx_node import MICROSOFT
from .quant_numbers import dequantized, dynamically_quantized, quantized

UINT8 = np.dtype(np.uint8)


def _named(attributes: "dict[str, Any]") -> np.dtype | None:
    number = attributes.get("output_dtype")
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(number)) if number else None


def _grid(x: np.ndarray, attributes: "dict[str, Any]") -> tuple[int | None, int]:
    """Axis and block of the scales; axis is 1 if nothing is said."""
    axis = attributes.get("axis")
    axis = 1 if axis is None else axis
    return (axis + x.ndim if axis < 0 else axis), attributes.get("block_size") or 0


class QuantizeLinear(OpRun):
    """Quantize as the vocabulary has it; without saturation to a float format, a plain cast."""

    op_domain = ""

    def _run(self, *inputs: Any, **attributes: Any) -> tuple[np.ndarray]:
        x, scale, zero_point = (*inputs, None)[:3]
        dtype = (_named(attributes) or UINT8) if zero_point is None else zero_point.dtype
        axis, block = _grid(x, attributes)
        saturates = attributes.get("saturate", 1) not in (0, False)
        return (quantized(x, scale, zero_point, dtype, axis, block, saturates=saturates),)


class DequantizeLinear(OpRun):
    """Dequantize as the vocabulary has it."""

    op_domain = ""

    def _run(self, *inputs: Any, **attributes: Any) -> tuple[np.ndarray]:
        codes, scale, zero_point = (*inputs, None)[:3]
        dtype = _named(attributes) or scale.dtype
        return (dequantized(codes, scale, zero_point, dtype, *_grid(codes, attributes)),)


class DynamicQuantizeLinear(OpRun):
    """The reference's own rounds the zero point after it has saturated it."""

    op_domain = ""

    def _run(self, x: np.ndarray, **attributes: Any) -> tuple[np.ndarray, ...]:
        return dynamically_quantized(x)


class OwnQuantizeLinear(QuantizeLinear):
    """The same under ORT's own domain."""

    op_domain = MICROSOFT


class OwnDequantizeLinear(DequantizeLinear):
    """The same under ORT's own domain."""

    op_domain = MICROSOFT


OwnQuantizeLinear.__name__ = "QuantizeLinear"
OwnDequantizeLinear.__name__ = "DequantizeLinear"
QUANTIZATION: list[type[OpRun]] = [
    QuantizeLinear,
    DequantizeLinear,
    DynamicQuantizeLinear,
    OwnQuantizeLinear,
    OwnDequantizeLinear,
]
"""What the reference runs in place of its own."""
