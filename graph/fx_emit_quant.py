"""Emission rules for quantize and dequantize: torch's quantized_decomposed operators.

Those round x·(1/scale) where the vocabulary has x/scale: a code may differ by one at a near tie.
What they cannot say (float8 codes but for one scale, blocks of any axis or size) is spelled out in
ordinary operators.
"""

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.ao.quantization.fx import _decomposed

from .fx_tensor import storage_dtype, torch_dtype
from .ops import Dequantize, DynamicQuantize, Quantize
from .quant_numbers import is_integer, limits
from .value import Op, Value

if TYPE_CHECKING:
    from .fx_emit import Emitter

_ = _decomposed  # importing it registers the operators
aten, lib = torch.ops.aten, torch.ops.quantized_decomposed
EPS = float(torch.finfo(torch.float32).eps)
"""The least scale that a dynamic quantization chooses, as torch's own observers have it."""
FLOAT64 = np.dtype(np.float64)
BY_CHANNEL = (torch.int8, torch.uint8, torch.int16, torch.int32)
"""Carriers of codes whose arithmetic torch has, as the operators with many scales need it."""

Quantizer = Quantize | Dequantize


def code_range(dtype: np.dtype | None, op: Op) -> tuple[int, int, torch.dtype]:
    """The smallest and largest code, and the torch dtype that holds codes.

    Raises:
        TypeError: torch has no type for them.
    """
    try:
        assert dtype is not None
        carrier = storage_dtype(dtype)
    except (TypeError, AssertionError):
        raise TypeError(
            f"{op.kind} {op.name!r}: expected codes of a type that torch has, got {dtype}"
        ) from None
    low, high = limits(dtype)
    return int(low), int(high), carrier


def _quantize(op: Quantize, e: "Emitter") -> Any:
    bounds = code_range(op.output.dtype, op)
    x = _narrowed(op.x, e)
    assert op.output.dtype is not None
    if _is_by_row(op, bounds[2]):
        return e.call(lib.quantize_per_token.default, x, *_row_grid(op, e), *bounds)
    if not is_integer(op.output.dtype) or (op.axis is not None and not _by_channel(op, bounds[2])):
        return _quantized_plainly(op, x, bounds, e)
    if op.axis is None:
        return _per_tensor(op, lib.quantize_per_tensor, x, bounds, e)
    if op.block:
        return _grouped(op, e, lib.quantize_per_channel_group.default, x, *bounds, op.block)
    target, zero_point = lib.quantize_per_channel.default, _zero_points(op, e)
    if zero_point is None:
        zero_point = _zeros(e.arg(1), e)
    return e.call(target, x, e.arg(1), zero_point, op.axis, *bounds)


def _dequantize(op: Dequantize, e: "Emitter") -> Any:
    bounds, codes = code_range(op.x.dtype, op), e.arg(0)
    wanted = torch_dtype(op.output.dtype or np.dtype(np.float32))
    named = {} if wanted == torch.float32 else {"out_dtype": wanted}
    if op.axis is None:
        return _per_tensor(op, lib.dequantize_per_tensor, codes, bounds, e, **named)
    if _is_by_row(op, bounds[2]):
        target = lib.dequantize_per_token.default
        return e.call(target, codes, *_row_grid(op, e), *bounds, wanted)
    if not _by_channel(op, bounds[2]):
        return _dequantized_plainly(op, codes, wanted, e)
    if op.block:
        target = lib.dequantize_per_channel_group.default
        return _grouped(op, e, target, codes, *bounds, op.block, wanted)
    target, zero_points = lib.dequantize_per_channel.default, _zero_points(op, e)
    return e.call(target, codes, e.arg(1), zero_points, op.axis, *bounds, **named)


def _per_tensor(
    op: Quantizer, packet: Any, x: Any, bounds: tuple[Any, ...], e: "Emitter", **named: Any
) -> Any:
    """One scale: numbers where they are known, else tensors."""
    scale, zero_point = e.literal(1), 0 if op.zero_point is None else _number(op.zero_point)
    if scale is not None and zero_point is not None:
        return e.call(packet.default, x, float(scale), zero_point, *bounds, **named)
    if op.zero_point is None:
        held = _zeros(e.arg(1), e)
    else:
        held = e.arg(2)
    return e.call(packet.tensor, x, e.arg(1), held, *bounds, **named)


def _zeros(scale: Any, e: "Emitter") -> Any:
    """Zero points that are 0, for operators that want them."""
    return e.call(aten.zeros_like.default, scale, dtype=torch.int64)


def _number(zero_point: Value) -> int | None:
    return None if zero_point.constant is None else int(zero_point.array().reshape(()))


def _zero_points(op: Quantizer, e: "Emitter", *, turn: bool = False) -> Any:
    """Zero points, transposed if `turn`, in a type whose difference with any code is exact."""
    value = op.zero_point
    if value is None:
        return None
    if value.constant is None:
        held = e.call(aten._to_copy.default, e.arg(2), dtype=torch.int64)
        return _turned(value, held, e) if turn else held
    array = value.array().astype(np.int64)
    return e.constant(np.ascontiguousarray(array.T) if turn else array, "zero_points")


