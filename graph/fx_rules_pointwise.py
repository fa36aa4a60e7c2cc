"""Lift rules for pointwise operators. A number in the call becomes a 0-d constant operand."""

from typing import Any

import numpy as np
import torch

from .fx_call import Call, Operand, Rule
from .fx_tensor import dtype_of, numpy_dtype
from .ops import Elementwise
from .value import Op

_UNARY = "neg sqrt rsqrt reciprocal exp log erf tanh sigmoid relu silu abs sin cos isnan".split()
_BINARY = "add sub mul div".split()
COMPARISONS = {
    "eq": "equal",
    "lt": "less",
    "le": "less_equal",
    "gt": "greater",
    "ge": "greater_equal",
}
"""Functions of the vocabulary that compare, by their ATen names."""


def _pointwise(fn: str, *names: str) -> Rule:
    """A rule for `fn` of the named arguments, in the vocabulary's order."""

    def rule(call: Call) -> Op | None:
        if call.get("alpha", 1) != 1 or call.get("rounding_mode") is not None:
            return None
        inputs = [_operand(call, call[name]) for name in names]
        if any(value is None for value in inputs):
            return None
        if not any(isinstance(value, Operand) for value in inputs):
            return None
        return Elementwise(inputs=inputs, fn=fn)

    return rule


def _operand(call: Call, found: Any) -> Any:
    """A tensor operand, or a number as a constant; None for anything else (a symbolic number)."""
    if isinstance(found, Operand):
        return found if found.is_tensor else None
    if not isinstance(found, bool | int | float):
        return None
    dtype = dtype_of(call.val)
    if dtype is None or dtype == np.bool_:
        tensors = [operand.node.meta["val"] for operand in call.operands if operand.is_tensor]
        dtype = numpy_dtype(torch.result_type(tensors[0], found)) if tensors else None
    return None if dtype is None else call.literal(found, dtype)


def _gelu(call: Call) -> Op | None:
    fn = {"none": "gelu", "tanh": "gelu_tanh"}.get(call["approximate"])
    return None if fn is None else _pointwise(fn, "self")(call)


def _square(call: Call) -> Op | None:
    dtype = dtype_of(call.val)
    if call.tensor("self") is None or dtype is None:
        return None
    return Elementwise(inputs=[call["self"], call.literal(2, dtype)], fn="pow")


def _on_bool(rule: Rule) -> Rule:
    """The rule for boolean operands only, on which bitwise and logical operators agree."""

    def guarded(call: Call) -> Op | None:
        return rule(call) if all(o.dtype == np.bool_ for o in call.operands) else None

    return guarded


POINTWISE: dict[str, Rule] = {
    **{f"{fn}.default": _pointwise(fn, "self") for fn in _UNARY},
    **{
        f"{fn}.{overload}": _pointwise(fn, "self", "other")
        for fn in _BINARY
        for overload in ("Tensor", "Scalar")
    },
    "div.Tensor_mode": _pointwise("div", "self", "other"),
    "div.Scalar_mode": _pointwise("div", "self", "other"),
    "rsub.Tensor": _pointwise("sub", "other", "self"),
    "rsub.Scalar": _pointwise("sub", "other", "self"),
    "pow.Tensor_Scalar": _pointwise("pow", "self", "exponent"),
    "pow.Tensor_Tensor": _pointwise("pow", "self", "exponent"),
    "pow.Scalar": _pointwise("pow", "self", "exponent"),
    "square.default": _square,
    "gelu.default": _gelu,
    "where.self": _pointwise("where", "condition", "self", "other"),
    "where.ScalarSelf": _pointwise("where", "condition", "self", "other"),
    "where.ScalarOther": _pointwise("where", "condition", "self", "other"),
    "where.Scalar": _pointwise("where", "condition", "self", "other"),
    "masked_fill.Scalar": _pointwise("where", "mask", "value", "self"),
    "masked_fill.Tensor": _pointwise("where", "mask", "value", "self"),
    **{
        f"{name}.{overload}": _pointwise(fn, "self", "other")
        for name, fn in COMPARISONS.items()
        for overload in ("Tensor", "Scalar")
    },
    "logical_not.default": _pointwise("not", "self"),
    "bitwise_not.default": _on_bool(_pointwise("not", "self")),
    **{
        name: _on_bool(_pointwise(fn, "self", "other"))
        for fn in ("and", "or")
        for name in (f"logical_{fn}.default", f"bitwise_{fn}.Tensor", f"__{fn}__.Tensor")
    },
    "maximum.default": _pointwise("maximum", "self", "other"),
    "minimum.default": _pointwise("minimum", "self", "other"),
}
