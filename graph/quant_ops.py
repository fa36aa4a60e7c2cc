"""The part of the vocabulary that changes number formats: quantize, dequantize."""

from dataclasses import dataclass

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
    zero point has that dtype too. Without one it is 0.

    Attributes:
        axis: None for one scale of shape (); else the axis along which scales differ.
        block: 0 for one scale per position of `axis` (scale is a vector); else each scale serves
            `block` neighbours along `axis`, and scale has the shape of x but for ⌈extent/block⌉ on
            `axis` (ONNX QuantizeLinear, opset 21).
    """

    axis: int | None = None
    block: int = 0


@dataclass(eq=False, kw_only=True)
class Dequantize(_Scaled):
    """y = (codes − zero_point)·scale, in the scale's dtype. Inputs: codes, scale, [zero_point].

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
    (ONNX DynamicQuantizeLinear).
    """

    @property
    def x(self) -> Value:
        return self.require(0)
