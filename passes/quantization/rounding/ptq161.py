"""PTQ1.61: the columns that read the largest inputs in int4, all others binary with rank-1 scales.

Rewrite: W → int4 on the salient columns, (r1⊗r2)⊙(α·sign(W − μ) + μ) on the others.
Why: a column of W costs by how large its input gets, so a mask over columns, chosen by the peak of
|x_j|, does what an unstructured one does at no bits a weight. r1 [O] and r2 [I] are then learned on
the loss E‖(W − Ŵ)x‖² = tr(D·H·Dᵀ), D = W − Ŵ, H = E[x·xᵀ], alternately, each step exact:
    r1_o = (t_o·H·v_oᵀ)/(v_o·H·v_oᵀ),    v_o = B_o⊙r2,
    A·r2 = c,    A = H⊙(Bᵀ·diag(r1²)·B),    c_j = Σ_o r1_o·B_oj·(t_o·H)_j,
with B the binary part and t = W less the int4 part, whose error r1 and r2 so make good in part. A
small proximal term keeps the second solvable, and neither step can raise the loss. In the end r1 is
multiplied into α and μ, where it costs nothing. The int4 steps span the salient columns only (the
published code takes the range of whole rows, which can only be coarser).
Exactness: approximate.
Legality: any weight; r2 is a factor on x of these readers alone, unless all readers share it.
Effect: 4·0.2 + 1·0.8 = 1.6 bits a weight, 96 a row, 32 a column.
References: Zhao et al. 2025 (PTQ1.61), arXiv:2502.13179.
"""

from dataclasses import dataclass, replace

import numpy as np

from ..grid import Grid
from ..layer import LayerData
from ..rounded import Format, Part, Rounded
from .binary import narrow, sign_part, spread_of
from .checks import finite_weight

HIGH = Grid("int4")
SWEEPS = 8
SETTLED = 1e-4
"""A sweep that lowers the loss by less than this share is the last."""


def ptq161(
    layer: LayerData, wanted: Format, start: Rounded | None = None, *, fraction: float = 0.2
) -> Rounded:
    """A `fraction` of the columns in int4, the rest binary; `start` is replaced.

    Blocks of `wanted` divide the binary columns among themselves; there is at least a scale a row.

    Raises:
        ValueError: a fraction outside [0, 1].
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"expected a fraction in [0, 1], got {fraction}")
    shape = finite_weight(layer).shape
    target = layer.target()
    salient, rest = salient_columns(layer, fraction)
    parts: list[Part] = []
    columns = None
    if salient.size:
        parts.append(_int4(target[:, salient], salient))
        target[:, salient] -= parts[0].dense()
    if rest.size:
        low, columns = _binary(layer, target, rest, max(wanted.block, 0))
        parts.append(low)
    notes = () if layer.peak is not None else ("no statistics: salient columns by size of weight",)
    found = Rounded(tuple(parts), (shape[0], shape[1]), method="ptq161", notes=notes)
    return replace(found, columns=columns)


def salient_columns(layer: LayerData, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """(salient, other) columns, sorted: those of highest peak |x_j|, else of largest weight."""
    size = layer.peak if layer.peak is not None else np.abs(layer.weight).max(axis=0)
    count = round(fraction * len(size))
    order = np.argsort(-size, kind="stable")
    return np.sort(order[:count]), np.sort(order[count:])


@dataclass(frozen=True)
class RankOne:
    """The quadratic loss of r1 [O] and r2 [n] on the binary columns; see the module docstring.

    Attributes:
        base: B [O, n].
        second: H between those columns [n, n].
        pull: t·H on those columns [O, n].
    """

    base: np.ndarray
    second: np.ndarray
    pull: np.ndarray

    def loss(self, rows: np.ndarray, columns: np.ndarray) -> float:
        """tr(D·H·Dᵀ) less what neither factor can change."""
        weight = rows[:, None] * self.base * columns
        return float((weight @ self.second * weight).sum() - 2 * (self.pull * weight).sum())

    def best_rows(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """The r1 of least loss at this r2; a row on which nothing depends stays."""
        seen = self.base * columns
        power = ((seen @ self.second) * seen).sum(axis=1)
        best = (self.pull * seen).sum(axis=1) / np.where(power > 0, power, 1.0)
        return np.where(power > 0, best, rows)

    def best_columns(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """The r2 of least loss at this r1, up to the proximal term."""
        scaled = rows[:, None] * self.base
        matrix = self.second * (scaled.T @ scaled)
        slope = (scaled * self.pull).sum(axis=0) - matrix @ columns
        near = 1e-6 * max(float(np.trace(matrix)) / len(matrix), 1e-30)
        step: np.ndarray = np.linalg.solve(matrix + near * np.eye(len(matrix)), slope)
        return columns + step

    def solve(self) -> tuple[np.ndarray, np.ndarray]:
        """Alternate from ones until the loss has settled."""
        rows, columns = np.ones(self.base.shape[0]), np.ones(self.base.shape[1])
        now = self.loss(rows, columns)
        for _ in range(SWEEPS):
            rows = self.best_rows(rows, columns)
            columns = self.best_columns(rows, columns)
            before, now = now, self.loss(rows, columns)
            if before - now <= SETTLED * abs(now):
                break
        return rows, columns


def _int4(weight: np.ndarray, columns: np.ndarray) -> Part:
    """One symmetric step a row over these columns [O, n]."""
    stored = Format(HIGH)
    scale, zero = HIGH.fit(*stored.ranges(weight))
    scale = narrow(scale)
    codes = HIGH.encode(weight, scale, zero).astype(np.float32)
    return Part(codes, scale, zero, stored, columns=columns)


def _binary(
    layer: LayerData, target: np.ndarray, rest: np.ndarray, block: int
) -> tuple[Part, np.ndarray]:
    """The binary columns with r1 in their scales, and r2 [I] (1 on salient columns)."""
    weight = target[:, rest]
    second = np.eye(target.shape[1]) if layer.second is None else layer.second
    part = sign_part(weight, *spread_of(weight, Format(HIGH, block)), block, rest)
    pull = (target @ second)[:, rest]
    rows, factors = RankOne(part.dense(), second[np.ix_(rest, rest)], pull).solve()
    assert part.offset is not None
    scale, offset = narrow(rows[:, None] * part.scale), narrow(rows[:, None] * part.offset)
    columns = np.ones(target.shape[1])
    columns[rest] = narrow(factors)
    return replace(part, scale=scale, offset=offset), columns
