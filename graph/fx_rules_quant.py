"""Lift rules for torch's quantized_decomposed operators.

Torch keeps codes of 2 and 4 bits in bytes and names their range; the view names their type.
"""

from functools import partial
from typing import Any

import ml_dtypes
import numpy as np
import torch
from torch import fx

from .fx_call import Call, Operand, Rule, is_getitem
from .fx_emit_quant import EPS
from .fx_tensor import numpy_dtype
from .ops import Dequantize, DynamicQuantize, Fill, Quantize
from .quant_numbers import is_integer, limits
from .value import Constant, Op, Value

LIBRARY = "quantized_decomposed"
FLOAT32 = np.dtype(np.float32)
NARROW = [np.dtype(name) for name in (ml_dtypes.int4, ml_dtypes.int2)]
NARROW_UNSIGNED = [np.dtype(name) for name in (ml_dtypes.uint4, ml_dtypes.uint2)]


def code_type(call: Call) -> np.dtype | None:
    """The element type whose range the call names; None where no type has it."""
    carrier, bounds = numpy_dtype(call["dtype"]), (call["quant_min"], call["quant_max"])
    if carrier is None or not is_integer(carrier) or any(type(b) is not int for b in bounds):
        return None
    narrow = {torch.int8: NARROW, torch.uint8: NARROW_UNSIGNED}.get(call["dtype"], [])
    return next((dtype for dtype in (carrier, *narrow) if limits(dtype) == bounds), None)


def _quantize(call: Call, *, many: bool, block: bool = False) -> Op | None:
    x, dtype = call.tensor("input"), code_type(call)
    found = _grid(call, dtype, many=many, block=block)
    if x is None or dtype is None or found is None or not x.value.is_float:
        return None
    call.dtype = dtype
    axis, size = _axis(call, x)
    inputs: list[Any] = [x, *found]
    return Quantize(inputs=inputs, axis=axis, block=size)


def _dequantize(call: Call, *, many: bool, block: bool = False) -> Op | None:
    codes: Any = call.tensor("input") or call.tensor("w_int8")
    if codes is None or codes.value.dtype is None:
        return None
    dtype = code_type(call)
    if dtype is not None and codes.value.constant is not None:
        codes = _narrowed(call, codes, dtype)
    found = _grid(call, codes.value.dtype, many=many, block=block)
    if found is None:
        return None
    axis, size = _axis(call, codes)
    return Dequantize(inputs=[codes, *found], axis=axis, block=size)


def _by_row(call: Call, *, codes: bool) -> Op | None:
    """A scale for each index of all axes but the last: a block is a row."""
    x, dtype, scale = call.tensor("input"), code_type(call), call.tensor("scales")
    if x is None or scale is None or dtype is None or not x.shape:
        return None
    width = x.shape[-1]
    if not isinstance(width, int) or scale.shape != (*x.shape[:-1], 1):
        return None
    found = _zero_point(call, call["zero_points"], dtype)
    if found is None or (codes and x.value.dtype != dtype):
        return None
    inputs: list[Any] = [x, scale, *found]
    if codes:
        return Dequantize(inputs=inputs, axis=x.rank - 1, block=width)
    if not x.value.is_float:
        return None
    call.dtype = dtype
    return Quantize(inputs=inputs, axis=x.rank - 1, block=width)


def _axis(call: Call, x: Operand) -> tuple[int | None, int]:
    if "group_size" in call.args:
        return x.rank - 1, call["group_size"]
    return (call.axis("axis", x.rank) if "axis" in call.args else None), 0


def _narrowed(call: Call, codes: Operand, dtype: np.dtype) -> Operand:
    """The same operand, its payload in the narrow type that holds it."""
    before = codes.value
    if dtype == before.dtype or before.constant is None:
        return codes
    key = before, dtype
    if key not in call.narrowed:
        payload, (low, high) = before.constant, limits(dtype)
        array = payload.array()
        if array.size and not low <= array.min() <= array.max() <= high:
            return codes
        held = Constant(partial(_cast, payload, dtype), payload.shape, dtype, source=payload.source)
        name, shape = call.graph.fresh_name(before.name), before.shape
        call.narrowed[key] = Value(name, shape, dtype, constant=held, origin=before.origin)
    return Operand(codes.index, call.narrowed[key], codes.node)


