"""A free table of 2^bits values a layer, fitted by k-means and then to the layer's output.

Rewrite: W ≈ s·table[k], one s a block (its root mean square, or that of the stage before).
Why: of all tables the best for Σ E[x_j²]·(W − Ŵ)²_ij is that of weighted k-means of W/s, which on a
line can be had exactly (`kmeans`); the best s at given codes is a least-squares quotient; both are
repeated in turn. With H = E[x·xᵀ] the output's error tr((T − Ŵ)·H·(T − Ŵ)ᵀ) is then lowered in
turns: entries and scales by gradients, codes by steps to the nearest entries of what the gradient
asks for, column by column (`learned_table`).
With several clusters, rows whose weights are distributed alike share a table: the clusters are
k-means of the rows' quantiles. Neither columns nor rows are moved, so each row stores its own copy
of its table.
Exactness: approximate; exact where W/s has at most 2^bits distinct values, up to float32. No step
is kept that raises the error.
Legality: integer formats of 1 to 8 bits; one plain tensor before it at most, for its scales.
Effect: 32·2^bits bits a layer, with clusters 32·2^bits a row: at 2 bits and 1024 columns an eighth
of a bit a weight, at 4 bits half a bit.
References: Yvinec et al. 2023, JLCM, arXiv:2309.17361.
"""

import numpy as np

from ..layer import LayerData
from ..rounded import Format, Part, Rounded
from .checks import column_weights, finite_weight, plain_part, table_bits
from .kmeans import SortedNumbers, kmeans
from .learned_table import learned
from .rescale import block_errors, block_sums
from .tables import quotient, table_part

ROUNDS = 4
QUANTILES = np.linspace(0, 1, 17)


def codebook(
    layer: LayerData, wanted: Format, start: Rounded | None = None, *, parameter: int = 1
) -> Rounded:
    """The weight as codes into a table of its own.

    Args:
        layer: without `second` the table is fitted to W alone.
        wanted: an integer format; its bits give the number of entries.
        start: whose scales are taken first; where None, root mean squares.
        parameter: number of clusters of rows; 1 for one table, O or more for one a row.
    """
    if parameter < 1:
        raise ValueError(f"codebook expected at least 1 cluster of rows, got {parameter}")
    finite_weight(layer)
    weight, columns = layer.target(), column_weights(layer)
    table_bits(layer, wanted, "codebook", least=1)
    scale = first_scales(layer, weight, wanted, start)
    labels = row_clusters(quotient(weight, spread_over(scale, weight, wanted)), parameter)
    part = fitted(weight, columns, wanted, scale, labels)
    notes = start.notes if start else ()
    if layer.second is None or not layer.second.any():
        notes = (*notes, "codebook: no statistics of the inputs, fitted to the weights alone")
    else:
        part = learned(part, weight, layer.second, labels)
    before = f"{start.method}+" if start else ""
    return Rounded((part,), layer.weight.shape, method=f"{before}codebook", notes=notes)


def first_scales(
    layer: LayerData, weight: np.ndarray, wanted: Format, start: Rounded | None
) -> np.ndarray:
    """Scales of `start`, else each block's root mean square; 1 for a block of zeros."""
    part = plain_part(layer, start, "codebook")
    if part is not None and part.format.block == wanted.block:
        return np.where(part.scale > 0, part.scale, 1.0)
    mean = block_sums(weight**2, wanted) / block_sums(np.ones_like(weight), wanted)
    return np.where(mean > 0, np.sqrt(mean), 1.0)


def fitted(
    weight: np.ndarray, columns: np.ndarray, wanted: Format, scale: np.ndarray, labels: np.ndarray
) -> Part:
    """Tables and scales in turn for the weighted squared error; labels [O] are rows' clusters."""
    tables = best_tables(weight, columns, wanted, scale, labels, None)
    part = table_part(weight, wanted, scale, by_row(tables, labels))
    error = block_errors(part, weight, columns).sum()
    for _ in range(ROUNDS):
        scale = least_squares_scales(part, weight, columns)
        tables = best_tables(weight, columns, wanted, scale, labels, tables)
        better = table_part(weight, wanted, scale, by_row(tables, labels))
        after = block_errors(better, weight, columns).sum()
        if not after < error * (1 - 1e-3):
            break
        part, error = better, after
    return part


def best_tables(
    weight: np.ndarray,
    columns: np.ndarray,
    wanted: Format,
    scale: np.ndarray,
    labels: np.ndarray,
    start: np.ndarray | None,
) -> np.ndarray:
    """Each cluster's best table for W/s, from `start` where there is one: [clusters, K]."""
    spread = spread_over(scale, weight, wanted)
    unit, mass = quotient(weight, spread), columns * spread**2
    found = []
    for label in range(int(labels.max()) + 1):
        rows = labels == label
        before = None if start is None else start[label]
        numbers = SortedNumbers(unit[rows], mass[rows])
        found.append(kmeans(numbers, 2**wanted.grid.bits, before))
    return np.stack(found)


def by_row(tables: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The table [K] if there is one, else each row's [O, K]."""
    return tables[0] if len(tables) == 1 else tables[labels]


def spread_over(scale: np.ndarray, weight: np.ndarray, wanted: Format) -> np.ndarray:
    """Scales [O or 1, blocks] as [O, I]."""
    return np.broadcast_to(wanted.spread(scale, weight.shape[1]), weight.shape)


def least_squares_scales(part: Part, weight: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Σ h·w·t / Σ h·t² of each block; the old scale where that is not positive."""
    scale = np.where(part.scale > 0, part.scale, 1.0)
    unit = quotient(part.dense(), spread_over(part.scale, weight, part.format))
    up = block_sums(columns * weight * unit, part.format)
    down = block_sums(columns * unit**2, part.format)
    return np.where((up > 0) & (down > 0), up / np.where(down > 0, down, 1.0), scale)


def row_clusters(unit: np.ndarray, count: int) -> np.ndarray:
    """Labels [O], 0.. without gaps, of rows by the quantiles of their values; deterministic.

    k-means from groups of equal size along the quantiles' main direction.
    """
    rows = len(unit)
    if count >= rows:
        return np.arange(rows)
    features = np.quantile(unit, QUANTILES, axis=1).T
    centred = features - features.mean(axis=0)
    main = np.linalg.svd(centred, full_matrices=False)[2][0]
    labels = np.empty(rows, dtype=np.int64)
    labels[np.argsort(centred @ main, kind="stable")] = np.arange(rows) * count // rows
    for _ in range(20):
        centres = np.stack([features[labels == label].mean(axis=0) for label in np.unique(labels)])
        distances = ((features[:, None, :] - centres) ** 2).sum(axis=2)
        before, labels = labels, distances.argmin(axis=1)
        if np.array_equal(before, labels):
            break
    return np.unique(labels, return_inverse=True)[1].reshape(-1)
