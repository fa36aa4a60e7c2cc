"""Spell an op of the vocabulary as ATen calls: to write it into a program, or to run it at once.

An emission rule takes the op and an `Emitter` and returns the op's result, or a list of results if
the op has several. Whether a result is an fx node or a real tensor is the emitter's affair.
"""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import numpy as np
import torch

from ..errors import InvalidGraph
from .fx_emit_quant import QUANT_RULES
from .fx_emit_shape import SHAPE_RULES
from .fx_emit_tokens import TOKEN_RULES
from .fx_rules_pointwise import COMPARISONS
from .ops import (
    Affine,
    Attention,
    BatchNorm,
    Conv,
    Elementwise,
    Linear,
    MatMul,
    Norm,
    Reduce,
    Softmax,
)
from .value import Op, Value

aten = torch.ops.aten
OpT = TypeVar("OpT", bound=Op)


class Emitter(Protocol):
    """Where the calls of an emission rule go."""

    def call(self, target: Any, *args: Any, **kwargs: Any) -> Any:
        """Call an operator."""
        ...

    def arg(self, index: int) -> Any:
        """Operand `index` of the op; None where absent."""
        ...

    def constant(self, array: np.ndarray, hint: str) -> Any:
        """A constant that the vocabulary does not have."""
        ...

    def literal(self, index: int) -> Any:
        """Operand `index` as a Python number, if it is a known scalar; None otherwise."""
        ...


def emit(op: Op, e: Emitter) -> list[Any]:
    """The results of `op`, written through `e`."""
    rule = RULES.get(type(op))
    if rule is None:
        raise InvalidGraph(f"expected an op that ATen can spell, got {op.kind} {op.name!r}")
    results = rule(op, e)
    return results if isinstance(results, list) else [results]


def _linear(op: Linear, e: Emitter) -> Any:
    x, weight, bias = e.arg(0), e.arg(1), e.arg(2)
    if op.layout == "oi":
        return e.call(aten.linear.default, x, weight, bias)
    if op.x.rank != 2:
        return e.call(aten.linear.default, x, e.call(aten.permute.default, weight, [1, 0]), bias)
    if bias is None:
        return e.call(aten.mm.default, x, weight)
    return e.call(aten.addmm.default, bias, x, weight)


def _conv(op: Conv, e: Emitter) -> Any:
    x, weight, bias = e.arg(0), e.arg(1), e.arg(2)
    stride, dilation = list(op.stride), list(op.dilation)
    if op.padding is None:
        target = getattr(aten, f"conv{len(stride)}d").padding
        return e.call(target, x, weight, bias, stride, "same", dilation, op.groups)
    even = [min(pair) for pair in op.padding]
    uneven = any(begin != end for begin, end in op.padding)
    if uneven and not op.transposed:
        pairs = [extent for pair in reversed(op.padding) for extent in pair]
        x, even = e.call(aten.constant_pad_nd.default, x, pairs, 0.0), [0] * len(even)
    extra = list(op.output_padding) or [0] * len(even)
    result = e.call(
        *(aten.convolution.default, x, weight, bias),
        *(stride, even, dilation, op.transposed, extra, op.groups),
    )
    if uneven and op.transposed:  # what the even padding left too much is cut off
        for axis, (begin, end) in enumerate(op.padding, start=2):
            kept = (begin - min(begin, end), -max(end - begin, 0) or 2**63 - 1)
            result = e.call(aten.slice.Tensor, result, axis, *kept)
    return result


def _norm(op: Norm, e: Emitter) -> Any:
    if op.norm == "crms":
        return _scaled(_crms(op, e), e)
    extents = _normalized(op)
    if op.norm == "layer":
        return e.call(aten.layer_norm.default, e.arg(0), extents, e.arg(1), e.arg(2), op.eps)
    result = e.call(aten.rms_norm.default, e.arg(0), extents, e.arg(1), op.eps)
    return result if e.arg(2) is None else e.call(aten.add.Tensor, result, e.arg(2))


def _normalized(op: Norm) -> list[int]:
    """The extents that are normalised together: those of scale or shift, if x has symbolic ones."""
    for value in (op.x, op.scale, op.shift):
        extents = list(value.shape or ())[-op.ndim :] if value is not None else []
        if len(extents) == op.ndim and all(isinstance(extent, int) for extent in extents):
            return [int(extent) for extent in extents]
    raise InvalidGraph(f"expected {op.name!r} to normalise over known extents, got {op.x.shape}")


def _crms(op: Norm, e: Emitter) -> Any:
    """x/√((Σx² + (Σx)²)/(len + 1) + ε) over the last axis."""
    x, (length,) = e.arg(0), _normalized(op)
    squares = e.call(aten.sum.dim_IntList, e.call(aten.mul.Tensor, x, x), [-1], True)
    total = e.call(aten.sum.dim_IntList, x, [-1], True)
    both = e.call(aten.add.Tensor, squares, e.call(aten.mul.Tensor, total, total))
    mean = e.call(aten.div.Tensor, both, float(length + 1))
    inverse = e.call(aten.rsqrt.default, e.call(aten.add.Tensor, mean, op.eps))
    return e.call(aten.mul.Tensor, x, inverse)


