"""Choose each block's scale (and zero point) by the squared error it causes, not by its extremes.

Why: a step Δ costs every weight about Δ²/12, clipping costs only the few weights that are clipped.
Minimised is Σ_j H_jj·(t_j − t̂_j)²: the row's error is Σ_jk H_jk·e_j·e_k, and as rounding errors of
different weights hardly depend on each other, the products e_j·e_k with j ≠ k cancel on average.
H_jj = E[x_j²]; without statistics all weights count the same.
Candidates are the block's range with its ends moved in (and a little out: fewer codes of a better
step; far out for floats, whose smaller codes are finer), each end on its own where the grid is not
symmetric. Then, in ever smaller steps, changes of scale and zero point, and for the codes found
each time the best scale s = Σ H_jj·t_j·q_j / Σ H_jj·q_j² with q = codes − zero.
Exactness: the loss of no block is above that of rounding to nearest between its extremes.
References: Nagel et al. 2021, arXiv:2106.08295 (ranges by mean squared error).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from ..grid import Grid, settle
from ..layer import LayerData
from ..rounded import Format, Rounded, padded
from .problem import Problem, finish, pose

ENDS = np.linspace(0.1, 1.3, 61)
FLOAT_ENDS = np.linspace(0.1, 2.5, 121)
LOOSE_ENDS = np.linspace(0.2, 1.1, 13)
AT_ONCE = 1 << 17
"""Weights that are searched at once: their numbers stay in the cache."""
STEPS = (0.02, 0.01, 0.005, 0.0025, 0.001)


def mse(layer: LayerData, wanted: Format, start: Rounded | None = None) -> Rounded:
    """Scales and zero points of the smallest error, and the nearest codes there.

    Of `start` the scales and codes are replaced; what surrounds them is kept.
    """
    problem = pose(layer, wanted, start, "mse")
    form, part = problem.format, problem.part
    weight, weighed = blocked(form, problem.target), blocked(form, importance(problem))
    rows = max(1, AT_ONCE * len(weight) // weight.size)
    pieces = [slice(start, start + rows) for start in range(0, len(weight), rows)]
    found = [
        searched(Search(form.grid, weight[k], weighed[k], part.scale[k], part.zero[k]))
        for k in pieces
    ]
    scale, zero = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return finish(problem, problem.nearest(scale, zero), start, "mse")


def searched(search: "Search") -> tuple[np.ndarray, np.ndarray]:
    """The best scale and zero point of every block."""
    weight = search.weight
    for scale, zero in ranges(search.grid, weight.min(axis=2), weight.max(axis=2)):
        search.attempt(scale, zero)
    for step in STEPS:
        search.refine(step)
    return search.scale, search.zero


def importance(problem: Problem) -> np.ndarray:
    """What the squared error of each weight counts, [O, I]: r²·H_jj."""
    width = problem.target.shape[1]
    diagonal = np.ones(width) if problem.hessian is None else np.diag(problem.hessian)
    return problem.rows[:, None] * diagonal


def blocked(form: Format, array: np.ndarray) -> np.ndarray:
    """[O, I] as [O, blocks, size] ([1, 1, O·I] for one block in all), filled up with zeros."""
    if form.block < 0:
        return array.reshape(1, 1, -1)
    return array[:, None, :] if form.block == 0 else padded(array, form.block)


def ranges(
    grid: Grid, low: np.ndarray, high: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(scale, zero point) of every range to try, [O, blocks] each."""
    if grid.symmetric or grid.is_float:
        ends = FLOAT_ENDS if grid.is_float else ENDS
        yield from (grid.fit(low * end, high * end) for end in ends)
    else:
        yield from (grid.fit(low * a, high * b) for a in LOOSE_ENDS for b in LOOSE_ENDS)


@dataclass
class Search:
    """The best scale and zero point so far of every block.

    Attributes:
        grid: the format of the codes.
        weight, importance: [O, blocks, size].
        scale, zero: [O, blocks].
        loss: Σ importance·(weight − rounded)², [O, blocks].
    """

    grid: Grid
    weight: np.ndarray
    importance: np.ndarray
    scale: np.ndarray
    zero: np.ndarray
    loss: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        """Take the given scales as the best so far."""
        delta = self.weight - self.scale[..., None] * self.numbers(self.scale, self.zero)
        self.loss = np.einsum("obs,obs,obs->ob", delta, delta, self.importance)

    def numbers(self, scale: np.ndarray, zero: np.ndarray) -> np.ndarray:
        """Codes − zero of the nearest codes, [O, blocks, size]."""
        return self.grid.encode(self.weight, scale[..., None], zero[..., None]) - zero[..., None]

    def attempt(self, scale: np.ndarray, zero: np.ndarray) -> np.ndarray:
        """Keep the scales and zero points that are better; the numbers found at these."""
        scale = settle(scale)
        numbers = self.numbers(scale, zero)
        delta = self.weight - scale[..., None] * numbers
        loss = np.einsum("obs,obs,obs->ob", delta, delta, self.importance)
        better = loss < self.loss
        self.scale = np.where(better, scale, self.scale)
        self.zero = np.where(better, zero, self.zero)
        self.loss = np.where(better, loss, self.loss)
        return numbers

    def refine(self, step: float) -> None:
        """Try scales and zero points next to the best, and the best scale for each's codes."""
        loose = not (self.grid.symmetric or self.grid.is_float)
        for shift in (0, -1, 1) if loose else (0,):
            for factor in (1.0, 1 - step, 1 + step):
                zero = np.clip(self.zero + shift, self.grid.low, self.grid.high)
                zero = zero if loose else self.zero
                self.regress(self.attempt(self.scale * factor, zero), zero)

    def regress(self, numbers: np.ndarray, zero: np.ndarray) -> None:
        """Try s = Σ imp·w·q / Σ imp·q², the best scale for these numbers q."""
        upper = np.einsum("obs,obs,obs->ob", self.weight, numbers, self.importance)
        lower = np.einsum("obs,obs,obs->ob", numbers, numbers, self.importance)
        usable = (upper > 0) & (lower > 0)
        ratio = np.divide(upper, lower, out=np.ones_like(upper), where=usable)
        self.attempt(np.where(usable, ratio, self.scale), zero)