def _cast(payload: Constant, dtype: np.dtype) -> np.ndarray:
    return payload.array().astype(dtype)


def _grid(call: Call, dtype: np.dtype | None, *, many: bool, block: bool) -> list[Any] | None:
    """Scale and zero point as inputs; None where the vocabulary cannot say them."""
    names = ("scales", "zero_points") if many else ("scale", "zero_point")
    scale, zero_point = (call[name] for name in names)
    if isinstance(scale, float | int):
        scale = call.literal(scale, FLOAT32)
    if dtype is None:
        return None
    if isinstance(scale, Operand) and not _fits(call, scale, block=block, many=many):
        return None
    found = _zero_point(call, zero_point, dtype)
    return None if found is None else [scale, *found]


def _fits(call: Call, grid: Operand, *, many: bool, block: bool) -> bool:
    """Whether scales have the vocabulary's shape; torch takes those of blocks in any."""
    if not many:
        return grid.shape in ((), (1,))
    if not block:
        return grid.rank == 1
    rows, width = (*call.shape, 0)[:2]
    if not isinstance(width, int):
        return False
    return grid.shape == (rows, -(-width // call["group_size"]))


def _zero_point(call: Call, found: Any, dtype: np.dtype) -> list[Any] | None:
    """The zero point in the type of the codes: nothing if it is 0; None if it is out of range."""
    if found is None:
        return []
    if isinstance(found, Operand) and found.value.constant is None:
        made = found.value.producer
        return [] if isinstance(made, Fill) and made.number == 0 else [found]
    array = found.value.array() if isinstance(found, Operand) else np.array(found)
    low, high = limits(dtype)
    if not array.any():
        return []
    if array.min() < low or array.max() > high or (array != np.rint(array)).any():
        return None
    return [call.graph.constant(array.astype(dtype), f"{call.node.name}_zero_point")]


def _choose(call: Call) -> Op | None:
    """The scale that x's range asks for, and the one quantization by it."""
    x, node = call.tensor("input"), call.node
    users = {user.args[1]: user for user in node.users if is_getitem(user)}
    asked = call["quant_min"], call["quant_max"], call["dtype"], call["eps"]
    if x is None or x.dtype != FLOAT32 or asked != (0, 255, torch.uint8, EPS):
        return None
    if len(node.users) != 2 or set(users) != {0, 1}:
        return None
    wanted = (x.node, users[0], users[1], *asked[:3])
    made = [user for user in users[0].users if _name(user) == "quantize_per_tensor.tensor"]
    if len(made) != 1 or made[0].args != wanted or made[0].kwargs:
        return None
    call.results = [[made[0]], *(_chain(users[index], made[0]) for index in (0, 1))]
    call.respelled = True
    inputs: list[Any] = [x]
    return DynamicQuantize(inputs=inputs)


def _chain(node: fx.Node, quantize: fx.Node) -> list[fx.Node]:
    """A result, and what reshapes it to a scalar and casts it: the same to the vocabulary."""
    chain = [node]
    while True:
        left = [user for user in chain[-1].users if user is not quantize]
        if len(left) != 1 or str(left[0].target) not in SCALARS:
            return chain
        if str(left[0].target) == SCALARS[0] and left[0].args[1] != []:
            return chain
        chain.append(left[0])


SCALARS = ("aten.reshape.default", "aten._to_copy.default")


def _name(node: fx.Node) -> str:
    return str(node.target).removeprefix(f"{LIBRARY}.")


def _both(name: str, *, many: bool, block: bool = False) -> dict[str, Rule]:
    return {
        f"quantize_{name}": partial(_quantize, many=many, block=block),
        f"dequantize_{name}": partial(_dequantize, many=many, block=block),
    }


BY_ROW: dict[str, Rule] = {
    "quantize_per_token.default": partial(_by_row, codes=False),
    "dequantize_per_token.default": partial(_by_row, codes=True),
}
QUANTIZED: dict[str, Rule] = {
    f"{LIBRARY}.{name}": rule
    for name, rule in {
        **_both("per_tensor.default", many=False),
        **_both("per_tensor.tensor", many=False),
        **_both("per_channel.default", many=True),
        **_both("per_channel_group.default", many=True, block=True),
        **BY_ROW,
        "choose_qparams.tensor": _choose,
    }.items()
}
"""The rule of each operator, by its full name."""
