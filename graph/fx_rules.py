"""Lift rules for products, convolutions, normalisations, attention and reductions.

A rule takes a `Call` and returns the op with `Operand`s and constants as its inputs, or None when
this use of the operator is outside the vocabulary; the lift then makes it `Opaque`.
"""

from typing import Any

import torch

from .fx_call import Call, Operand, Rule, ints
from .fx_rules_pointwise import POINTWISE
from .fx_rules_quant import QUANTIZED
from .fx_rules_shape import MOVEMENT
from .fx_rules_tokens import TOKENS
from .ops import Attention, BatchNorm, Conv, Linear, MatMul, Norm, Reduce, Softmax
from .value import Op


def _linear(call: Call) -> Op | None:
    x, weight, bias = call.tensor("input"), call.tensor("weight"), call.tensor("bias")
    if x is None or weight is None or weight.rank != 2 or (bias is not None and bias.rank != 1):
        return None
    return Linear(inputs=_present(x, weight, bias))


def _addmm(call: Call) -> Op | None:
    bias, x, weight = call.tensor("self"), call.tensor("mat1"), call.tensor("mat2")
    if bias is None or x is None or weight is None or (call["beta"], call["alpha"]) != (1, 1):
        return None
    if bias.shape != weight.shape[1:]:
        return None
    return Linear(inputs=_present(x, weight, bias), layout="io")


def _matmul(call: Call) -> Op | None:
    a, b = call.tensor("self"), call.tensor("other") or call.tensor("mat2")
    if a is None or b is None or a.rank < 2 or b.rank < 2:
        return None
    return MatMul(inputs=_present(a, b))


def _conv(call: Call) -> Op | None:
    x, weight, bias = call.tensor("input"), call.tensor("weight"), call.tensor("bias")
    transposed = call.get("transposed", "conv_transpose" in str(call.node.target))
    if x is None or weight is None or x.rank != weight.rank or type(call["groups"]) is not int:
        return None
    count = weight.rank - 2
    stride, dilation = _spatial(call["stride"], count), _spatial(call["dilation"], count)
    output_padding = _spatial(call.get("output_padding", [0]), count)
    found = call["padding"]
    padding = _spatial([0] if found == "valid" else found, count)
    if stride is None or dilation is None or output_padding is None:
        return None
    if padding is None and found != "same":
        return None
    return Conv(
        inputs=_present(x, weight, bias),
        stride=stride,
        padding=None if padding is None else tuple((p, p) for p in padding),
        dilation=dilation,
        groups=call["groups"],
        transposed=transposed,
        output_padding=output_padding if transposed else (),
    )


def _spatial(found: Any, count: int) -> tuple[int, ...] | None:
    """A per-axis argument; ATen lets one entry stand for all axes."""
    extents = ints([found] if isinstance(found, int) else found)
    return extents * count if extents is not None and len(extents) == 1 else extents


def _layer_norm(call: Call) -> Op | None:
    normalized, x = ints(call["normalized_shape"]), call.tensor("input")
    if normalized is None or x is None or not _single(call):
        return None
    inputs = _present(x, call.tensor("weight"), call.tensor("bias"))
    return Norm(inputs=inputs, norm="layer", ndim=len(normalized), eps=float(call["eps"]))


def _rms_norm(call: Call) -> Op | None:
    normalized, x = ints(call["normalized_shape"]), call.tensor("input")
    if normalized is None or x is None or not _single(call):
        return None
    eps = call["eps"]
    if eps is None:
        eps = torch.finfo(x.node.meta["val"].dtype).eps
    inputs = _present(x, call.tensor("weight"))
    return Norm(inputs=inputs, norm="rms", ndim=len(normalized), eps=float(eps))


def _batch_norm(call: Call) -> Op | None:
    x, mean, var = (call.tensor(name) for name in ("input", "running_mean", "running_var"))
    if x is None or mean is None or var is None or call.get("training", False) or not _single(call):
        return None
    inputs: list[Any] = [x, call.tensor("weight"), call.tensor("bias"), mean, var]
    return BatchNorm(inputs=inputs, eps=float(call.get("eps", call.get("epsilon"))))


