"""Binary weights: the mean of each block, and one sign a weight at one distance from it.

Rewrite: W → μ + α·sign(W − μ), with μ = mean W and α = mean|W − μ| per block; sign(0) = +1.
Why: Σ(W − μ − α·b)² = Σ(W − μ)² − 2α·Σ(W − μ)·b + n·α² for signs b. It is least for b =
sign(W − μ), which makes the middle sum Σ|W − μ|, and then for α = mean|W − μ|. A weight that equals
its mean takes +1, so that codes are always one of two and a packer never meets a third; a block
without spread has α = 0 and is its mean, exactly.
Exactness: approximate; lossless where a block has two values, equally often.
Legality: any weight; the mean goes into `Part.offset`, as y = α·(S·x) + μ·Σx.
Effect: 1 bit a weight and 64 bits a block.
References: Rastegari et al. 2016 (XNOR-Net), arXiv:1603.05279, §3.1; Shang et al. 2023 (PB-LLM),
arXiv:2310.00034.
"""

import numpy as np

from ..grid import Grid
from ..layer import LayerData
from ..rounded import Format, Part, Rounded, padded
from .checks import finite_weight

SIGNS = Grid("uint1", symmetric=False)
LEVELS = np.array([-1.0, 1.0])
"""What the codes 0 and 1 stand for."""


def binary(layer: LayerData, wanted: Format, start: Rounded | None = None) -> Rounded:
    """One sign a weight, in blocks of `wanted`, whose grid is not used; `start` is replaced."""
    weight = finite_weight(layer)
    center, reach = spread_of(weight, wanted)
    part = sign_part(weight, center, reach, wanted.block)
    return Rounded((part,), (weight.shape[0], weight.shape[1]), method="binary")


def spread_of(
    weight: np.ndarray, wanted: Format, held: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(μ, α) [O, blocks] of the entries `held`, bool [O, I], all by default; float32 values.

    A block that holds nothing has μ = α = 0.
    """
    width = weight.shape[1]
    held = np.ones(weight.shape, bool) if held is None else held
    count = np.maximum(block_sum(held.astype(np.float64), wanted), 1.0)
    center = narrow(block_sum(np.where(held, weight, 0.0), wanted) / count)
    distance = np.where(held, np.abs(weight - wanted.spread(center, width)), 0.0)
    return center, narrow(block_sum(distance, wanted) / count)


def sign_part(
    weight: np.ndarray,
    center: np.ndarray,
    reach: np.ndarray,
    block: int,
    columns: np.ndarray | None = None,
) -> Part:
    """The nearest of μ ± α to every weight [O, I]; of those columns of the whole, if given."""
    stored = Format(SIGNS, block)
    codes = (weight >= stored.spread(center, weight.shape[1])).astype(np.uint8)
    zero = np.zeros_like(reach)
    return Part(codes, reach, zero, stored, LEVELS, columns=columns, offset=center)


def block_sum(values: np.ndarray, wanted: Format) -> np.ndarray:
    """Sum of every block of values [O, I]: [O, blocks], or [1, 1] for block −1."""
    if wanted.block < 0:
        return values.sum(keepdims=True)
    if wanted.block == 0:
        return values.sum(axis=1, keepdims=True)
    return padded(values, wanted.block).sum(axis=2)


def narrow(values: np.ndarray) -> np.ndarray:
    """What float32 keeps of the values, in float64."""
    return values.astype(np.float32).astype(np.float64)