def _is_by_row(op: Quantizer, carrier: torch.dtype) -> bool:
    """Whether each row has a scale, found at run time: what torch calls a token."""
    shape = op.x.shape
    if not shape or op.axis != len(shape) - 1 or op.block != shape[-1]:
        return False
    return carrier in BY_CHANNEL and op.scale.constant is None


def _row_grid(op: Quantizer, e: "Emitter") -> tuple[Any, Any]:
    """Scales and zero points, which torch's operators by token want both."""
    zero_points = _zero_points(op, e)
    if zero_points is None:
        zero_points = _zeros(e.arg(1), e)
    return e.arg(1), zero_points


def _by_channel(op: Quantizer, carrier: torch.dtype) -> bool:
    """Whether the operators with many scales take this op: blocks are of rows, and full."""
    if carrier not in BY_CHANNEL or not op.block:
        return carrier in BY_CHANNEL
    shape = op.x.shape
    if shape is None or len(shape) != 2 or op.block < 2:
        return False
    extent = shape[op.axis or 0]
    return isinstance(extent, int) and extent % op.block == 0


def _grouped(op: Quantizer, e: "Emitter", target: Any, x: Any, *rest: Any) -> Any:
    """An operator on groups along the last axis, also where the blocks are along the first."""
    turn = op.axis == 0
    scale = _turned(op.scale, e.arg(1), e) if turn else e.arg(1)
    zero_points = _zero_points(op, e, turn=turn)
    if zero_points is None and isinstance(op, Quantize):
        zero_points = _zeros(scale, e)
    result = e.call(target, _turned(op.x, x, e) if turn else x, scale, zero_points, *rest)
    return e.call(aten.permute.default, result, [1, 0]) if turn else result


def _turned(value: Value, operand: Any, e: "Emitter") -> Any:
    """The transpose of a matrix; of a constant one, a constant."""
    if value.constant is None:
        return e.call(aten.permute.default, operand, [1, 0])
    return e.constant(np.ascontiguousarray(value.array().T), f"{value.name}_turned")


def _quantized_plainly(op: Quantize, x: Any, bounds: tuple[Any, ...], e: "Emitter") -> Any:
    low, high, carrier = bounds
    result = e.call(aten.div.Tensor, x, _spread(op, e.arg(1), e))
    if carrier.is_floating_point:
        clipped = e.call(aten.clamp.default, result, float(low), float(high))
        return e.call(aten._to_copy.default, clipped, dtype=carrier)
    result = e.call(aten.round.default, result)
    zero_points = _zero_points(op, e)
    if zero_points is not None:
        result = e.call(aten.add.Tensor, result, _spread(op, zero_points, e))
    clipped = e.call(aten.clamp.default, result, low, high)
    return e.call(aten._to_copy.default, clipped, dtype=carrier)


def _dequantized_plainly(op: Dequantize, codes: Any, wanted: torch.dtype, e: "Emitter") -> Any:
    result = e.call(aten._to_copy.default, codes, dtype=wanted)
    zero_points = _zero_points(op, e)
    if zero_points is not None:
        result = e.call(aten.sub.Tensor, result, _spread(op, zero_points, e))
    return e.call(aten.mul.Tensor, result, _spread(op, e.arg(1), e))


def _spread(op: Quantizer, grid: Any, e: "Emitter") -> Any:
    """Scales or zero points, in a shape that broadcasts to x's."""
    if op.axis is None:
        return grid
    rank = op.x.rank
    if rank is None:
        raise TypeError(f"expected {op.name!r} to quantize a value of known rank")
    if not op.block:
        return e.call(aten.reshape.default, grid, [-1 if k == op.axis else 1 for k in range(rank)])
    whole = e.call(aten.repeat_interleave.self_int, grid, op.block, op.axis)
    extent = op.x.shape[op.axis] if op.x.shape is not None else None
    if not isinstance(extent, int):
        extent = e.call(aten.sym_size.int, e.arg(0), op.axis)
    elif extent % op.block == 0:
        return whole
    return e.call(aten.slice.Tensor, whole, op.axis, 0, extent)


def _dynamic_quantize(op: DynamicQuantize, e: "Emitter") -> Any:
    x, (low, high, carrier) = _narrowed(op.x, e), code_range(np.dtype(np.uint8), op)
    chosen = e.call(lib.choose_qparams.tensor, x, low, high, EPS, carrier)
    grid = [e.call(operator.getitem, chosen, index) for index in (0, 1)]
    codes = e.call(lib.quantize_per_tensor.tensor, x, *grid, low, high, carrier)
    flat = [
        e.call(aten.reshape.default, one, []) if value.shape == () else one
        for one, value in zip(grid, op.outputs[1:], strict=True)
    ]
    return [codes, *flat]


def _narrowed(x: Value, e: "Emitter") -> Any:
    """In float32 if it is in float64, which the operators do not take."""
    if x.dtype != FLOAT64:
        return e.arg(0)
    return e.call(aten._to_copy.default, e.arg(0), dtype=torch.float32)


QUANT_RULES: dict[type[Op], Callable[[Any, Any], Any]] = {
    Dequantize: _dequantize,
    DynamicQuantize: _dynamic_quantize,
    Quantize: _quantize,
}
"""How each of these ops is written."""
