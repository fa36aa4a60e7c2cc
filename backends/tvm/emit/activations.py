"""Pointwise functions outside the vocabulary, each one kernel."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .expressions import dtype_of, pointwise, widened

if TYPE_CHECKING:
    from tvm import relax

    from .emitter import Emitter


def activated(emitter: "Emitter", name: str, x: "relax.Expr", *numbers: float) -> "relax.Expr":
    """A function of the table, with its parameters; in float32 where x is narrower."""
    from tvm import tirx

    dtype = dtype_of(x)
    wide = widened(dtype)

    def constant(number: float) -> Any:
        return tirx.const(number, wide)

    def element(e: Any) -> Any:
        fixed = map(constant, numbers)
        result = ACTIVATIONS[name](tirx, constant, e.astype(wide), *fixed)
        return result.astype(dtype)

    return pointwise(emitter, name, element, x)


def _softplus(t: Any, c: Any, x: Any, beta: Any, threshold: Any) -> Any:
    """log(1 + exp(βx))/β without overflow."""
    scaled = x * beta
    smooth = (t.max(scaled, c(0)) + t.log(c(1) + t.exp(c(0) - t.abs(scaled)))) / beta
    return t.Select(scaled > threshold, x, smooth)


def _sigmoid(t: Any, c: Any, x: Any) -> Any:
    return c(1) / (c(1) + t.exp(c(0) - x))


def _clipped(t: Any, x: Any, low: Any, high: Any) -> Any:
    """x between two bounds; a NaN stays one."""
    return t.min(high, t.max(low, x))


def _named(name: str) -> Callable[..., Any]:
    return lambda t, c, x: getattr(t, name)(x)


TRIGONOMETRIC = ("tan", "asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh", "atanh")
ACTIVATIONS: dict[str, Callable[..., Any]] = {
    "leaky_relu": lambda t, c, x, slope: t.Select(x < c(0), x * slope, x),
    "elu": lambda t, c, x, alpha: t.Select(x > c(0), x, alpha * (t.exp(x) - c(1))),
    "selu": lambda t, c, x, alpha, gamma: gamma * t.Select(x > c(0), x, alpha * (t.exp(x) - c(1))),
    "celu": lambda t, c, x, alpha: t.Select(x > c(0), x, alpha * (t.exp(x / alpha) - c(1))),
    "hardsigmoid": lambda t, c, x, alpha, beta: _clipped(t, x * alpha + beta, c(0), c(1)),
    "hardswish": lambda t, c, x: x * _clipped(t, x / c(6) + c(0.5), c(0), c(1)),
    "softplus": _softplus,
    "softsign": lambda t, c, x: x / (c(1) + t.abs(x)),
    "mish": lambda t, c, x: x * t.tanh(_softplus(t, c, x, c(1), c(20))),
    "swish": lambda t, c, x, alpha: x * _sigmoid(t, c, x * alpha),
    "threshold": lambda t, c, x, alpha: t.Select(x > alpha, x, c(0)),
    "round": _named("nearbyint"),
    "sign": lambda t, c, x: t.Select(x > c(0), c(1), t.Select(x < c(0), c(-1), x)),
    "expm1": lambda t, c, x: t.exp(x) - c(1),
    "exp2": lambda t, c, x: t.exp(x * c(0.6931471805599453)),
    **{name: _named(name) for name in ("floor", "ceil", "trunc", "log1p", "log2", "log10")},
    **{name: _named(name) for name in TRIGONOMETRIC},
}
"""A function of tirx, of what makes numbers, of x, and of parameters."""
