"""Neutral op -> ONNX nodes: how each op that computes is written.

Norms and attention are in onnx_emit_norm.py, movement in onnx_emit_shape.py.
"""

from collections.abc import Callable, Sequence
from math import pi, sqrt
from typing import TypeVar

import numpy as np
import onnx_ir as ir

from .onnx_build import Builder, Operand, dtype_of
from .onnx_rules import POINTWISE
from .ops import Affine, BatchNorm, Conv, Elementwise, Linear, MatMul, Reduce, Softmax
from .value import Op

OpT = TypeVar("OpT", bound=Op)
Results = ir.Value | Sequence[ir.Value]
Emitter = Callable[[Builder, OpT, "list[Operand]"], Results]
EMITTERS: "dict[type[Op], Emitter[Op]]" = {}

SPELLING = {fn: op_type for op_type, fn in POINTWISE.items()} | {
    "maximum": "Max",
    "minimum": "Min",
}


def emits(kind: type[OpT]) -> "Callable[[Emitter[OpT]], Emitter[OpT]]":
    """Enter an emitter in the table."""

    def enter(function: "Emitter[OpT]") -> "Emitter[OpT]":
        EMITTERS[kind] = function  # type: ignore[assignment]
        return function

    return enter


def emit(build: Builder, op: Op, operands: "list[Operand]") -> list[ir.Value]:
    """Write an op anew; gives one ONNX value per result of the op."""
    emitter = EMITTERS.get(type(op))
    if emitter is None:
        raise TypeError(f"expected an op that ONNX can spell, got {op.kind} {op.name!r}")
    padded = operands + [None] * (5 - len(operands))
    results = emitter(build, op, padded)
    return [results] if isinstance(results, ir.Value) else list(results)


def needed(operand: Operand) -> ir.Value:
    """An operand that the vocabulary guarantees."""
    assert operand is not None, "the vocabulary guarantees this operand"
    return operand


@emits(Linear)
def _linear(build: Builder, op: Linear, operands: "list[Operand]") -> Results:
    x, weight, bias = operands[:3]
    if op.x.rank == 2 and op.weight.rank == 2:
        if bias is None and op.layout == "io":
            return build("MatMul", x, weight)
        return build("Gemm", x, weight, bias, transB=1 if op.layout == "oi" else None)
    if op.layout == "oi":
        weight = build.transposed(op.weight, needed(weight))
    product = build("MatMul", x, weight)
    return product if bias is None else build("Add", product, bias)


@emits(MatMul)
def _matmul(build: Builder, op: MatMul, operands: "list[Operand]") -> Results:
    return build("MatMul", *operands[:2])


@emits(Conv)
def _conv(build: Builder, op: Conv, operands: "list[Operand]") -> Results:
    pads = None if op.padding is None else [*zip(*op.padding, strict=True)]
    return build(
        "ConvTranspose" if op.transposed else "Conv",
        *operands[:3],
        strides=op.stride or None,
        dilations=op.dilation or None,
        group=op.groups,
        pads=[*pads[0], *pads[1]] if pads else None,
        auto_pad="SAME_UPPER" if op.padding is None else None,
        output_padding=op.output_padding if any(op.output_padding) else None,
    )


@emits(BatchNorm)
def _batch_norm(build: Builder, op: BatchNorm, operands: "list[Operand]") -> Results:
    x, scale, shift, mean, variance = operands[:5]
    channels = build.extent(needed(mean), 0)
    if scale is None:
        scale = build("Expand", build.scalar(1.0, needed(mean)), channels)
    if shift is None:
        shift = build("Expand", build.scalar(0.0, needed(mean)), channels)
    return build("BatchNormalization", x, scale, shift, mean, variance, epsilon=op.eps)


@emits(Affine)
def _affine(build: Builder, op: Affine, operands: "list[Operand]") -> Results:
    x, scale, shift = operands[:3]
    if scale is None and shift is None:
        return build("Identity", x)
    scaled = x if scale is None else build("Mul", x, scale)
    return needed(scaled if shift is None else build("Add", scaled, shift))


@emits(Elementwise)
def _elementwise(build: Builder, op: Elementwise, operands: "list[Operand]") -> Results:
    x = needed(operands[0])
    if op.fn in SPELLING:
        return build(SPELLING[op.fn], *operands[: len(op.inputs)])
    if op.fn == "rsqrt":
        return build("Reciprocal", build("Sqrt", x))
    if op.fn == "silu":
        return build("Mul", x, build("Sigmoid", x))
    if op.fn in ("gelu", "gelu_tanh"):
        return _gelu(build, x, tanh=op.fn == "gelu_tanh")
    raise ValueError(f"expected a pointwise function that ONNX can spell, got {op.fn!r}")


def _gelu(build: Builder, x: ir.Value, *, tanh: bool) -> ir.Value:
    """The operator from opset 20 on, before that the spelling that ORT recognises and fuses."""
    if build.opset >= 20:
        return build("Gelu", x, approximate="tanh" if tanh else None)
    half, one = build.scalar(0.5, x), build.scalar(1.0, x)
    if not tanh:
        gate = build("Erf", build("Div", x, build.scalar(sqrt(2.0), x)))
        return build("Mul", build("Mul", x, build("Add", gate, one)), half)
    cube = build("Mul", build("Pow", x, build.scalar(3.0, x)), build.scalar(0.044715, x))
    inner = build("Mul", build("Add", x, cube), build.scalar(sqrt(2.0 / pi), x))
    return build("Mul", build("Mul", x, half), build("Add", build("Tanh", inner), one))


@emits(Softmax)
def _softmax(build: Builder, op: Softmax, operands: "list[Operand]") -> Results:
    return build("Softmax", operands[0], axis=op.axis)


@emits(Reduce)
def _reduce(build: Builder, op: Reduce, operands: "list[Operand]") -> Results:
    x = needed(operands[0])
    if not op.axes:
        return build("Identity", x)
    if not op.fn.startswith("var"):
        return build.reduce(op.fn, x, op.axes, keepdims=op.keepdims)
    centred = build("Sub", x, build.reduce("mean", x, op.axes))
    square = build("Mul", centred, centred)
    if op.fn == "var":
        return build.reduce("mean", square, op.axes, keepdims=op.keepdims)
    total = build.reduce("sum", square, op.axes, keepdims=op.keepdims)
    return build("Div", total, build("Sub", build.length(x, op.axes), build.scalar(1.0, x)))


def accurate(build: Builder, x: ir.Value) -> ir.Value:
    """x in float32 where its own type is too narrow to sum squares in."""
    return build.cast(x, np.dtype(np.float32)) if dtype_of(x).itemsize < 4 else x
