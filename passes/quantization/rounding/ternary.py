"""Ternary weights: −α, 0 or α, with the α that is best for the block, found exactly.

Rewrite: W → α·round(clip(W/α, −1, 1)) per block.
Why: at a given α the nearest of {−α, 0, α} is best, so the entries off zero are the k largest of
|W| for some k. For each k the best α is Σ h|W| / Σ h over those entries, and it lowers the error
Σ h(W − Ŵ)² by (Σ h|W|)²/Σ h: one sort and two running sums give the best k, hence the global best.
h_j = E[x_j²] where it was calibrated, else 1. The α = 4/3·mean|W| of ternary training balances the
three codes instead, and is 5 % worse on Gaussian weights.
Exactness: approximate; lossless where every block has values −a, 0 and a only.
Legality: any weight. A block of zeros has α = 1 and stays zeros.
Effect: 2 bits a weight as stored (log₂3 as information) and 32 bits a block; no zero point.
References: Li et al. 2016 (TWN), arXiv:1605.04711; Liu et al. 2023 (TBT), arXiv:2306.01841.
"""

import numpy as np

from ..grid import Grid
from ..layer import LayerData
from ..rounded import Format, Part, Rounded, padded
from .binary import narrow
from .checks import column_weights, finite_weight

TERNARY = Grid("int2")


def ternary(layer: LayerData, wanted: Format, start: Rounded | None = None) -> Rounded:
    """Codes −1, 0, 1 in blocks of `wanted`, whose grid is not used; `start` is replaced."""
    weight = finite_weight(layer)
    scale = narrow(best_scale(weight, importance(layer), wanted))
    codes = np.rint(np.clip(weight / wanted.spread(scale, weight.shape[1]), -1.0, 1.0))
    stored = Format(TERNARY, wanted.block)
    part = Part(codes.astype(np.float32), scale, np.zeros_like(scale), stored)
    return Rounded((part,), (weight.shape[0], weight.shape[1]), method="ternary")


def importance(layer: LayerData) -> np.ndarray:
    """E[x_j²] [I], but never 0: what calibration did not use may be used later. 1 if unknown."""
    power = column_weights(layer)
    floor = 1e-6 * float(power.mean())
    return power + floor if floor > 0 else np.ones(len(power))


def best_scale(weight: np.ndarray, power: np.ndarray, wanted: Format) -> np.ndarray:
    """The α [O, blocks] that minimises Σ power·(W − Ŵ)² of each block; 1 for a block of zeros."""
    size = _grouped(np.abs(weight), wanted)
    order = np.argsort(-size, axis=2, kind="stable")
    share = _grouped(np.broadcast_to(power, weight.shape), wanted)
    largest = np.take_along_axis(size, order, axis=2)
    weighed = np.take_along_axis(share, order, axis=2)
    total = np.cumsum(weighed * largest, axis=2)
    count = np.maximum(np.cumsum(weighed, axis=2), np.finfo(np.float64).tiny)
    best = np.argmax(total**2 / count, axis=2)[:, :, None]
    scale = np.take_along_axis(total / count, best, axis=2)[:, :, 0]
    return np.where(scale > 0, scale, 1.0)


def _grouped(values: np.ndarray, wanted: Format) -> np.ndarray:
    """[O, I] as [O, blocks, entries], or [1, 1, O·I] for block −1."""
    if wanted.block < 0:
        return values.reshape(1, 1, -1)
    return padded(values, wanted.block or values.shape[1])
