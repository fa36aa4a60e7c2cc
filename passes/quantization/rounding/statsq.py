"""A half-integer grid whose range is twice the mean magnitude, as OFQ trains with.

Rewrite: W ≈ s·(k + ½)/n, n = 2^(bits−1), s = 2·mean|W| of a block,
k = round(n·clip(W/s, −1, 1 − 10⁻⁶) − ½), half to even, in −n..n−1.
Why: a network trained with this quantizer has weights that it reproduces exactly from W alone.
Exactness: exact for such checkpoints; elsewhere approximate and poor: the range does not grow with
the bits, so of Gaussian weights 0.138, 0.071, 0.050 of the power is lost at 2, 3, 4 bits, where
the best even grids lose 0.119, 0.037, 0.012. Do not use it to quantize a model trained in float.
Legality: integer formats of 1 to 8 bits. The grid has no 0: a block of zeros gets scale 0.
Effect: stored with 2^bits table entries. `integer_form` has the same weight without a table:
y = (s/n)·(K·x) + (s/2n)·Σx, integers K and one sum of x a block, since the zero point of a
half-integer grid is no integer.
References: Liu et al. 2023, Oscillation-free Quantization, arXiv:2302.02210.
"""

from dataclasses import replace

import numpy as np

from ..grid import Grid
from ..layer import LayerData
from ..rounded import Format, Part, Rounded
from .checks import finite_weight, table_bits
from .rescale import block_sums
from .tables import quotient, stored_scale


def statsq(layer: LayerData, wanted: Format, start: Rounded | None = None) -> Rounded:
    """The weight on StatsQ's grid; `start` is replaced."""
    weight = finite_weight(layer)
    half = 2 ** (table_bits(layer, wanted, "statsq", least=1) - 1)
    counts = block_sums(np.ones_like(weight), wanted)
    scale = stored_scale(2 * block_sums(np.abs(weight), wanted) / counts)
    unit = quotient(weight, np.broadcast_to(wanted.spread(scale, weight.shape[1]), weight.shape))
    levels = np.clip(np.rint(np.clip(unit, -1, 1 - 1e-6) * half - 0.5), -half, half - 1)
    part = Part(
        (levels + half).astype(np.uint8),
        scale,
        np.zeros_like(scale),
        replace(wanted, grid=Grid(f"uint{wanted.grid.bits}")),
        table=(np.arange(-half, half) + 0.5) / half,
    )
    return Rounded((part,), layer.weight.shape, method="statsq")


def integer_form(rounded: Rounded) -> Rounded:
    """The same weight as integer codes and a correction of one sum of x a block, without a table.

    Of the result, the part holds K + n as unsigned codes of zero point n and scale s/n, left
    [O, blocks] holds s/2n, and right [blocks, I] is 1 where column j lies in the block, else 0, so
    that right·x is ReduceSum of x over each block.

    Raises:
        ValueError: `rounded` is not what `statsq` made.
    """
    (part,) = rounded.parts if len(rounded.parts) == 1 else (None,)
    half = 0 if part is None else 2 ** (part.format.grid.bits - 1)
    grid = (np.arange(-half, half) + 0.5) / max(half, 1)
    if part is None or part.table is None or not np.array_equal(part.table, grid):
        raise ValueError(f"expected a weight on a half-integer grid, got {rounded.method!r}")
    rows, width = rounded.shape
    step = part.scale / half
    integers = Part(part.codes, step, np.full_like(step, half), part.format)
    blocks = part.format.blocks(width)
    right = part.format.spread(np.eye(blocks), width) if part.format.block > 0 else 1.0
    return replace(
        rounded,
        parts=(integers,),
        left=np.broadcast_to(step / 2, (rows, blocks)).astype(np.float32),
        right=np.broadcast_to(right, (blocks, width)).astype(np.float32),
    )
