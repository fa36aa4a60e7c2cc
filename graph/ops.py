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
from .quant_ops import Dequantize, DynamicQuantize, Quantize
from .token_ops import Fill, Put, Range, Scatter, Sort, Take, TopK, Triangle
from .value import Op
from .weighted_ops import Affine, BatchNorm, Conv, Linear, Norm

__all__ = [
    "MOVEMENT",
    "Affine",
    "Attention",
    "BatchNorm",
    "Cast",
    "Concat",
    "Conv",
    "Dequantize",
    "DynamicQuantize",
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
    "Quantize",
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
    "Triangle",
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
