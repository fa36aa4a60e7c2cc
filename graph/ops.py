"""The lifted vocabulary: what passes can see of a program, whichever IR spelled it.

Operands are listed in the order of `Op.inputs`; one in brackets may be absent. Further inputs that
an IR needs to spell the op (ONNX axes) may follow; they go when the op is written anew.
Axes count from the front. A node outside the vocabulary is `Opaque`.
"""

from dataclasses import dataclass

from .movement_ops import (
    MOVEMENT,
    Cast,
    Concat,
    Expand,
    Gather,
    Identity,
    Ref,
    Reshape,
    Slice,
    Split,
    Squeeze,
    Transpose,
    Unbind,
    Unsqueeze,
)
from .token_ops import Fill, Put, Range, Scatter, Sort, Take, TopK
from .value import Op, Value

__all__ = [
    "MOVEMENT",
    "Affine",
    "Attention",
    "BatchNorm",
    "Cast",
    "Concat",
    "Conv",
    "Elementwise",
    "Expand",
    "Fill",
    "Gather",
    "Identity",
    "Linear",
    "MatMul",
    "Norm",
    "Opaque",
    "Put",
    "Range",
    "Reduce",
    "Ref",
    "Reshape",
    "Scatter",
    "ShapeOf",
    "Slice",
    "Softmax",
    "Sort",
    "Split",
    "Squeeze",
    "Take",
    "TopK",
    "Transpose",
    "Unbind",
    "Unsqueeze",
]


@dataclass(eq=False, kw_only=True)
class Opaque(Op):
    """A node that passes go round, never through; copied as it is.

    Attributes:
        target: the operator's name in its IR, e.g. "aten.cumsum.default" or "TopK".
        impure: the op has an effect besides its results (an assertion, a random number).
    """

    target: str = ""
    impure: bool = False

    @property
    def kind(self) -> str:
        return self.target

    @property
    def effectful(self) -> bool:
        return self.impure


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


@dataclass(eq=False, kw_only=True)
class Elementwise(Op):
    """A pointwise function with numpy broadcasting.

    Attributes:
        fn: add sub mul div neg pow sqrt rsqrt reciprocal exp log erf tanh sigmoid relu gelu
            gelu_tanh silu abs sin cos where equal less less_equal greater greater_equal not isnan
            and or maximum minimum.
            "where" takes (condition, if_true, if_false).
    """

    fn: str = ""

    @property
    def kind(self) -> str:
        return self.fn


@dataclass(eq=False, kw_only=True)
class MatMul(Op):
    """Batched matrix product with numpy broadcasting. Inputs: a [..., M, K], b [..., K, N]."""


@dataclass(eq=False, kw_only=True)
class Softmax(Op):
    """Softmax of x over one axis.

    Attributes:
        axis: the axis that sums to 1.
    """

    axis: int = -1


@dataclass(eq=False, kw_only=True)
class Attention(Op):
    """softmax(scale·q·kᵀ + mask)·v. Inputs: q [B,H,S,D], k [B,G,T,D], v [B,G,T,E], [mask].

    Attributes:
        scale: factor on the scores; None for 1/√D.
        causal: mask out keys after the query, aligned top-left.
    """

    scale: float | None = None
    causal: bool = False


@dataclass(eq=False, kw_only=True)
class Reduce(Op):
    """A reduction of x.

    Attributes:
        fn: "mean", "sum", "max", "min", "prod" or "var" (biased), "var_unbiased".
        axes: the axes reduced.
        keepdims: whether they stay with extent 1.
    """

    fn: str = "mean"
    axes: tuple[int, ...] = ()
    keepdims: bool = True


@dataclass(eq=False, kw_only=True)
class ShapeOf(Op):
    """Extents of x as an integer tensor; reads no element.

    Attributes:
        axes: which extents, in order.
        scalar: the result is one integer (torch's sym_size), not a 1-D tensor.
    """

    axes: tuple[int, ...] = ()
    scalar: bool = False
