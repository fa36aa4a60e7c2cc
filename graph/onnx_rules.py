"""How each ONNX operator that computes reads in the vocabulary.

ONNX lists operands in the vocabulary's order everywhere, so a rule gives the attributes alone.
Movement is in onnx_rules_shape.py.
"""

from .onnx_node import MICROSOFT, NodeView, normal_axes, rule
from .ops import (
    Attention,
    BatchNorm,
    Conv,
    Elementwise,
    Identity,
    Linear,
    MatMul,
    Norm,
    Reduce,
    Softmax,
)
from .quant_ops import is_dequantized
from .value import Op, Shape

POINTWISE = {
    "Add": "add",
    "Sub": "sub",
    "Mul": "mul",
    "Div": "div",
    "Neg": "neg",
    "Pow": "pow",
    "Sqrt": "sqrt",
    "Reciprocal": "reciprocal",
    "Exp": "exp",
    "Log": "log",
    "Erf": "erf",
    "Tanh": "tanh",
    "Sigmoid": "sigmoid",
    "Relu": "relu",
    "Abs": "abs",
    "Sin": "sin",
    "Cos": "cos",
    "Where": "where",
    "Equal": "equal",
    "Less": "less",
    "LessOrEqual": "less_equal",
    "Greater": "greater",
    "GreaterOrEqual": "greater_equal",
    "Not": "not",
    "IsNaN": "isnan",
    "And": "and",
    "Or": "or",
}
"""ONNX operators that are a pointwise function without conditions."""


@rule(*POINTWISE)
def _pointwise(view: NodeView) -> Op | None:
    return Elementwise(fn=POINTWISE[view.node.op_type])


@rule("Max", "Min")
def _extremum(view: NodeView) -> Op | None:
    if len(view.inputs) != 2:
        return None
    return Elementwise(fn="maximum" if view.node.op_type == "Max" else "minimum")


@rule("Gelu")
def _gelu(view: NodeView) -> Op | None:
    exact = view.attr_string("approximate", "none") == "none"
    return Elementwise(fn="gelu" if exact else "gelu_tanh")


@rule("Gelu", domain=MICROSOFT)
def _microsoft_gelu(view: NodeView) -> Op | None:
    return Elementwise(fn="gelu")


@rule("FastGelu", domain=MICROSOFT)
def _fast_gelu(view: NodeView) -> Op | None:
    return None if view.given(1) else Elementwise(fn="gelu_tanh")


@rule("Swish")
def _swish(view: NodeView) -> Op | None:
    return Elementwise(fn="silu") if view.attr_float("alpha", 1.0) == 1.0 else None


@rule("QuickGelu", domain=MICROSOFT)
def _quick_gelu(view: NodeView) -> Op | None:
    return Elementwise(fn="silu") if view.attr_float("alpha", 1.702) == 1.0 else None


@rule("MatMul")
def _matmul(view: NodeView) -> Op | None:
    weight = view.operand(1)
    if weight is not None and weight.rank == 2 and (view.rank(0) or 0) >= 2:
        if is_dequantized(weight):
            return Linear(layout="io")
    return MatMul()


@rule("Gemm")
def _gemm(view: NodeView) -> Op | None:
    plain = view.attr_float("alpha", 1.0) == view.attr_float("beta", 1.0) == 1.0
    if not plain or view.attr_int("transA", 0):
        return None
    layout = "oi" if view.attr_int("transB", 0) else "io"
    weight, bias = view.operand(1), view.operand(2)
    if bias is not None:
        # C may be a scalar, a row of one number or a matrix: no bias per output feature.
        if bias.rank != 1 or weight is None or weight.rank != 2 or weight.shape is None:
            return None
        if bias.shape != (weight.shape[0 if layout == "oi" else 1],):
            return None
    return Linear(layout=layout)


@rule("Conv")
def _conv(view: NodeView) -> Op | None:
    return _convolution(view, transposed=False)


