"""Does the result compute what the original does? Compared output by output, on several inputs."""

from collections.abc import Callable, Sequence

import numpy as np

from .errors import VerificationError
from .graph import is_float
from .passes.base import decibels
from .passes.report import OutputError

Arrays = list[np.ndarray]
Runner = Callable[[Sequence[np.ndarray]], Arrays]

TOLERANCE = {"float64": 1e-9, "float32": 1e-4, "float16": 1e-2, "bfloat16": 8e-2}
"""Allowed max |Δ| / max |y| of an exact pipeline, by the output's dtype."""
SEEDS = (1, 2)
"""Seeds of the random inputs that every verification adds to the examples."""


def compare(
    names: Sequence[str],
    expected: Sequence[np.ndarray],
    got: Sequence[np.ndarray],
    atol: float | None = None,
    rtol: float | None = None,
) -> list[OutputError]:
    """The error of every output. NaN and infinity count as equal where both sides hold them.

    The bound on max |Δ| is rtol·max |y| + atol, by default `TOLERANCE` of the dtype and 0. Another
    shape or type, or no result, is an infinite error.
    """
    if len(expected) != len(got):
        return unusable(names, f"expected {len(expected)} outputs, got {len(got)}")
    triples = zip(names, expected, got, strict=True)
    return [_compare_one(name, want, have, atol, rtol) for name, want, have in triples]


def unusable(names: Sequence[str], detail: str) -> list[OutputError]:
    """The errors of a program that gives no result to compare."""
    return [OutputError(name, float("inf"), 0.0, 0.0, -float("inf"), detail) for name in names]


def _compare_one(
    name: str, want: np.ndarray, have: np.ndarray, atol: float | None, rtol: float | None
) -> OutputError:
    if want.shape != have.shape or want.dtype != have.dtype:
        detail = f"expected {_described(want)}, got {_described(have)}"
        return unusable([name], detail)[0]
    left, right = _differing(want), _differing(have)
    same = (left == right) | (np.isnan(left) & np.isnan(right))
    with np.errstate(invalid="ignore"):
        delta = np.where(same, 0.0, np.abs(left - right))
    worst = float(delta.max(initial=0.0))
    worst = float("inf") if np.isnan(worst) else worst
    finite = left[np.isfinite(left)]
    peak = float(np.abs(finite).max(initial=0.0))
    relative = rtol if rtol is not None else TOLERANCE.get(want.dtype.name, 0.0)
    bound = relative * peak + (atol or 0.0) if is_float(want.dtype) else 0.0
    alike = 1.0 if same.all() else _cosine(left, right, delta)
    return OutputError(name, worst, peak, bound, _snr(finite, delta), cosine=alike)


def _differing(array: np.ndarray) -> np.ndarray:
    """In a type that holds every difference."""
    kind = np.complex128 if array.dtype.kind == "c" else np.float64
    return array.astype(kind).ravel()


def _snr(signal: np.ndarray, delta: np.ndarray) -> float:
    with np.errstate(over="ignore", invalid="ignore"):
        noise, power = float((delta**2).sum()), float((np.abs(signal) ** 2).sum())
    if not np.isfinite(noise):
        return -float("inf")
    return decibels(power, noise)


def _cosine(left: np.ndarray, right: np.ndarray, delta: np.ndarray) -> float:
    """Of all elements but equal infinities and NaN; nan where others are not finite."""
    if not np.isfinite(delta).all():
        return float("nan")
    known = np.isfinite(left)
    left, right = _unit(left[known]), _unit(right[known])
    return float(np.vdot(left, right).real)


def _unit(vector: np.ndarray) -> np.ndarray:
    """The vector at length 1; scaled by its largest element first, whose square may overflow."""
    peak = np.abs(vector).max(initial=0.0)
    if peak == 0:
        return vector
    scaled = vector / peak
    unit: np.ndarray = scaled / np.sqrt((np.abs(scaled) ** 2).sum())
    return unit


def _described(array: np.ndarray) -> str:
    return f"{array.dtype.name} of shape {array.shape}"


def worst_of(batches: Sequence[Sequence[OutputError]]) -> list[OutputError]:
    """Per output, the comparison closest to (or furthest over) its bound."""
    return [max(column, key=_overshoot) for column in zip(*batches, strict=True)]


def first_violation(errors: Sequence[OutputError]) -> OutputError | None:
    """The output that exceeds its bound by the largest factor, if one does."""
    broken = [error for error in errors if not error.max_abs <= error.tolerance]
    return max(broken, key=_overshoot, default=None)


def _overshoot(error: OutputError) -> float:
    if error.max_abs == 0:
        return 0.0
    return error.max_abs / error.tolerance if error.tolerance else float("inf")


def failure(
    error: OutputError, guilty: str | None, node: str = "", where: str = ""
) -> VerificationError:
    """The exception for a violated bound; `where` says what it was if it was no pass."""
    place = f"after pass {guilty}" if guilty else where or "in lowering to the runtime"
    at = f" (last edited: {node})" if node else ""
    found = error.detail or (
        f"max |Δ| = {error.max_abs:.3g}, allowed {error.tolerance:.3g} (max |y| = {error.peak:.3g})"
    )
    advice = (
        "Keep the pass off with exclude=, drop it from passes=, or raise the bound with "
        "rtol=/atol= if the model amplifies rounding."
        if guilty
        else "Raise the bound with rtol=/atol= if the model amplifies rounding; else please report "
        "this model."
    )
    return VerificationError(
        f"the optimized model disagrees {place}{at}: output {error.name!r}: {found}. Nothing was "
        f"written. {advice}",
        guilty=guilty,
        output=error.name,
        error=error.max_abs,
        tolerance=error.tolerance,
    )
