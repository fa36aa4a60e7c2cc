"""Exp, tanh, erf, sigmoid and powers of float32 as plain arithmetic on vectors.

The expressions hold no branch and no call; they follow infinities, NaNs and denormals as the C
library does, and are within 6 units in the last place of the true value.

Exp: with n = round(x/ln 2) and r = x − n·ln 2, |r| ≤ ln 2/2, exp x = 2ⁿ·exp r, where exp r is a
polynomial; n is read from the bits of x/ln 2 + 1.5·2²³, and 2ⁿ is applied in two halves, because
2ⁿ itself leaves the range before exp x does.
Erf and tanh: x·P(x²)/Q(x²) up to the magnitude where they round to ±1.
Sigmoid: with e = exp −|x|, 1/(1 + e) for x ≥ 0 and e/(1 + e) for x < 0; nothing overflows.

The coefficients minimise the largest relative error over the range given.
"""

from collections.abc import Callable
from typing import Any

FLOAT = "float32"
ROUND = 12582912.0
"""1.5·2²³: a float32 of this size has a unit in the last place of 1."""
ROUND_BITS = 0x4B400000
LOG2E = 1.4426950216293335
LN2_HIGH, LN2_LOW = 0.693115234375, 3.194618329871446e-05
"""ln 2 in two parts; n·LN2_HIGH is exact."""
EXP_LOW, EXP_HIGH = -104.0, 89.0
"""Beyond these, exp x rounds to 0 and to infinity."""
EXP = (
    1.0,
    1.0,
    0.4999999403953552,
    0.1666652113199234,
    0.04166838899254799,
    0.0083687175065279,
    0.001381459878757596,
)
ERF_LIMIT = 4.0
ERF_OVER = (
    1.1283791065216064,
    0.19354858994483948,
    0.0531020313501358,
    0.003883431199938059,
    0.0002845574636012316,
    1.986630650208099e-06,
)
ERF_UNDER = (
    1.0,
    0.504860520362854,
    0.11535128951072693,
    0.01520745363086462,
    0.001185571658425033,
    3.741813270607963e-05,
)
TANH_LIMIT = 9.02
TANH_OVER = (
    1.0,
    0.13379719853401184,
    0.0034940363839268684,
    2.058349309663754e-05,
    1.3319054303906341e-08,
)
TANH_UNDER = (
    1.0,
    0.4671303629875183,
    0.02587108127772808,
    0.00032830951386131346,
    7.762019436086121e-07,
)
FLOAT_BITS = 23
FLOAT_BIAS = 127
MAGNITUDE, INFINITY = 0x7FFFFFFF, 0x7F800000
"""Bits of a float32: all but its sign, and infinity."""
LOWEST = -3.4028234663852886e38
"""The least finite float32."""

Expr = Any
Bind = Callable[[Expr], Expr]
"""Gives a value a name, and returns the name."""
Spell = Callable[[Bind, Expr], Expr]


def number(value: float, x: Expr) -> Expr:
    """A float32 constant, as wide as x."""
    return _constant(value, FLOAT, x)


def integer(value: int, x: Expr) -> Expr:
    """An int32 constant, as wide as x."""
    return _constant(value, "int32", x)


def _constant(value: float, dtype: str, x: Expr) -> Expr:
    from tvm import tirx

    constant, lanes = tirx.const(value, dtype), x.ty.dtype.lanes
    return constant if lanes == 1 else tirx.Broadcast(constant, lanes)


def polynomial(coefficients: tuple[float, ...], x: Expr) -> Expr:
    """c0 + c1·x + c2·x² + .., by Horner's rule."""
    result = number(coefficients[-1], x)
    for coefficient in coefficients[-2::-1]:
        result = result * x + number(coefficient, x)
    return result


def clamped(bind: Bind, x: Expr, low: float, high: float) -> Expr:
    """x within [low, high]; a NaN stays, as the second operand of an unordered comparison."""
    from tvm import tirx

    return bind(tirx.Max(number(low, x), bind(tirx.Min(number(high, x), x))))


def exp(bind: Bind, x: Expr) -> Expr:
    """e to the x; see the module docstring."""
    x = clamped(bind, x, EXP_LOW, EXP_HIGH)
    shifted = bind(x * number(LOG2E, x) + number(ROUND, x))
    n = bind(shifted - number(ROUND, x))
    rest = bind(bind(x - n * number(LN2_HIGH, x)) - n * number(LN2_LOW, x))
    exponent = bind(_as(shifted, "int32") - integer(ROUND_BITS, x))
    half = bind(exponent >> integer(1, x))
    scaled = bind(polynomial(EXP, rest) * _power_of_two(half))
    return bind(scaled * _power_of_two(bind(exponent - half)))


def _power_of_two(exponent: Expr) -> Expr:
    biased = exponent + integer(FLOAT_BIAS, exponent)
    return _as(biased << integer(FLOAT_BITS, exponent), FLOAT)


def _as(x: Expr, dtype: str) -> Expr:
    """The bits of x as another type of the same width."""
    from tvm import tirx

    lanes = x.ty.dtype.lanes
    return tirx.reinterpret(dtype if lanes == 1 else f"{dtype}x{lanes}", x)


def _odd(over: tuple[float, ...], under: tuple[float, ...], limit: float) -> Spell:
    """x·P(x²)/Q(x²) within ±limit, and within ±1."""

    def whole(bind: Bind, x: Expr) -> Expr:
        x = clamped(bind, x, -limit, limit)
        t = bind(x * x)
        ratio = bind(x * bind(polynomial(over, t)) / bind(polynomial(under, t)))
        return clamped(bind, ratio, -1.0, 1.0)

    return whole


erf = _odd(ERF_OVER, ERF_UNDER, ERF_LIMIT)
tanh = _odd(TANH_OVER, TANH_UNDER, TANH_LIMIT)


def sigmoid(bind: Bind, x: Expr) -> Expr:
    """1/(1 + exp −x); see the module docstring."""
    from tvm import tirx

    e = exp(bind, bind(tirx.Min(bind(number(0.0, x) - x), x)))
    over = bind(tirx.Select(x >= number(0.0, x), number(1.0, x), e))
    return bind(over / bind(number(1.0, x) + e))


def _root(bind: Bind, x: Expr) -> Expr:
    """x^½; unlike a square root, pow makes +0 of −0 and +∞ of −∞."""
    from tvm import tirx

    root = bind(tirx.sqrt(bind(x + number(0.0, x))))
    return bind(tirx.Select(x < number(LOWEST, x), number(float("inf"), x), root))


def _inverse(bind: Bind, x: Expr) -> Expr:
    return bind(number(1.0, x) / x)


def _isnan(bind: Bind, x: Expr) -> Expr:
    """Whether the bits of x without its sign are above those of infinity.

    TVM's own operator takes a vector apart, and its comparisons of floats are false for a NaN.
    """
    bits = bind(_as(x, "int32"))
    return bind(bits & integer(MAGNITUDE, x)) > integer(INFINITY, x)


SPELLINGS: dict[str, Spell] = {
    "exp": exp,
    "erf": erf,
    "tanh": tanh,
    "sigmoid": sigmoid,
    "isnan": _isnan,
    "pow_3": lambda bind, x: bind(bind(x * x) * x),
    "pow_2": lambda bind, x: bind(x * x),
    "pow_0.5": _root,
    "pow_-0.5": lambda bind, x: _inverse(bind, _root(bind, x)),
    "pow_-1": _inverse,
}
"""Operators by the names of TVM's, and powers by their exponents."""
