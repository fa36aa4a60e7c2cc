"""What the algorithms that learn share: Adam, problems cut to rows, and coordinate descent.

Why: rows are independent, so they are learned a few at a time, in memory that does not grow with O.
The gradients are closed forms with one product E·H a step, so numpy does it all and no framework
has to be loaded. `settle_codes` minimises over one code at a time: with g = (ŝ − t)·H, the error as
a function of ŝ_j alone is a parabola with its minimum at ŝ_j − g_j/H_jj, so that the nearest value
of the grid is the best one; the error falls until no single code can be improved.
References: Kingma and Ba 2014, arXiv:1412.6980 (Adam).
"""

from collections.abc import Iterator

import numpy as np

from ..rounded import Part
from .problem import Problem

CHUNK = 2**18
LAZY = 128


class Adam:
    """Moves one parameter, with running means of its gradient and of its square.

    Attributes:
        first, second: these means, of the parameter's shape and dtype.
        count: steps taken.
    """

    def __init__(self, like: np.ndarray) -> None:
        """Start with zeros of the shape of `like`."""
        self.first, self.second, self.count = np.zeros_like(like), np.zeros_like(like), 0

    def step(self, parameter: np.ndarray, gradient: np.ndarray, rate: float) -> None:
        """Move `parameter` in place against `gradient`, about `rate` per step and element."""
        self.count += 1
        self.first += 0.1 * (gradient - self.first)
        self.second += 0.001 * (gradient**2 - self.second)
        correction = (1 - 0.999**self.count) ** 0.5 / (1 - 0.9**self.count)
        parameter -= rate * correction * self.first / (np.sqrt(self.second) + 1e-12)


def pieces(problem: Problem) -> Iterator[slice]:
    """Rows that are learned together."""
    rows, width = problem.target.shape
    size = max(1, CHUNK // width)
    for first in range(0, rows, size):
        yield slice(first, min(first + size, rows))


def settle_codes(problem: Problem, part: Part, hessian: np.ndarray, sweeps: int = 20) -> Part:
    """Improve single codes, anywhere on the grid, until none can be; at most `sweeps` times all."""
    width = hessian.shape[0]
    scale = part.format.spread(part.scale, width).T
    zero = part.format.spread(part.zero, width).T
    codes = part.codes.T.astype(np.float64)  # [I, O]: a column is contiguous
    slope = hessian @ (part.dense() - problem.target).T
    for _ in range(sweeps):
        if not _sweep(part, codes, slope, hessian, (scale, zero)):
            break
    return problem.with_codes(np.ascontiguousarray(codes.T), part.scale, part.zero)


def _sweep(
    part: Part,
    codes: np.ndarray,
    slope: np.ndarray,
    hessian: np.ndarray,
    grids: tuple[np.ndarray, np.ndarray],
) -> int:
    """Every column once, `codes` and `slope` [I, O] in place; how many codes have changed."""
    scale, zero = grids
    width, changed = len(codes), 0
    for first in range(0, width, LAZY):
        here = slice(first, min(first + LAZY, width))
        moves = np.zeros_like(codes[here])
        for column in np.flatnonzero(np.diag(hessian)[here] > 0) + first:
            place = column if len(scale) == width else 0
            step, offset, curvature = scale[place], zero[place], hessian[column, column]
            value = step * (codes[column] - offset)
            best = part.format.grid.encode(value - slope[column] / curvature, step, offset)
            move = step * (best - offset) - value
            gain = -move * (2 * slope[column] + curvature * move)
            move = np.where(gain > 1e-9 * curvature * step**2, move, 0.0)
            changed += int(np.count_nonzero(move))
            codes[column] = np.where(move != 0, best, codes[column])
            slope[here] += hessian[here, column, None] * move
            moves[column - first] = move
        slope[: here.start] += hessian[: here.start, here] @ moves
        slope[here.stop :] += hessian[here.stop :, here] @ moves
    return changed
