"""What numpy says in one line each: ops on big constants without a detour through protobuf."""

from collections.abc import Callable, Sequence
from math import sqrt
from typing import Any

import numpy as np
from scipy.special import erf, expit

from .ops import (
    Cast,
    Concat,
    Dequantize,
    DynamicQuantize,
    Elementwise,
    Expand,
    Gather,
    Identity,
    Linear,
    MatMul,
    Quantize,
    Ref,
    Reshape,
    ShapeOf,
    Slice,
    Split,
    Squeeze,
    Transpose,
    Unbind,
    Unsqueeze,
)
from .quant_numbers import dequantized, dynamically_quantized, quantized
from .value import Op

Arrays = Sequence[np.ndarray | None]


def compute(op: Op, arrays: Arrays) -> list[np.ndarray] | None:
    """Results of an op, or None where the reference evaluator has to do it."""
    function = DIRECT.get(type(op))
    result = None if function is None else function(op, arrays)
    if result is None or isinstance(result, list):
        return result
    return [np.asarray(result)]


def _divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if a.dtype.kind == "f" or b.dtype.kind == "f":
        return a / b
    quotient = np.abs(a) // np.abs(b)  # integers: towards zero, as ONNX and C have it
    return np.where((a < 0) != (b < 0), -quotient, quotient).astype(a.dtype)


def _gelu_tanh(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


POINTWISE: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": _divide,
    "neg": np.negative,
    "pow": lambda a, b: np.power(a, b).astype(a.dtype),
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "reciprocal": lambda x: 1 / x,
    "exp": np.exp,
    "log": np.log,
    "erf": erf,
    "tanh": np.tanh,
    "sigmoid": expit,
    "relu": lambda x: np.maximum(x, 0),
    "gelu": lambda x: 0.5 * x * (1 + erf(x / sqrt(2))),
    "gelu_tanh": _gelu_tanh,
    "silu": lambda x: x * expit(x),
    "abs": np.abs,
    "sin": np.sin,
    "cos": np.cos,
    "where": np.where,
    "equal": np.equal,
    "less": np.less,
    "less_equal": np.less_equal,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
    "not": np.logical_not,
    "isnan": np.isnan,
    "and": np.logical_and,
    "or": np.logical_or,
    "maximum": np.maximum,
    "minimum": np.minimum,
}


def _elementwise(op: Elementwise, arrays: Arrays) -> np.ndarray | None:
    operands = [array for array in arrays if array is not None]
    function = POINTWISE.get(op.fn)
    return None if function is None else np.asarray(function(*operands))


def _linear(op: Linear, arrays: Arrays) -> np.ndarray:
    x, weight, *rest = (array for array in arrays if array is not None)
    product = x @ (np.swapaxes(weight, -1, -2) if op.layout == "oi" else weight)
    return product + rest[0] if rest else product


def _dims(op: Reshape | Expand, arrays: Arrays) -> list[int] | None:
    """The target as numbers; None where it is one tensor with rules of its own."""
    if op.dims is None:
        return None
    return [int(_at(arrays, d.index).item()) if isinstance(d, Ref) else d for d in op.dims]


def _at(arrays: Arrays, index: int) -> np.ndarray:
    found = arrays[index]
    assert found is not None
    return found


def _reshape(op: Reshape, arrays: Arrays) -> np.ndarray | None:
    dims = _dims(op, arrays)
    return None if dims is None else _at(arrays, 0).reshape(dims)


def _expand(op: Expand, arrays: Arrays) -> np.ndarray | None:
    dims, x = _dims(op, arrays), _at(arrays, 0)
    if dims is None:
        return None
    new_axes = len(dims) - x.ndim
    shape = [x.shape[i - new_axes] if dim == -1 else dim for i, dim in enumerate(dims)]
    return np.broadcast_to(x, shape)


def _slice(op: Slice, arrays: Arrays) -> np.ndarray | None:
    if op.starts is None or op.ends is None:
        return None
    x = _at(arrays, 0)
    index = [slice(None)] * x.ndim
    steps = op.steps or (1,) * len(op.axes)
    for axis, start, end, step in zip(op.axes, op.starts, op.ends, steps, strict=True):
        index[axis] = slice(start, end, step)
    return x[tuple(index)]


def _shape_of(op: ShapeOf, arrays: Arrays) -> np.ndarray:
    extents = np.array([_at(arrays, 0).shape[axis] for axis in op.axes], np.int64)
    return extents[0] if op.scalar else extents


def _split(op: Split, arrays: Arrays) -> list[np.ndarray]:
    return np.split(_at(arrays, 0), np.cumsum(op.sizes[:-1], dtype=int), axis=op.axis)


def _unbind(op: Unbind, arrays: Arrays) -> list[np.ndarray]:
    return list(np.moveaxis(_at(arrays, 0), op.axis, 0))


def _quantize(op: Quantize, arrays: Arrays) -> np.ndarray:
    x, scale, zero_point = (*arrays, None)[:3]
    assert x is not None
    assert scale is not None
    assert op.output.dtype is not None
    return quantized(x, scale, zero_point, op.output.dtype, op.axis, op.block)


def _dequantize(op: Dequantize, arrays: Arrays) -> np.ndarray:
    codes, scale, zero_point = (*arrays, None)[:3]
    assert codes is not None
    assert scale is not None
    wide = scale.dtype == np.float64
    dtype = scale.dtype if wide else op.output.dtype or scale.dtype
    return dequantized(codes, scale, zero_point, dtype, op.axis, op.block)


DIRECT: dict[type[Op], Callable[..., Any]] = {
    Elementwise: _elementwise,
    MatMul: lambda op, arrays: arrays[0] @ arrays[1],
    Linear: _linear,
    Quantize: _quantize,
    Dequantize: _dequantize,
    DynamicQuantize: lambda op, arrays: list(dynamically_quantized(arrays[0])),
    Reshape: _reshape,
    Expand: _expand,
    Transpose: lambda op, arrays: np.transpose(arrays[0], op.perm),
    Squeeze: lambda op, arrays: np.squeeze(arrays[0], op.axes),
    Unsqueeze: lambda op, arrays: np.expand_dims(arrays[0], op.axes),
    Slice: _slice,
    Concat: lambda op, arrays: np.concatenate(arrays, op.axis),
    Split: _split,
    Unbind: _unbind,
    Gather: lambda op, arrays: np.take(arrays[0], arrays[1], axis=op.axis),
    Cast: lambda op, arrays: np.asarray(arrays[0]).astype(op.dtype),
    Identity: lambda op, arrays: arrays[0],
    ShapeOf: _shape_of,
}