def _softmax(call: Call) -> Op | None:
    x = call.tensor("self")
    if x is None or call.get("half_to_float", False) or x.node.meta["val"].dtype != call.val.dtype:
        return None
    return Softmax(inputs=_present(x), axis=call.axis("dim", x.rank))


def _attention(call: Call) -> Op | None:
    q, k, v = (call.tensor(name) for name in ("query", "key", "value"))
    if q is None or k is None or v is None or call["dropout_p"] != 0:
        return None
    if not q.rank == k.rank == v.rank == 4 or not q.shape[1] == k.shape[1] == v.shape[1]:
        return None
    if call["scale"] is not None and type(call["scale"]) is not float:
        return None
    inputs = _present(q, k, v, call.tensor("attn_mask"))
    return Attention(inputs=inputs, scale=call["scale"], causal=bool(call["is_causal"]))


def _reduce(fn: str) -> Rule:
    def rule(call: Call) -> Op | None:
        x = call.tensor("self")
        if x is None or x.node.meta["val"].dtype != call.first.dtype:
            return None
        found = call.get("dim")
        axes = ints([found] if isinstance(found, int) else found or range(x.rank))
        name = _variance(call) if fn == "var" else fn
        if axes is None or not name:
            return None
        normal = tuple(sorted(axis % x.rank if x.rank else 0 for axis in axes))
        keepdims = bool(call.get("keepdim", False))
        return Reduce(inputs=_present(x), fn=name, axes=normal if x.rank else (), keepdims=keepdims)

    return rule


def _first_only(rule: Rule) -> Rule:
    """The rule for a call whose further results (where the extremum is) nobody reads."""
    return lambda call: rule(call) if _single(call) else None


def _variance(call: Call) -> str:
    correction = call.get("correction", int(call.get("unbiased", True)))
    return {0: "var", 1: "var_unbiased"}.get(1 if correction is None else correction, "")


def _present(*operands: Operand | None) -> list[Any]:
    """The operands without absent ones at the end."""
    found = list(operands)
    while found and found[-1] is None:
        found.pop()
    return found


def _single(call: Call) -> bool:
    """Whether the call has one result, or only its first one is used."""
    return not isinstance(call.val, list | tuple) or call.only_first_read


_CONVS = ("conv1d", "conv2d", "conv3d")

RULES: dict[str, Rule] = {
    **POINTWISE,
    **MOVEMENT,
    **QUANTIZED,
    **TOKENS,
    "linear.default": _linear,
    "addmm.default": _addmm,
    **{f"{name}.default": _matmul for name in ("mm", "bmm", "matmul")},
    **{f"{name}.{overload}": _conv for name in _CONVS for overload in ("default", "padding")},
    **{f"conv_transpose{spatial}d.input": _conv for spatial in (2, 3)},
    "conv_transpose1d.default": _conv,
    "convolution.default": _conv,
    "layer_norm.default": _layer_norm,
    "native_layer_norm.default": _layer_norm,
    "rms_norm.default": _rms_norm,
    "_fused_rms_norm.default": _rms_norm,
    "batch_norm.default": _batch_norm,
    "cudnn_batch_norm.default": _batch_norm,
    "native_batch_norm.default": _batch_norm,
    "_native_batch_norm_legit_no_training.default": _batch_norm,
    "_native_batch_norm_legit.default": _batch_norm,
    "softmax.int": _softmax,
    "_softmax.default": _softmax,
    "scaled_dot_product_attention.default": _attention,
    **{f"mean.{overload}": _reduce("mean") for overload in ("dim", "default")},
    **{f"sum.{overload}": _reduce("sum") for overload in ("dim_IntList", "default")},
    **{f"prod.{overload}": _reduce("prod") for overload in ("dim_int", "default")},
    "amax.default": _reduce("max"),
    "amin.default": _reduce("min"),
    **{f"var.{overload}": _reduce("var") for overload in ("correction", "dim", "default")},
    **{
        f"{fn}.{overload}": _first_only(_reduce(fn))
        for fn in ("max", "min")
        for overload in ("default", "dim")
    },
}
"""The rule of each ATen overload in the vocabulary, by its name without the "aten." prefix, and of
those of torch's quantized_decomposed by their full name."""
