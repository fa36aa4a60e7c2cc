"""Floating-point operations of each op of the vocabulary, from shapes.

A product and a sum are two. A function of one element (exp, erf, sqrt, …) is one, and a composed
one counts as much as it does spelled out, so that finding a norm, a GELU or an attention in a
graph does not change its count by more than what happens once a row:

    per element   LayerNorm 5, RMSNorm 3, CRMSNorm 4, each +1 for a scale and for a shift;
                  Softmax 5; gelu 5, gelu_tanh 8, silu 2; variance 4, other reductions 1;
                  BatchNorm 2; Quantize 2, Dequantize 1, each +1 for a zero point;
                  DynamicQuantize 5; any other pointwise function 1
    Attention     2·B·H·S·T·(D + E) for both products; 6 per score for scaling and softmax, +1 where
                  there is a mask or it is causal. A causal mask spares no products: runtimes differ

Arithmetic on integers and truth values (masks, positions, shapes) is not floating-point: 0.
Ops that only move elements, and those not named here, are 0.
"""

from functools import singledispatch

from .cost_extents import Extents
from .ops import (
    Affine,
    Attention,
    BatchNorm,
    Conv,
    Dequantize,
    DynamicQuantize,
    Elementwise,
    Linear,
    MatMul,
    Norm,
    Quantize,
    Reduce,
    Softmax,
)
from .value import Op, Value

SOFTMAX = 5
"""Maximum, difference, exp, sum, quotient."""
NORMS = {"layer": 5, "rms": 3, "crms": 4}
COMPOSED = {"gelu": 5, "gelu_tanh": 8, "silu": 2}
VARIANCE = 4


@singledispatch
def flops_of(op: Op, extents: Extents) -> int:
    """Floating-point operations of one op; 0 where a shape that they depend on is unknown."""
    return 0


@flops_of.register
def _(op: Linear, extents: Extents) -> int:
    rows = extents.elements(op.output)
    return 2 * rows * _extent(op.x, -1, extents) + (rows if op.bias is not None else 0)


@flops_of.register
def _(op: Conv, extents: Extents) -> int:
    """Every element of the result (of x, when transposed) meets one filter of its group."""
    taps = 0 if op.weight.shape is None else extents.product(op.weight.shape[1:])
    places = extents.elements(op.x if op.transposed else op.output)
    return 2 * places * taps + (extents.elements(op.output) if op.bias is not None else 0)


@flops_of.register
def _(op: MatMul, extents: Extents) -> int:
    return 2 * extents.elements(op.output) * _extent(op.require(0), -1, extents)


@flops_of.register
def _(op: Attention, extents: Extents) -> int:
    q, v = op.require(0), op.require(2)
    if q.shape is None or v.shape is None:
        return 0
    scores = extents.product((*q.shape[:-1], v.shape[-2]))
    masked = op.causal or op.operand(3) is not None
    products = 2 * scores * (extents(q.shape[-1]) + extents(v.shape[-1]))
    return products + scores * (1 + SOFTMAX + masked)


@flops_of.register
def _(op: Norm, extents: Extents) -> int:
    gains = sum(value is not None for value in (op.scale, op.shift))
    return (NORMS[op.norm] + gains) * extents.elements(op.x)


@flops_of.register
def _(op: BatchNorm, extents: Extents) -> int:
    return 2 * extents.elements(op.require(0))


@flops_of.register
def _(op: Affine, extents: Extents) -> int:
    gains = sum(value is not None for value in (op.scale, op.shift))
    return gains * extents.elements(op.output)


@flops_of.register
def _(op: Elementwise, extents: Extents) -> int:
    if not any(value is not None and value.is_float for value in (*op.inputs, op.output)):
        return 0
    return COMPOSED.get(op.fn, 1) * extents.elements(op.output)


@flops_of.register
def _(op: Quantize, extents: Extents) -> int:
    return (2 + (op.zero_point is not None)) * extents.elements(op.x)


@flops_of.register
def _(op: Dequantize, extents: Extents) -> int:
    return (1 + (op.zero_point is not None)) * extents.elements(op.x)


@flops_of.register
def _(op: DynamicQuantize, extents: Extents) -> int:
    """Minimum and maximum, then quotient, rounding and zero point."""
    return 5 * extents.elements(op.x)


@flops_of.register
def _(op: Softmax, extents: Extents) -> int:
    return SOFTMAX * extents.elements(op.require(0))


@flops_of.register
def _(op: Reduce, extents: Extents) -> int:
    x = op.require(0)
    each = VARIANCE if op.fn.startswith("var") else 1
    return each * extents.elements(x) if x.is_float else 0


def _extent(value: Value, axis: int, extents: Extents) -> int:
    return extents(value.shape[axis]) if value.shape else 0
