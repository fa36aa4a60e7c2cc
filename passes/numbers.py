"""What a pointwise function gives where some operands are one known number and others are not.

Numbers are floats, booleans 0 and 1; None is unknown (and taken to be finite).
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

from ..graph import Constant, Value
from ..graph.ops import Cast, Expand, Fill, Identity, Reshape, Squeeze, Transpose, Unsqueeze

Number = float | None
Evaluate = Callable[[Sequence[Number]], Number]

MASKED = -1e4
"""A score this low is masked out: e to its power is 0 in every floating-point type, so a mask may
spell −∞ as −10⁴, −10⁹ or the smallest number of its type."""
VAGUE = MASKED - 0.515625
"""Stands for some number that is low enough to mask: a score and a low number, added up."""
SEARCHED = 1 << 22
"""Elements of a constant that are looked through."""

SPREADING = (Expand, Identity, Reshape, Squeeze, Unsqueeze, Transpose, Cast)
"""Ops that give one number where they get one."""

_ONE: dict[str, Callable[[float], float]] = {
    "neg": lambda x: -x,
    "not": lambda x: float(not x),
    "abs": abs,
    "sqrt": lambda x: float(np.sqrt(x)),
    "exp": lambda x: float(np.exp(x)),
    "log": lambda x: float(np.log(x)),
    "relu": lambda x: max(x, 0.0),
    "tanh": math.tanh,
    "isnan": lambda x: float(math.isnan(x)),
    "silu": lambda x: 0.0 if x == 0.0 else math.nan,
    "gelu": lambda x: 0.0 if x == 0.0 else math.nan,
    "gelu_tanh": lambda x: 0.0 if x == 0.0 else math.nan,
}
_TWO: dict[str, Callable[[float, float], float]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: float(np.divide(a, b)),
    "equal": lambda a, b: float(a == b),
    "less": lambda a, b: float(a < b),
    "less_equal": lambda a, b: float(a <= b),
    "greater": lambda a, b: float(a > b),
    "greater_equal": lambda a, b: float(a >= b),
    "and": lambda a, b: float(bool(a) and bool(b)),
    "or": lambda a, b: float(bool(a) or bool(b)),
    "maximum": max,
    "minimum": min,
}


def apply(fn: str, operands: Sequence[Number]) -> Number:
    """The function's value, None where it is unknown or not a number."""
    with np.errstate(all="ignore"):
        found = _apply(fn, operands)
    return None if found is None or math.isnan(found) else found


def affine(scaled: bool, shifted: bool, operands: Sequence[Number]) -> Number:
    """scale·x + shift of the operands x, scale and shift, where there are such."""
    numbers = [*operands, None, None]
    product = apply("mul", [numbers[0], numbers[1] if scaled else 1.0])
    return apply("add", [product, numbers[2] if shifted else 0.0])


def _apply(fn: str, operands: Sequence[Number]) -> Number:
    if fn == "where":
        return _where(*operands)
    if VAGUE in operands:
        return _vague(fn, operands)
    if len(operands) == 1 and fn in _ONE:
        return None if operands[0] is None else _ONE[fn](operands[0])
    if len(operands) != 2 or fn not in _TWO:
        return None
    a, b = operands
    if a is None or b is None:
        return _absorbed(fn, a, b)
    return _TWO[fn](a, b)


def _where(condition: Number, left: Number, right: Number) -> Number:
    if condition is None:
        return left if left == right else None
    return left if condition else right


def _vague(fn: str, operands: Sequence[Number]) -> Number:
    """What a low number that is not known exactly gives: another, where it cannot have grown."""
    if fn == "exp":
        return 0.0
    if fn == "minimum" or (fn == "add" and all(n is None or n <= 0 for n in operands)):
        return VAGUE
    lowered = fn == "sub" and operands[0] == VAGUE and (operands[1] is None or operands[1] >= 0)
    return VAGUE if lowered else None


def _absorbed(fn: str, a: Number, b: Number) -> Number:
    """What one operand decides alone."""
    known = a if b is None else b
    if known is None:
        return None
    if fn in ("mul", "and"):
        return 0.0 if known == 0.0 else None
    if fn == "div":
        return None
    if fn == "or":
        return 1.0 if known else None
    if fn == "sub":
        known = known if b is None else -known
    if fn in ("add", "sub", "minimum"):
        return known if known == -math.inf else VAGUE if known <= MASKED else None
    return None


def uniform(value: Value | None) -> Number:
    """The number that a value holds throughout, if that is known."""
    kind = "" if value is None or value.dtype is None else value.dtype.kind
    found: Number = None
    while value is not None and value.constant is None:
        op = value.producer
        if isinstance(op, Fill):
            found = op.number
        if not isinstance(op, SPREADING):
            break
        value = op.require(0)
    if value is not None and value.constant is not None:
        found = _held(value.constant)
    if found is None or (kind in "iu" and found != int(found)):
        return None
    return float(bool(found)) if kind == "b" else found


def _held(payload: Constant) -> Number:
    count = math.prod(payload.shape)
    if payload.dtype.kind not in "biuf" or not 0 < count <= SEARCHED:
        return None
    array = payload.array()
    first = array.reshape(-1)[0]
    return float(first) if np.all(array == first) else None