@rule("ConvTranspose")
def _conv_transpose(view: NodeView) -> Op | None:
    return None if view.has("output_shape") else _convolution(view, transposed=True)


def _convolution(view: NodeView, *, transposed: bool) -> Op | None:
    rank, auto_pad = view.rank(1), view.attr_string("auto_pad", "NOTSET")
    if rank is None or auto_pad == "SAME_LOWER" or (transposed and auto_pad == "SAME_UPPER"):
        return None
    spatial = rank - 2
    pads = view.attr_ints("pads") or (0,) * (2 * spatial)
    if auto_pad == "VALID":
        pads = (0,) * (2 * spatial)
    padding = tuple(zip(pads[:spatial], pads[spatial:], strict=True))
    return Conv(
        stride=view.attr_ints("strides") or (1,) * spatial,
        padding=None if auto_pad == "SAME_UPPER" else padding,
        dilation=view.attr_ints("dilations") or (1,) * spatial,
        groups=view.attr_int("group", 1),
        transposed=transposed,
        output_padding=view.attr_ints("output_padding") or (0,) * spatial if transposed else (),
    )


@rule("LayerNormalization")
def _layer_norm(view: NodeView) -> Op | None:
    return _norm(view, "layer")


@rule("RMSNormalization", "SimplifiedLayerNormalization")
@rule("SimplifiedLayerNormalization", domain=MICROSOFT)
def _rms_norm(view: NodeView) -> Op | None:
    return _norm(view, "rms")


def _norm(view: NodeView, kind: str) -> Op | None:
    x = view.operand(0)
    axis = view.axis(-1, view.rank(0))
    if x is None or x.shape is None or axis is None or not view.only_first_output():
        return None
    # ONNX lets the scale broadcast; the vocabulary wants it to have the normalised shape.
    if any(v is not None and not _spans(v.shape, x.shape[axis:]) for v in view.inputs[1:]):
        return None
    return Norm(norm=kind, ndim=len(x.shape) - axis, eps=view.attr_float("epsilon", 1e-5))


def _spans(shape: Shape | None, normalised: Shape) -> bool:
    return shape is not None and tuple(shape) == tuple(normalised)


@rule("BatchNormalization")
def _batch_norm(view: NodeView) -> Op | None:
    if view.attr_int("training_mode", 0) or not view.only_first_output():
        return None
    return BatchNorm(eps=view.attr_float("epsilon", 1e-5))


@rule("Softmax")
def _softmax(view: NodeView) -> Op | None:
    axis = view.axis(-1, view.rank(0))
    return None if axis is None else Softmax(axis=axis)


@rule("Attention")
def _attention(view: NodeView) -> Op | None:
    window = view.attr_int("left_window_size", -1), view.attr_int("right_window_size", -1)
    if view.rank(0) != 4 or any(view.given(index) for index in range(4, len(view.inputs))):
        return None
    if view.attr_float("softcap", 0.0) or window != (-1, -1) or not view.only_first_output():
        return None
    scale = view.attr_float("scale", 0.0) if view.has("scale") else None
    return Attention(scale=scale, causal=bool(view.attr_int("is_causal", 0)))


REDUCTIONS = {
    "ReduceMean": "mean",
    "ReduceSum": "sum",
    "ReduceMax": "max",
    "ReduceMin": "min",
    "ReduceProd": "prod",
}


@rule(*REDUCTIONS)
def _reduce(view: NodeView) -> Op | None:
    rank = view.rank(0)
    if rank is None or (view.given(1) and view.constant(1) is None):
        return None
    axes = view.constant_ints(1) if view.given(1) else view.attr_ints("axes")
    if not axes and view.attr_int("noop_with_empty_axes", 0):
        return Identity()
    return Reduce(
        fn=REDUCTIONS[view.node.op_type],
        axes=normal_axes(axes, rank) if axes else tuple(range(rank)),
        keepdims=bool(view.attr_int("keepdims", 1)),
    )
