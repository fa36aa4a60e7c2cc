"""Which expressions TVM keeps in a vector.

A store with a call that it does not vectorise becomes a loop over the lanes of its own, where what
the statements in front have named is not known: then all of them have to be in such a loop.
"""

from collections.abc import Sequence
from typing import Any

from .vector_math import SPELLINGS

BITWISE = (
    "reinterpret",
    "shift_left",
    "shift_right",
    "bitwise_and",
    "bitwise_or",
    "bitwise_xor",
    "bitwise_not",
)
"""Calls that TVM vectorises without saying so."""


def with_round(value: Any) -> Any:
    """An expression with `round` for `nearbyint`: the same instruction on a CPU, but in vectors."""
    import tvm_ffi
    from tvm import ir, tirx

    def call(node: Any) -> Any:
        is_nearby = isinstance(node.op, ir.Op) and node.op.name == "tirx.nearbyint"
        return tirx.round(node.args[0]) if is_nearby else node

    return tvm_ffi.structural_map(value, (ir.Call, call))


def are_vectorised(values: Sequence[Any]) -> bool:
    """Whether every call stays in a vector, after `with_round` and `expand`."""
    return all(_is_vectorised(call) for call in _calls(values))


def calls_functions(values: Sequence[Any]) -> bool:
    """Whether these expressions call a function that takes many instructions."""
    return any(_is_spelled(call) for call in _calls(values))


def _calls(values: Sequence[Any]) -> list[Any]:
    import tvm_ffi
    from tvm import ir

    found: list[Any] = []
    for value in values:
        tvm_ffi.structural_walk(with_round(value), (ir.Call, found.append))
    return found


def _is_spelled(call: Any) -> bool:
    from tvm import ir

    name = call.op.name.removeprefix("tirx.") if isinstance(call.op, ir.Op) else ""
    return name in SPELLINGS and str(call.ty) == "float32"


def _is_vectorised(call: Any) -> bool:
    from tvm import ir

    if not isinstance(call.op, ir.Op):
        return False
    name = call.op.name.removeprefix("tirx.")
    if name in BITWISE or _is_spelled(call):
        return True
    return bool(call.op.has_attr("TVectorizable") and call.op.get_attr("TVectorizable"))
