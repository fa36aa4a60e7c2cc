"""How pointwise functions and casts are spelled."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ....graph import Value, is_float
from ....graph.ops import Cast, Elementwise
from .expressions import align, dtype_of, pointwise, widened
from .float8 import decoded, encoded, is_float8

if TYPE_CHECKING:
    from tvm import relax

    from .emitter import Emitter

UNARY = {
    "neg": "negative",
    "abs": "abs",
    "sqrt": "sqrt",
    "rsqrt": "rsqrt",
    "exp": "exp",
    "log": "log",
    "erf": "erf",
    "tanh": "tanh",
    "sigmoid": "sigmoid",
    "sin": "sin",
    "cos": "cos",
    "gelu": "nn.gelu",
    "gelu_tanh": "nn.gelu_tanh",
    "silu": "nn.silu",
}
"""Functions of one operand by the names of Relax's operators."""
EXACT_IN_HALF = ("neg", "abs")
"""Of those, what needs no wider type than float16."""
BINARY = {"add": "add", "sub": "subtract", "mul": "multiply"}
COMPARISONS = ("equal", "less", "less_equal", "greater", "greater_equal")
ON_BOOL = {"add": "or", "mul": "and", "maximum": "or", "minimum": "and"}
"""Arithmetic on truth values, as torch has it."""


def elementwise(emitter: "Emitter", op: Elementwise) -> "list[relax.Expr]":
    """Any pointwise function; integers stay integers, and NaNs stay NaNs."""
    fn, dtype = op.fn, emitter.dtype(op.output)
    if dtype == "bool":
        fn = ON_BOOL.get(fn, fn)
    if fn in COMPARISONS or fn in ("and", "or", "not", "isnan"):
        return [_logical(emitter, op, fn)]
    operands = [_operand(emitter, op, index, dtype) for index in range(len(op.inputs))]
    return [applied(emitter, fn, dtype, *operands)]


def applied(emitter: "Emitter", fn: str, dtype: str, *operands: "relax.Expr") -> "relax.Expr":
    """A function that computes; the operands have its result's type (but a condition)."""
    from tvm import relax

    if fn in UNARY:
        return _unary(emitter, fn, operands[0], dtype)
    if fn in BINARY:
        return emitter.emit(getattr(relax.op, BINARY[fn])(*align(emitter, *operands)))
    return SPECIAL[fn](emitter, dtype, *operands)


def cast(emitter: "Emitter", op: Cast) -> "list[relax.Expr]":
    """To integers towards zero; to truth values whatever is not 0."""
    return [casted(emitter, emitter[op.require(0)], emitter.dtype(op.output))]


def casted(emitter: "Emitter", x: "relax.Expr", dtype: str) -> "relax.Expr":
    """x in another type."""
    from tvm import relax

    before = dtype_of(x)
    if dtype == "bool" and before != "bool":
        return emitter.emit(relax.op.not_equal(x, emitter.number(0, before)))
    if is_float8(before):
        return emitter.cast(pointwise(emitter, "decode", lambda e: decoded(e, before), x), dtype)
    if is_float8(dtype):
        wide = emitter.cast(x, "float64" if before == "float64" else "float32")
        return pointwise(emitter, "encode", lambda e: encoded(e, dtype, dtype_of(wide)), wide)
    return emitter.cast(x, dtype)


def _operand(emitter: "Emitter", op: Elementwise, index: int, dtype: str) -> "relax.Expr":
    """An operand in the type of the result; a condition as truth values."""
    condition = op.fn == "where" and index == 0
    return casted(emitter, emitter[op.require(index)], "bool" if condition else dtype)


def _logical(emitter: "Emitter", op: Elementwise, fn: str) -> "relax.Expr":
    """A function whose results are truth values."""
    values = [value for value in op.inputs if value is not None]
    if fn in COMPARISONS:
        dtype = _promoted(emitter, values)
        dtype = "int8" if dtype == "bool" else dtype  # LLVM compares no truth values
        return compared(emitter, fn, *(casted(emitter, emitter[v], dtype) for v in values))
    if fn == "isnan":
        return _isnan(emitter, emitter[values[0]])
    return connected(emitter, fn, *(emitter[value] for value in values))


def connected(emitter: "Emitter", fn: str, *operands: "relax.Expr") -> "relax.Expr":
    """Operands as truth values under "and", "or", "xor" or "not"."""
    from tvm import relax

    truths = align(emitter, *(casted(emitter, operand, "bool") for operand in operands))
    return emitter.emit(getattr(relax.op, f"logical_{fn}")(*truths))


def compared(emitter: "Emitter", fn: str, a: "relax.Expr", b: "relax.Expr") -> "relax.Expr":
    """A comparison; x is not equal to itself where it is NaN, which TVM would simplify away."""
    from tvm import relax

    if a.same_as(b) and fn in ("equal", "less_equal", "greater_equal", "not_equal"):
        odd = _isnan(emitter, a)
        return odd if fn == "not_equal" else emitter.emit(relax.op.logical_not(odd))
    return emitter.emit(getattr(relax.op, fn)(*align(emitter, a, b)))


