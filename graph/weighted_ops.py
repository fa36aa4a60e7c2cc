"""The part of the vocabulary that holds parameters: products, convolutions, norms, affine maps."""

from dataclasses import dataclass

from .value import Op, Value


class Weighted(Op):
    """An op with a weight. Inputs: x, weight, [bias]."""

    @property
    def x(self) -> Value:
        return self.require(0)

    @property
    def weight(self) -> Value:
        return self.require(1)

    @property
    def bias(self) -> Value | None:
        return self.operand(2)


class Scaled(Op):
    """An op with a gain. Inputs: x, [scale], [shift]."""

    @property
    def x(self) -> Value:
        return self.require(0)

    @property
    def scale(self) -> Value | None:
        return self.operand(1)

    @property
    def shift(self) -> Value | None:
        return self.operand(2)


@dataclass(eq=False, kw_only=True)
class Linear(Weighted):
    """y = x·Wᵀ + b over the last axis of x. Inputs: x [..., I], weight, [bias [O]].

    The weight is stored [O, I] for layout "oi" (torch), [I, O] for "io" (ONNX MatMul).
    """

    layout: str = "oi"


@dataclass(eq=False, kw_only=True)
class Conv(Weighted):
    """Convolution of x [N, C, *spatial]. Inputs: x, weight, [bias [O]].

    The weight is [O, C/groups, *kernel], or [C, O/groups, *kernel] when transposed.

    Attributes:
        stride, dilation: one extent per spatial axis.
        padding: (begin, end) zeros per spatial axis; None when the IR decides (auto_pad "same").
        groups: number of channel groups.
        transposed: whether this is a transposed convolution.
        output_padding: extra rows at the end of each spatial axis of a transposed convolution.
    """

    stride: tuple[int, ...] = ()
    padding: tuple[tuple[int, int], ...] | None = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    transposed: bool = False
    output_padding: tuple[int, ...] = ()


@dataclass(eq=False, kw_only=True)
class Norm(Scaled):
    """A normalisation over the last `ndim` axes of x. Inputs: x, [scale], [shift].

    "layer": (x − mean)/√(var + ε); "rms": x/√(mean x² + ε);
    "crms": x/√((Σx² + (Σx)²)/(len + 1) + ε), over one axis (arXiv:2305.14858).

    Attributes:
        norm: "layer", "rms" or "crms".
        ndim: how many trailing axes are normalised together; scale and shift have their shape.
        eps: ε.
    """

    norm: str = "layer"
    ndim: int = 1
    eps: float = 1e-5

    @property
    def kind(self) -> str:
        return {"layer": "LayerNorm", "rms": "RMSNorm", "crms": "CRMSNorm"}[self.norm]


@dataclass(eq=False, kw_only=True)
class BatchNorm(Op):
    """Inference-mode batch norm over axis 1. Inputs: x, [scale], [shift], mean, variance."""

    eps: float = 1e-5


@dataclass(eq=False, kw_only=True)
class Affine(Scaled):
    """y = scale⊙x + shift with constants that broadcast to x. Inputs: x, [scale], [shift]."""
