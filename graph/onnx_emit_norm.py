"""How norms and attention are written: as one operator where the opset has it, else spelled out."""

from math import sqrt

import numpy as np
import onnx_ir as ir

from .onnx_build import Builder, Operand, dtype_of
from .onnx_copy import is_narrow
from .onnx_emit import Results, accurate, emits, needed
from .ops import Attention, Norm
from .value import Value


@emits(Norm)
def _norm(build: Builder, op: Norm, operands: "list[Operand]") -> Results:
    x, scale, shift = needed(operands[0]), operands[1], operands[2]
    shape = _normalised_shape(op)
    if op.norm == "layer" and build.opset >= 17 and (scale is not None or shape is not None):
        scale = scale if scale is not None else build.full(1.0, shape or (), x)
        attributes = {"axis": -op.ndim, "epsilon": op.eps}
        return build("LayerNormalization", x, scale, shift, **attributes)
    if op.norm == "rms" and build.opset >= 23 and (scale is not None or shape is not None):
        scale = scale if scale is not None else build.full(1.0, shape or (), x)
        normed = build("RMSNormalization", x, scale, axis=-op.ndim, epsilon=op.eps)
        return normed if shift is None else build("Add", normed, shift)
    return _affine(build, _spelled(build, op, x), scale, shift)


def _normalised_shape(op: Norm) -> tuple[int, ...] | None:
    if op.x.shape is None:
        return None
    numbers = tuple(dim for dim in op.x.shape[-op.ndim :] if isinstance(dim, int))
    return numbers if len(numbers) == op.ndim else None


def _affine(build: Builder, x: ir.Value, scale: Operand, shift: Operand) -> ir.Value:
    scaled = x if scale is None else build("Mul", x, scale)
    return scaled if shift is None else build("Add", scaled, shift)


def _spelled(build: Builder, op: Norm, x: ir.Value) -> ir.Value:
    """Pow, ReduceMean, Add, Sqrt, Div: the one spelling of an RMS norm that ORT fuses."""
    axes = tuple(range(-op.ndim, 0))
    wide = accurate(build, x)
    wide.shape = x.shape
    if op.norm == "layer":
        wide = build("Sub", wide, build.reduce("mean", wide, axes))
    power = build("Pow", wide, build.scalar(2.0, wide))
    if op.norm == "crms":
        moment = _crms_moment(build, wide, power, axes)
    else:
        moment = build.reduce("mean", power, axes)
    root = build("Sqrt", build("Add", moment, build.scalar(op.eps, wide)))
    normed = build("Div", wide, root)
    return normed if dtype_of(x).itemsize >= 4 else build.cast(normed, dtype_of(x))


def _crms_moment(build: Builder, x: ir.Value, power: ir.Value, axes: tuple[int, ...]) -> ir.Value:
    """(Σx² + (Σx)²)/(len + 1): the mean square once the dropped coordinate, −Σx, is back."""
    total = build.reduce("sum", x, axes)
    squares = build("Add", build.reduce("sum", power, axes), build("Mul", total, total))
    return build("Div", squares, build("Add", build.length(x, axes), build.scalar(1.0, x)))


@emits(Attention)
def _attention(build: Builder, op: Attention, operands: "list[Operand]") -> Results:
    q, k, v = (needed(operand) for operand in operands[:3])
    mask = operands[3]
    if mask is not None and is_narrow(op):
        both = build("Concat", build.extent(q, 2), build.extent(k, 2), axis=0)
        mask = build("Expand", mask, both)
    if build.opset >= 23:
        causal = 1 if op.causal else None
        return build("Attention", q, k, v, mask, scale=op.scale, is_causal=causal)
    k, v = (_repeated(build, op, index, part) for index, part in ((1, k), (2, v)))
    scores = build("MatMul", _scaled(build, op, q), build("Transpose", k, perm=(0, 1, 3, 2)))
    if mask is not None:
        scores = _masked(build, scores, mask, q)
    if op.causal:
        scores = _masked(build, scores, _causal(build, q, k), q)
    return build("MatMul", build("Softmax", scores, axis=-1), v)


def _scaled(build: Builder, op: Attention, q: ir.Value) -> ir.Value:
    if op.scale is not None:
        return build("Mul", q, build.scalar(op.scale, q))
    width = op.require(0).shape
    if width is not None and isinstance(width[-1], int):
        return build("Mul", q, build.scalar(1.0 / sqrt(width[-1]), q))
    return build("Div", q, build("Sqrt", build.cast(build.extent(q, 3), dtype_of(q))))


def _repeated(build: Builder, op: Attention, index: int, part: ir.Value) -> ir.Value:
    """Keys or values with each head as often as queries share it (grouped-query attention)."""
    heads, groups = _heads(op.require(0)), _heads(op.require(index))
    if heads is None or groups is None or heads == groups:
        return part
    lone = build("Unsqueeze", part, build.ints(2))
    spread = build("Expand", lone, build.ints(1, 1, heads // groups, 1, 1))
    ends = (build.extent(part, 0), build.ints(heads), build.extent(part, 2), build.extent(part, 3))
    return build("Reshape", spread, build("Concat", *ends, axis=0))


def _heads(value: Value) -> int | None:
    heads = None if value.shape is None else value.shape[1]
    return heads if isinstance(heads, int) else None


def _masked(build: Builder, scores: ir.Value, mask: ir.Value, q: ir.Value) -> ir.Value:
    if dtype_of(mask) != np.bool_:
        return build("Add", scores, mask)
    return build("Where", mask, scores, build.scalar(-np.inf, q))


def _causal(build: Builder, q: ir.Value, k: ir.Value) -> ir.Value:
    """True where a key is not after the query, aligned top-left."""
    known = [x.shape[2] for x in (q, k) if x.shape is not None]
    extents = [extent for extent in known if isinstance(extent, int)]
    if len(extents) == 2:
        return build.array(np.tri(*extents, dtype=np.bool_), "causal")
    rows, columns = (
        build("Range", build.index(0), build("Squeeze", build.extent(x, 2)), build.index(1))
        for x in (q, k)
    )
    return build("GreaterOrEqual", build("Unsqueeze", rows, build.ints(1)), columns)
