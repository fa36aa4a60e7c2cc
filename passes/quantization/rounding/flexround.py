"""Learn what to divide each weight by before it is rounded.

Rewrite: Ŵ = s1·round(W/(s1·S2·s3)) with a divisor S2 for every weight, s3 for every row and the
scale s1 itself learned; stored are the codes round(..) and s1 only, so that it runs as any other.
Why: the gradient by log S2 is −(W/S2·s3)·∂L/∂Ŵ: it grows with the weight, so that large weights,
which matter most, can move by several codes. Rounding counts as the identity in the gradient where
it does not saturate: with w = W/(S2·s3),
    ∂Ŵ/∂log S2 = ∂Ŵ/∂log s3 = −w,   ∂Ŵ/∂log s1 = Ŵ − w   (0 and Ŵ where saturated),
and ∂L/∂Ŵ = 2·(Ŵ − T)·H for L = tr((Ŵ − T)·H·(Ŵ − T)ᵀ). Divisors and scales are learned as logs, so
they stay positive. All divisors are 1 at first: rounding to nearest, bit for bit. Where the start
has other codes than the nearest, S2 begins at what gives these, as far as the sign allows.
Of all steps, each row keeps its best.
Exactness: no row is worse than the start on the calibration data (where all rows share a scale: not
all of them together).
Effect: with correlated inputs, removes a good part of the squared error of nearest codes; weights
that are 0 stay so.
References: Lee et al. 2023, arXiv:2306.00317.
"""

from dataclasses import dataclass, field

import numpy as np

from ..grid import settle
from ..layer import LayerData
from ..rounded import Format, Part, Rounded
from .descent import Adam, pieces
from .problem import Problem, finish, pose, without_statistics

RATE = 0.01


def flexround(
    layer: LayerData, wanted: Format, start: Rounded | None = None, *, steps: int = 400
) -> Rounded:
    """New codes and scales from those of `start` (rounding to nearest where None).

    Args:
        layer: with `second`; without it codes and scales stay as they are.
        wanted: the format, where there is no start.
        start: what to improve.
        steps: of Adam.
    """
    problem = pose(layer, wanted, start, "flexround")
    if problem.hessian is None or not problem.hessian.any():
        return without_statistics(problem, start, "flexround")
    found = problem.better(learn(problem, problem.hessian, steps), problem.part)
    return finish(problem, found, start, "flexround")


def learn(problem: Problem, hessian: np.ndarray, steps: int) -> Part:
    """The best codes and scales on the way of gradient descent."""
    unit = (hessian / np.diag(hessian).mean()).astype(np.float32)
    codes, scale = problem.part.codes.copy(), problem.part.scale.copy()
    whole = problem.format.block < 0
    for here in [slice(None)] if whole else pieces(problem):
        learner = Learner(problem, here)
        for count in range(steps):
            learner.step(unit, RATE * (1 - count / steps))
        codes[here], scale[here] = learner.codes, learner.scale
    return problem.with_codes(codes, scale, problem.part.zero)


@dataclass
class Learner:
    """Some rows R while they are learned; all of them where they share a scale.

    Attributes:
        problem, here: the rows.
        codes: the best so far [R, I].
        scale: the scales of these [R, blocks], or [1, 1].
        loss: theirs [R], or [1].
        logs: log S2 [R, I], log s3 [R, 1], and log s1 over s1's first value, like `scale`.
    """

    problem: Problem
    here: slice
    codes: np.ndarray = field(init=False)
    scale: np.ndarray = field(init=False)
    loss: np.ndarray = field(init=False)
    logs: tuple[np.ndarray, np.ndarray, np.ndarray] = field(init=False)

    def __post_init__(self) -> None:
        """Begin with the start's codes and scales; each row in units of its mean scale."""
        part, spread = self.problem.part, self.problem.format.spread
        self.shared, width = self.problem.format.block < 0, part.codes.shape[1]
        self.codes, self.first = part.codes[self.here], part.scale[self.here]
        self.scale, zero = self.first, spread(part.zero[self.here], width)
        self.loss = np.full(1 if self.shared else len(self.codes), np.inf)
        self.unit = self.first.mean(axis=1, keepdims=True)
        target, step = self.problem.target[self.here], spread(self.first, width)
        nearest = self.problem.format.grid.encode(target, step, zero)
        divisors = initial_divisors(target / step, self.codes - zero, nearest != self.codes)
        self.logs = (
            np.log(divisors).astype(np.float32),
            np.zeros((len(divisors), 1), np.float32),
            np.zeros(self.first.shape, np.float32),
        )
        self.adams = [Adam(log) for log in self.logs]
        self.target = (target / self.unit).astype(np.float32)
        self.zero = zero.astype(np.float32)
        counts = self.problem.rows[self.here, None] if self.shared else np.ones((1, 1))
        self.counts = (counts / max(float(counts.max()), 1e-30)).astype(np.float32)

    def step(self, hessian: np.ndarray, rate: float) -> None:
        """Round, remember what is better than before, and move all logs by about `rate`."""
        grid = self.problem.format.grid
        scale = settle(self.first * np.exp(self.logs[2]))
        step = self.problem.format.spread(scale / self.unit, self.target.shape[1])
        step = step.astype(np.float32)
        w = self.target * np.exp(-self.logs[0] - self.logs[1])
        codes = grid.encode(w, step, self.zero).astype(np.float32)
        rounded = step * (codes - self.zero)
        slope = ((rounded - self.target) @ hessian) * self.counts
        self._remember(codes, scale, np.einsum("oi,oi->o", rounded - self.target, slope))
        place = w / step + self.zero
        w *= (place >= grid.low) & (place <= grid.high)
        by_divisor, by_scale = -slope * w, self._gathered(slope * (rounded - w))
        by_row = by_divisor.sum(axis=1, keepdims=True)
        for log, adam, gradient in zip(
            self.logs, self.adams, (by_divisor, by_row, by_scale), strict=True
        ):
            adam.step(log, gradient, rate)

    def _remember(self, codes: np.ndarray, scale: np.ndarray, loss: np.ndarray) -> None:
        loss = loss.sum(keepdims=True) if self.shared else loss
        better = loss < self.loss
        self.loss = np.where(better, loss, self.loss)
        self.codes = np.where(better[:, None], codes, self.codes)
        self.scale = np.where(better[:, None], scale, self.scale)

    def _gathered(self, by_weight: np.ndarray) -> np.ndarray:
        """[R, I] summed over the weights that share a scale."""
        block, width = self.problem.format.block, by_weight.shape[1]
        if self.shared:
            return by_weight.sum(keepdims=True)
        found: np.ndarray = np.add.reduceat(by_weight, np.arange(0, width, block or width), axis=1)
        return found


def initial_divisors(x: np.ndarray, numbers: np.ndarray, differs: np.ndarray) -> np.ndarray:
    """S2 at which x/S2 rounds to `numbers`, as far as the signs allow; 1 where not `differs`."""
    found = np.divide(x, numbers, out=np.ones_like(x), where=differs & (x * numbers > 0))
    to_zero = differs & (numbers == 0) & (x != 0)
    return np.clip(np.where(to_zero, 4 * np.abs(x), found), 1e-6, 1e6)
