"""Questions and changes that every rule asks for on expressions and statements of a kernel."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Expr = Any
Var = Any


def number_of(expression: Expr) -> int | None:
    """The value of an integer constant, None for any other expression."""
    value = getattr(expression, "value", expression)
    return int(value) if isinstance(value, int) else None


def same(a: Sequence[Expr], b: Sequence[Expr]) -> bool:
    """Whether two lists of expressions are equal, variables by identity."""
    import tvm_ffi

    return len(a) == len(b) and all(
        tvm_ffi.structural_equal(x, y) for x, y in zip(a, b, strict=True)
    )


def substituted(node: Any, values: Mapping[Var, Expr]) -> Any:
    """An expression or statement with variables replaced."""
    import tvm_ffi
    from tvm import ir

    return tvm_ffi.structural_map(node, (ir.Var, lambda v: values.get(v, v)))


def simplified(expression: Expr) -> Expr:
    """An expression after arithmetic simplification."""
    from tvm import sym

    return sym.Analyzer().simplify(expression)


def nodes_of(node: Any, kinds: Any) -> list[Any]:
    """Every part of an expression or statement that is of a class, or of one of several."""
    import tvm_ffi

    found: list[Any] = []
    tvm_ffi.structural_walk(node, (kinds, found.append))
    return found


def loads_of(node: Any) -> list[Expr]:
    """Every load of a buffer's element, those inside of indices included."""
    from tvm import ir

    return nodes_of(node, ir.TensorLoad)


def calls_of(node: Any) -> list[Expr]:
    """Every call of a function or intrinsic."""
    from tvm import ir

    return nodes_of(node, ir.Call)


def variables_of(node: Any) -> set[Var]:
    """Every variable, buffers too."""
    from tvm import ir

    return set(nodes_of(node, ir.Var))


def uses(expression: Expr, var: Var) -> bool:
    """Whether a variable occurs in an expression."""
    return var in variables_of(expression)


def calls(expression: Expr, name: str) -> bool:
    """Whether an operator of TVM's is called in an expression."""
    from tvm import ir

    found = calls_of(expression)
    return any(isinstance(call.op, ir.Op) and call.op.name == name for call in found)


def with_loads(node: Any, replacement: Callable[[Expr], Expr]) -> Any:
    """An expression or statement with every load replaced by `replacement(load)`."""
    import tvm_ffi
    from tvm import ir

    return tvm_ffi.structural_map(node, (ir.TensorLoad, replacement))
