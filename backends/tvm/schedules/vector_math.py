"""Put the functions of `vector_functions` in the place of calls of the C library.

TVM turns exp, tanh, erf and the like into such calls, one element at a time, even inside a
vectorised loop. Other element types than float32 keep the library.
"""

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

from .vector_functions import FLOAT, SPELLINGS, Spell

if TYPE_CHECKING:
    import tvm

PREFIX = "passel."
PURE = 1
"""TVM's number of a call that only computes."""
TABLE = "llvm.FLowerIntrinsic"
"""Where TVM looks for what an operator becomes just before code is generated."""

Expr = Any


def expand(function: "tvm.tirx.PrimFunc") -> "tvm.tirx.PrimFunc":
    """The function with every float32 call that is spelled here replaced.

    It gets an operator of ours, which TVM's passes leave alone (they would simplify as if floats
    were real numbers, and copy each step into all that read it), and which becomes arithmetic
    after the last of them.
    """
    import tvm_ffi
    from tvm import ir

    _register()
    return function.with_body(tvm_ffi.structural_map(function.body, (ir.Call, _renamed)))


def _renamed(call: Expr) -> Expr:
    from tvm import ir

    if not isinstance(call.op, ir.Op) or not call.args or str(call.args[0].ty) != FLOAT:
        return call
    name = call.op.name.removeprefix("tirx.")
    if name == "pow":
        name = _constant_power(call)
    if name not in SPELLINGS:
        return call
    return ir.Call(ir.Op.get(PREFIX + name), [call.args[0]], ret_ty=call.ty)


def _constant_power(call: Expr) -> str:
    """The name of x to a power that needs no library."""
    from tvm import tirx

    power = call.args[1]
    return f"pow_{power.value:g}" if isinstance(power, tirx.FloatImm) else ""


@cache
def _register() -> None:
    """Tell TVM of our operators, once in a process."""
    from tvm import ir

    for name, spell in SPELLINGS.items():
        ir._ffi_api.RegisterOp(PREFIX + name, "float32 arithmetic, or a vector of it")
        ir.register_op_attr(PREFIX + name, "TCallEffectKind", PURE)
        ir.register_op_attr(PREFIX + name, "TVectorizable", True)
        ir.register_op_attr(PREFIX + name, "TScriptPrinterName", PREFIX + name)
        ir.register_op_attr(PREFIX + name, TABLE, _lowering(spell))


def _lowering(spell: Spell) -> Callable[[Expr], Expr]:
    def lowered(call: Expr) -> Expr:
        from tvm import ir

        steps: list[tuple[Expr, Expr]] = []

        def bind(value: Expr) -> Expr:
            from tvm import tirx

            variable = tirx.Var("t", value.ty)
            steps.append((variable, value))
            return variable

        operand = call.args[0]
        if not isinstance(operand, ir.Var):  # a second name for a variable confuses the analyzer
            operand = bind(operand)
        return _let(steps, spell(bind, operand))

    return lowered


def _let(steps: list[tuple[Expr, Expr]], value: Expr) -> Expr:
    from tvm import tirx

    for variable, step in reversed(steps):
        value = tirx.Let(variable, step, value)
    return value