def _isnan(emitter: "Emitter", x: "relax.Expr") -> "relax.Expr":
    from tvm import relax

    dtype = dtype_of(x)
    if "float" not in dtype:
        return emitter.emit(relax.op.not_equal(x, x))
    return emitter.emit(relax.op.isnan(emitter.cast(x, widened(dtype))))


def _promoted(emitter: "Emitter", values: list[Value]) -> str:
    """The type in which values of several types are compared: that of tensors before scalars."""
    kinds = {emitter.dtype(value) for value in values}
    if len(kinds) == 1:
        return kinds.pop()
    tensors = [v for v in values if v.rank] or values
    floats = [v for v in tensors if v.is_float] or [v for v in values if v.is_float]
    dtypes = [np.dtype(v.dtype) for v in floats or tensors]
    return str(max(dtypes, key=lambda one: (one.itemsize, one.kind == "i")))


def _unary(emitter: "Emitter", fn: str, x: "relax.Expr", dtype: str) -> "relax.Expr":
    """A function of one operand; in float32 where float16 would round between its steps."""
    from tvm import relax

    operator: Any = relax.op
    for name in UNARY[fn].split("."):
        operator = getattr(operator, name)
    if dtype == "float16" and fn not in EXACT_IN_HALF:
        return emitter.cast(emitter.emit(operator(emitter.cast(x, "float32"))), dtype)
    return emitter.emit(operator(x))


def _divide(emitter: "Emitter", dtype: str, a: "relax.Expr", b: "relax.Expr") -> "relax.Expr":
    from tvm import relax, tirx

    if is_float(np.dtype(dtype)) or dtype == "bfloat16":
        return emitter.emit(relax.op.divide(*align(emitter, a, b)))
    return pointwise(emitter, "divide", tirx.truncdiv, a, b)


def _power(emitter: "Emitter", dtype: str, a: "relax.Expr", b: "relax.Expr") -> "relax.Expr":
    """xᵏ as products where k is 2 or 3; on integers by way of float64."""
    from tvm import relax

    exponent = number_of(b)
    if exponent in (2.0, 3.0):
        square = emitter.emit(relax.op.multiply(a, a))
        return square if exponent == 2.0 else emitter.emit(relax.op.multiply(square, a))
    if exponent == 0.5 and dtype not in ("int32", "int64"):
        return _unary(emitter, "sqrt", a, dtype)
    wide = "float64" if "int" in dtype else widened(dtype)
    operands = align(emitter, emitter.cast(a, wide), emitter.cast(b, wide))
    return emitter.cast(emitter.emit(relax.op.power(*operands)), dtype)


def _reciprocal(emitter: "Emitter", dtype: str, x: "relax.Expr") -> "relax.Expr":
    return _divide(emitter, dtype, emitter.number(1, dtype), x)


def _relu(emitter: "Emitter", dtype: str, x: "relax.Expr") -> "relax.Expr":
    return _extremum("maximum")(emitter, dtype, x, emitter.number(0, dtype))


def _extremum(name: str) -> Callable[..., Any]:
    """max or min; a NaN of either operand is the result.

    The machine's own instruction gives its second operand where either is NaN. So the operand that
    is a number goes first, and where none is, one of them is asked.
    """

    def spell(emitter: "Emitter", dtype: str, a: "relax.Expr", b: "relax.Expr") -> "relax.Expr":
        from tvm import relax, tirx

        operator = getattr(relax.op, name)
        if dtype.startswith(("int", "uint")):
            return emitter.emit(operator(*align(emitter, a, b)))
        if number_of(b) is not None:
            a, b = b, a
        if number_of(a) is not None:
            return emitter.emit(operator(a, b))
        best = tirx.max if name == "maximum" else tirx.min
        wide = widened(dtype)

        def extreme(x: Any, y: Any) -> Any:
            return tirx.Select(tirx.isnan(x.astype(wide)), x, best(x, y))

        return pointwise(emitter, name, extreme, a, b)

    return spell


def _where(
    emitter: "Emitter", dtype: str, condition: "relax.Expr", a: "relax.Expr", b: "relax.Expr"
) -> "relax.Expr":
    from tvm import tirx

    branches = [number_of(a), number_of(b)]
    computed = [x for x, number in zip((a, b), branches, strict=True) if number is None]

    def choose(test: Any, *elements: Any) -> Any:
        left = iter(elements)
        both = [next(left) if n is None else tirx.const(n, dtype) for n in branches]
        return tirx.Select(test, *both)

    return pointwise(emitter, "where", choose, condition, *computed)


def number_of(x: "relax.Expr") -> Any:
    """The value of a lone number that is part of the code."""
    from tvm.ir import GenericConst

    if not isinstance(x, GenericConst) or x.ty.ndim:
        return None
    return x.value.numpy().item()


SPECIAL: dict[str, Callable[..., Any]] = {
    "div": _divide,
    "pow": _power,
    "reciprocal": _reciprocal,
    "relu": _relu,
    "maximum": _extremum("maximum"),
    "minimum": _extremum("minimum"),
    "where": _where,
}
"""Functions that take more than one operator of Relax."""
