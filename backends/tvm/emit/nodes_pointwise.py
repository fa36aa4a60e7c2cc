"""ONNX operators outside the vocabulary that work element by element, reduce, norm or pool."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .activations import TRIGONOMETRIC, activated
from .expressions import pointwise
from .norms import group_normed
from .opaque import Node, node
from .pointwise import applied, connected
from .pooling import pooled
from .reductions import normalised, reduced

if TYPE_CHECKING:
    from tvm import relax

    from .emitter import Emitter

SIMPLE: dict[str, tuple[str, tuple[tuple[str, float], ...]]] = {
    "LeakyRelu": ("leaky_relu", (("alpha", 0.01),)),
    "Elu": ("elu", (("alpha", 1.0),)),
    "Celu": ("celu", (("alpha", 1.0),)),
    "Selu": ("selu", (("alpha", 1.67326319217681884765625), ("gamma", 1.05070102214813232421875))),
    "HardSigmoid": ("hardsigmoid", (("alpha", 0.2), ("beta", 0.5))),
    "HardSwish": ("hardswish", ()),
    "Softplus": ("softplus", (("", 1.0), ("", float("inf")))),
    "Softsign": ("softsign", ()),
    "Mish": ("mish", ()),
    "Swish": ("swish", (("alpha", 1.0),)),
    "com.microsoft::QuickGelu": ("swish", (("alpha", 1.702),)),
    "ThresholdedRelu": ("threshold", (("alpha", 1.0),)),
    **{
        name.capitalize(): (name, ()) for name in ("floor", "ceil", "round", "sign", *TRIGONOMETRIC)
    },
}
"""ONNX operators of one operand: our function, and its parameters as attributes with defaults."""


@node(*SIMPLE)
def _simple(emitter: "Emitter", node: Node) -> "relax.Expr":
    name, parameters = SIMPLE[node.op.kind]
    numbers = [node.attr_float(key, default) if key else default for key, default in parameters]
    return activated(emitter, name, node.x(), *numbers)


@node("Clip")
def _clip(emitter: "Emitter", node: Node) -> "relax.Expr":
    x, dtype = node.x(), node.dtype
    for index, name, fn in ((1, "min", "maximum"), (2, "max", "minimum")):
        if node.given(index):
            x = applied(emitter, fn, dtype, x, node.x(index))
        elif node.has(name):
            bound = emitter.number(node.attr_float(name, 0.0), dtype)
            x = applied(emitter, fn, dtype, x, bound)
    return x


VARIADIC = {"Max": "maximum", "Min": "minimum", "Sum": "add", "Mean": "add"}


@node(*VARIADIC)
def _variadic(emitter: "Emitter", node: Node) -> "relax.Expr":
    first, *rest = node.operands
    for other in rest:
        first = applied(emitter, VARIADIC[node.op.kind], node.dtype, first, other)
    if node.op.kind != "Mean":
        return first
    count = emitter.number(len(node.operands), node.dtype)
    return applied(emitter, "div", node.dtype, first, count)


@node("PRelu")
def _prelu(emitter: "Emitter", node: Node) -> "relax.Expr":
    from tvm import tirx

    def element(x: Any, slope: Any) -> Any:
        return tirx.Select(x < tirx.const(0, node.dtype), x * slope, x)

    return pointwise(emitter, "prelu", element, *node.operands)


@node("Mod")
def _mod(emitter: "Emitter", node: Node) -> "relax.Expr":
    """Of integers with the sign of the divisor, with `fmod` that of the dividend."""
    from tvm import tirx

    if np.dtype(node.dtype).kind in "iu":
        take = tirx.truncmod if node.attr_int("fmod", 0) else tirx.floormod
        return pointwise(emitter, "mod", take, *node.operands)
    return pointwise(emitter, "mod", lambda x, y: x - tirx.trunc(x / y) * y, *node.operands)


@node("Xor")
def _xor(emitter: "Emitter", node: Node) -> "relax.Expr":
    return connected(emitter, "xor", *node.operands)


@node(
    "IsInf",
    when=lambda node: (
        node.attr_int("detect_negative", 1) == node.attr_int("detect_positive", 1) == 1
    ),
)
def _isinf(emitter: "Emitter", node: Node) -> "relax.Expr":
    from tvm import relax

    return emitter.emit(relax.op.isinf(node.x()))


@node("LogSoftmax")
def _log_softmax(emitter: "Emitter", node: Node) -> "relax.Expr":
    return normalised(emitter, node.x(), node.axis(-1), node.dtype, "log_softmax")


@node("ReduceL1", "ReduceL2", "ReduceSumSquare")
def _norm(emitter: "Emitter", node: Node) -> "relax.Expr":
    x, dtype = node.x(), node.dtype
    if node.op.kind == "ReduceL1":
        x = applied(emitter, "abs", dtype, x)
    else:
        x = applied(emitter, "mul", dtype, x, x)
    axes, rank = _axes(node), node.rank()
    keepdims = bool(node.attr_int("keepdims", 1))
    normal = tuple(sorted(int(axis) % rank for axis in axes)) or tuple(range(rank))
    total = reduced(emitter, "sum", x, normal, keepdims=keepdims, dtype=dtype)
    return applied(emitter, "sqrt", dtype, total) if node.op.kind == "ReduceL2" else total


def _axes(node: Node) -> Sequence[Any]:
    return node.extents(1) if node.given(1) else node.attr_ints("axes") or ()


@node("InstanceNormalization")
def _instance_norm(emitter: "Emitter", node: Node) -> "relax.Expr":
    x, scale, shift = node.operands
    channels = emitter.extents(x)[1]
    if not isinstance(channels, int):
        raise ValueError("expected a known number of channels")
    return group_normed(emitter, x, channels, node.attr_float("epsilon", 1e-5), scale, shift)


@node(
    "GroupNormalization",
    when=lambda node: node.op.require(1).shape == node.op.require(0).shape[1:2],
)
def _group_norm(emitter: "Emitter", node: Node) -> "relax.Expr":
    """As opset 21 has it: a gain and a shift for each channel."""
    x, scale, shift = node.operands
    groups = node.attr_int("num_groups", 1)
    return group_normed(emitter, x, groups, node.attr_float("epsilon", 1e-5), scale, shift)


def _is_plain(node: Node) -> bool:
    """Padding that is spelled out, and no second result."""
    read = [value for value in node.op.outputs[1:] if value.uses]
    return node.attr_string("auto_pad", "NOTSET") in ("NOTSET", "VALID") and not read


@node("MaxPool", "AveragePool", when=_is_plain)
def _pool(emitter: "Emitter", node: Node) -> "relax.Expr":
    kernel = node.attr_ints("kernel_shape") or ()
    count = len(kernel)
    pads = node.attr_ints("pads") or (0,) * (2 * count)
    return pooled(
        emitter,
        node.x(),
        "max" if node.op.kind == "MaxPool" else "avg",
        kernel,
        node.attr_ints("strides") or (1,) * count,
        list(zip(pads[:count], pads[count:], strict=True)),
        dilation=node.attr_ints("dilations") or (),
        ceil=bool(node.attr_int("ceil_mode", 0)),
        counts_padding=bool(node.attr_int("count_include_pad", 0)),
    )


@node("GlobalAveragePool", "GlobalMaxPool")
def _global_pool(emitter: "Emitter", node: Node) -> "relax.Expr":
    fn = "mean" if node.op.kind == "GlobalAveragePool" else "max"
    axes = tuple(range(2, node.rank()))
    return reduced(emitter, fn, node.x(), axes, keepdims=True, dtype=node.dtype)
