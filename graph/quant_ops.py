"""The part of the vocabulary that changes number formats: quantize, dequantize."""

from dataclasses import dataclass

from .movement_ops import Identity, Reshape, Transpose
from .value import Op, Value


class _Scaled(Op):
    """An op with a scale and a zero point. Inputs: x, scale, [zero_point]."""

    @property
    def x(self) -> Value:
        return self.require(0)

    @property
    def scale(self) -> Value:
        return self.require(1)

    @property
    def zero_point(self) -> Value | None:
        return self.operand(2)


@dataclass(eq=False, kw_only=True)
class Quantize(_Scaled):
    """codes = saturate(round(x/scale) + zero_point), half to even. Inputs: x, scale, [zero_point].

    The format of the codes is the dtype of the result: int8, uint8, int4, float8_e4m3fn, ...; a
    zero point has that dtype too. Without one it is 0. To a float format x/scale is rounded once,
    and saturates as well.

    Attributes:
        axis: None for one scale, of shape () or (1,); else the axis along which scales differ.
        block: 0 for one scale per position of `axis` (scale is a vector); else each scale serves
            `block` neighbours along `axis`, and scale has the shape of x but for ⌈extent/block⌉ on
            `axis` (ONNX QuantizeLinear, opset 21).
    """

    axis: int | None = None
    block: int = 0


@dataclass(eq=False, kw_only=True)
class Dequantize(_Scaled):
    """y = (codes − zero_point)·scale. Inputs: codes, scale, [zero_point].

    y has the scale's dtype, or another where the IR says so.

    Attributes:
        axis, block: as in `Quantize`.
    """

    axis: int | None = None
    block: int = 0


@dataclass(eq=False, kw_only=True)
class DynamicQuantize(Op):
    """uint8 codes of x at a scale found at run time. Inputs: x float32.

    Results: codes uint8 of x's shape, scale float32 (), zero_point uint8 (), with
    scale = (max(x, 0) − min(x, 0))/255 and zero_point = saturate(round(−min(x, 0)/scale))
    (ONNX DynamicQuantizeLinear; torch gives scale and zero point shape (1,) and wider types).
    """

    @property
    def x(self) -> Value:
        return self.require(0)


def is_stored(value: Value) -> bool:
    """Whether a value is a weight: a constant, or one that is stored in a quantized format."""
    return value.constant is not None or is_dequantized(value)


def is_dequantized(value: Value) -> bool:
    """Whether a value is dequantized from stored values, and turned or reshaped at most."""
    while isinstance(value.producer, Transpose | Reshape | Identity):
        value = value.producer.require(0)
    op = value.producer
    return isinstance(op, Dequantize) and all(v is None or is_stored(v) for v in op.inputs)
