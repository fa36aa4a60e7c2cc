"""Does the result compute what the original computes? Compared output by output, on several inputs."""

from collections.abc import Callable, Sequence

import numpy as np

from .errors import VerificationError
from .graph import is_float
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

    The bound on max |Δ| is rtol·max |y| + atol, by default `TOLERANCE` of the dtype and 0.
    """
    errors = []
    for name, want, have in zip(names, expected, got, strict=True):
        errors.append(_compare_one(name, want, have, atol, rtol))
    return errors


def _compare_one(
    name: str, want: np.ndarray, have: np.ndarray, atol: float | None, rtol: float | None
) -> OutputError:
    if want.shape != have.shape:
        raise VerificationError(
            f"output {name!r}: expected shape {want.shape}, got {have.shape}",
            guilty=None, output=name, error=float("inf"), tolerance=0.0,
        )  # fmt: skip
    dtype = want.dtype
    left, right = (array.astype(np.float64).ravel() for array in (want, have))
    same = (left == right) | (np.isnan(left) & np.isnan(right))
    left, right = np.where(same, np.nan_to_num(left, posinf=0, neginf=0), left), np.where(
        same, np.nan_to_num(right, posinf=0, neginf=0), right
    )
    delta = np.where(same, 0.0, np.abs(left - right))
    worst = float(delta.max(initial=0.0))
    worst = float("inf") if np.isnan(worst) else worst
    peak = float(np.abs(left[np.isfinite(left)]).max(initial=0.0))
    relative = rtol if rtol is not None else TOLERANCE.get(dtype.name, 0.0)
    bound = relative * peak + (atol or 0.0) if is_float(dtype) else 0.0
    noise, signal = float((delta**2).sum()), float((left[np.isfinite(left)] ** 2).sum())
    snr = float("inf") if noise == 0 else 10 * float(np.log10(max(signal, 1e-300) / noise))
    return OutputError(name, worst, peak, bound, snr)


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


def failure(error: OutputError, guilty: str | None, node: str = "") -> VerificationError:
    """The exception for a violated bound."""
    where = f"after pass {guilty}" if guilty else "in lowering to the runtime"
    at = f" (last edited: {node})" if node else ""
    return VerificationError(
        f"the optimized model disagrees {where}{at}: output {error.name!r} has max |Δ| = "
        f"{error.max_abs:.3g}, allowed {error.tolerance:.3g} (max |y| = {error.peak:.3g}). Nothing "
        "was written. Keep the pass off with exclude=, drop it from passes=, or raise the bound "
        "with rtol=/atol= if the model amplifies rounding.",
        guilty=guilty,
        output=error.name,
        error=error.max_abs,
        tolerance=error.tolerance,
    )