def _scaled(x: Any, e: Emitter) -> Any:
    """Operand 1 times x, plus operand 2, where present."""
    for index, target in ((1, aten.mul.Tensor), (2, aten.add.Tensor)):
        literal = e.literal(index)
        factor = e.arg(index) if literal is None else literal
        x = x if factor is None else e.call(target, x, factor)
    return x


def _batch_norm(op: BatchNorm, e: Emitter) -> Any:
    operands = [e.arg(index) for index in range(5)]
    return e.call(aten.batch_norm.default, *operands, False, 0.0, op.eps, True)


_FUNCTIONS: dict[str, Any] = {
    "where": aten.where.self,
    "not": aten.logical_not.default,
    "and": aten.logical_and.default,
    "or": aten.logical_or.default,
    **{fn: getattr(aten, name).Tensor for name, fn in COMPARISONS.items()},
    "gelu_tanh": aten.gelu.default,
    "pow": aten.pow.Tensor_Tensor,
    **{fn: getattr(aten, fn).Tensor for fn in ("add", "sub", "mul", "div")},
}
_WITH_NUMBER_LAST: dict[str, Any] = {
    "pow": aten.pow.Tensor_Scalar,
    "where": aten.where.ScalarOther,
    **{fn: getattr(aten, name).Scalar for name, fn in COMPARISONS.items()},
    **{fn: getattr(aten, fn).Tensor for fn in ("add", "sub", "mul", "div")},
}


def _elementwise(op: Elementwise, e: Emitter) -> Any:
    arity = 3 if op.fn == "where" else len(op.inputs)
    numbers = [e.literal(index) for index in range(arity)]
    last = arity - 1
    if op.fn in ("add", "mul") and numbers[0] is not None and numbers[1] is None:
        return e.call(_FUNCTIONS[op.fn], e.arg(1), numbers[0])
    if op.fn == "sub" and numbers[0] is not None and numbers[1] is None:
        return e.call(aten.rsub.Scalar, e.arg(1), numbers[0])
    if op.fn == "pow" and numbers[0] is not None and numbers[1] is None:
        return e.call(aten.pow.Scalar, numbers[0], e.arg(1))
    if op.fn in _WITH_NUMBER_LAST and numbers[last] is not None and numbers[last - 1] is None:
        operands = [e.arg(index) for index in range(last)]
        return e.call(_WITH_NUMBER_LAST[op.fn], *operands, numbers[last])
    target = _FUNCTIONS.get(op.fn)
    extra = {"approximate": "tanh"} if op.fn == "gelu_tanh" else {}
    operands = [e.arg(index) for index in range(arity)]
    return e.call(target or getattr(aten, op.fn).default, *operands, **extra)


def _matmul(op: MatMul, e: Emitter) -> Any:
    return e.call(aten.matmul.default, e.arg(0), e.arg(1))


def _softmax(op: Softmax, e: Emitter) -> Any:
    return e.call(aten.softmax.int, e.arg(0), op.axis)


def _attention(op: Attention, e: Emitter) -> Any:
    kwargs: dict[str, Any] = {} if op.scale is None else {"scale": op.scale}
    if _heads(op.operand(0)) != _heads(op.operand(1)):
        kwargs["enable_gqa"] = True
    operands = [e.arg(index) for index in range(4)]
    return e.call(aten.scaled_dot_product_attention.default, *operands, 0.0, op.causal, **kwargs)


def _heads(value: Value | None) -> Any:
    return value.shape[1] if value is not None and value.shape else None


def _reduce(op: Reduce, e: Emitter) -> Any:
    x, axes, keep = e.arg(0), list(op.axes), op.keepdims
    if op.fn in ("var", "var_unbiased"):
        correction = int(op.fn == "var_unbiased")
        return e.call(aten.var.correction, x, axes, correction=correction, keepdim=keep)
    if op.fn == "prod":  # ATen takes one axis at a time
        for axis in reversed(axes):
            x = e.call(aten.prod.dim_int, x, axis, keep)
        return x
    names = {"mean": aten.mean.dim, "sum": aten.sum.dim_IntList}
    names |= {"max": aten.amax.default, "min": aten.amin.default}
    return e.call(names[op.fn], x, axes, keep)


def _affine(op: Affine, e: Emitter) -> Any:
    return _scaled(e.arg(0), e)


RULES: dict[type[Op], Callable[[Any, Emitter], Any]] = {
    Affine: _affine,
    Attention: _attention,
    BatchNorm: _batch_norm,
    Conv: _conv,
    Elementwise: _elementwise,
    Linear: _linear,
    MatMul: _matmul,
    Norm: _norm,
    Reduce: _reduce,
    Softmax: _softmax,
    **QUANT_RULES,
    **SHAPE_RULES,
    **TOKEN_RULES,
}
"""How each kind of op is written."""
