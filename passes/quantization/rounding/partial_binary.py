"""Partial binary weights: the salient ones keep 8 bits, all others are one sign each.

Rewrite: W → B + M⊙R with B = μ + α·sign(W − μ) per block, M the salient entries, and R = W − B on
them in int8. The B under a salient entry is that of its sign too, so B is dense, and the product is
y = α·(S·x) + μ·Σx + (M⊙R)·x: one binary product and one sparse one.
Why: a few weights carry most of the error. Entry (i, j) is salient by W²/U_jj², the loss that GPTQ
would suffer by erasing it (U upper triangular, Uᵀ·U = E[x·xᵀ]⁻¹); by |W| without statistics. Its
share of each tile of `block` columns is `fraction`. μ and α are those of the entries outside M: the
published code also counts M's zeros among them, which costs 1.7 times the error at half salient.
With statistics the error of each column is passed to the columns after it, as in GPTQ. A binary
column can err by more than the later ones make good, so the result is kept only if it is better.
Exactness: approximate; with statistics, no worse on them than without.
Legality: any weight. A tile that is all salient has μ = α = 0, so fraction 1 is int8 rounding and
fraction 0 is `binary`.
Effect: 1 + 8·fraction bits a weight, 1 for the bitmap M, and 96 bits a block.
References: Shang et al. 2023 (PB-LLM), arXiv:2310.00034; Frantar et al. 2022 (GPTQ),
arXiv:2210.17323.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from ..grid import Grid
from ..layer import LayerData
from ..rounded import Format, Part, Rounded
from .binary import LEVELS, SIGNS, narrow, spread_of
from .checks import column_weights, finite_weight
from .gptq import inverse_factor

HIGH = Grid("int8")
DAMPING = 0.01
"""What is added to the diagonal of E[x·xᵀ] before it is inverted, over its mean."""
CHUNK = 128
"""Columns whose errors are passed on together."""


@dataclass(frozen=True)
class _Tile:
    """A run of columns that share scales.

    Attributes:
        columns: the run.
        salient: M of it, bool [O, n].
        center, reach, step: μ, α and the step of R, [O, 1] ([1, 1] for block −1).
    """

    columns: range
    salient: np.ndarray
    center: np.ndarray
    reach: np.ndarray
    step: np.ndarray

    def round(self, weight: np.ndarray, salient: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(signs as codes, codes of R) of some columns [O, n] of the tile."""
        above = weight >= self.center
        rest = weight - self.value(above, np.zeros_like(weight))
        codes = np.where(salient, HIGH.encode(rest, self.step, np.zeros(())), 0.0)
        return above, codes

    def value(self, above: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """What the codes stand for."""
        return self.center + np.where(above, self.reach, -self.reach) + self.step * codes


def partial_binary(
    layer: LayerData, wanted: Format, start: Rounded | None = None, *, fraction: float = 0.1
) -> Rounded:
    """The `fraction` most salient weights in int8, the rest binary; `start` is replaced.

    Raises:
        ValueError: a fraction outside [0, 1].
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"expected a fraction in [0, 1], got {fraction}")
    finite_weight(layer)
    plain = _rounded(layer, wanted, fraction, None)
    if layer.second is None or not layer.second.any():
        return replace(plain, notes=("no statistics: salient by size, no error feedback",))
    found = _rounded(layer, wanted, fraction, inverse_factor(layer.second, DAMPING))
    if layer.error(found.dense()) <= layer.error(plain.dense()):
        return found
    return replace(plain, notes=("error feedback did not help: salient by size",))


def _rounded(
    layer: LayerData, wanted: Format, fraction: float, factor: np.ndarray | None
) -> Rounded:
    """One tile after the other; with a factor U, errors passed on."""
    work = layer.target()
    pivot = _pivot(layer, factor)
    tiles: list[_Tile] = []
    above, codes = np.zeros(work.shape, np.uint8), np.zeros(work.shape, np.float32)
    for columns in _runs(0, work.shape[1], wanted.block):
        tiles.append(_tile(work, columns, pivot, fraction, min(wanted.block, 0)))
        _fill(work, tiles[-1], factor, above, codes)
    return _assembled(tiles, above, codes, wanted.block)


def most_salient(score: np.ndarray, fraction: float) -> np.ndarray:
    """The round(fraction·size) entries of highest score, bool like `score`; ties by position."""
    count = round(fraction * score.size)
    salient = np.zeros(score.size, bool)
    salient[np.argsort(-score, axis=None, kind="stable")[:count]] = True
    return salient.reshape(score.shape)


def _pivot(layer: LayerData, factor: np.ndarray | None) -> np.ndarray:
    """U_jj [I]; infinite for a column whose input was always 0, 1 without statistics."""
    if factor is None:
        return np.ones(layer.weight.shape[1])
    return np.where(column_weights(layer) > 0, np.diagonal(factor), np.inf)


def _runs(first: int, last: int, length: int) -> Iterator[range]:
    length = length if length > 0 else max(last - first, 1)
    for begin in range(first, last, length):
        yield range(begin, min(begin + length, last))


def _tile(
    work: np.ndarray, columns: range, pivot: np.ndarray, fraction: float, block: int
) -> _Tile:
    """Salient entries and scales of a run of columns, as earlier errors have left them."""
    weight = work[:, columns.start : columns.stop]
    salient = most_salient(np.abs(weight) / pivot[columns.start : columns.stop], fraction)
    one = Format(SIGNS, block)
    center, reach = spread_of(weight, one, held=~salient)
    tile = _Tile(columns, salient, center, reach, np.ones_like(reach))
    rest = weight - tile.value(weight >= center, np.zeros_like(weight))
    low, high = one.ranges(np.where(salient, rest, 0.0))
    step, _ = HIGH.fit(low, high)
    return replace(tile, step=narrow(step))


def _fill(
    work: np.ndarray,
    tile: _Tile,
    factor: np.ndarray | None,
    above: np.ndarray,
    codes: np.ndarray,
) -> None:
    """Round a tile into `above` and `codes`, passing errors on to the columns after it."""
    first, last = tile.columns.start, tile.columns.stop
    if factor is None:
        window = slice(first, last)
        above[:, window], codes[:, window] = tile.round(work[:, window], tile.salient)
        return
    for chunk in _runs(first, last, CHUNK):
        errors = np.empty((len(work), len(chunk)))
        for k, j in enumerate(chunk):
            column = slice(j, j + 1)
            sign, code = tile.round(work[:, column], tile.salient[:, j - first : j - first + 1])
            above[:, column], codes[:, column] = sign, code
            missed = (work[:, column] - tile.value(sign, code)) / factor[j, j]
            work[:, j : chunk.stop] -= missed * factor[j, j : chunk.stop]
            errors[:, k] = missed[:, 0]
        work[:, chunk.stop :] -= errors @ factor[chunk.start : chunk.stop, chunk.stop :]


def _assembled(tiles: list[_Tile], above: np.ndarray, codes: np.ndarray, block: int) -> Rounded:
    center, reach, step = (
        np.concatenate([getattr(tile, name) for tile in tiles], axis=1)
        for name in ("center", "reach", "step")
    )
    salient = np.concatenate([tile.salient for tile in tiles], axis=1)
    zero = np.zeros_like(step)
    low = Part(above, reach, zero, Format(SIGNS, block), LEVELS, offset=center)
    high = Part(codes, step, zero, Format(HIGH, block), mask=salient)
    return Rounded((low, high), (len(codes), codes.shape[1]), method="partial-binary")
