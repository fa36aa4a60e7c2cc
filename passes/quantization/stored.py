"""Write a rounded weight into a graph, in the form that it is stored in.

One part of plain codes becomes `Dequantize(codes, scale, zero point)`. Anything else (a table of
values, several parts, rank-1 factors) becomes the arithmetic that makes the weight of what is
stored (expression.py); no runtime has a kernel for it, and each computes it once when it loads the
model.
"""

import numpy as np

from ...graph import Graph, Op, Value
from ...graph.ops import Dequantize
from .expression import FP4, Writer, write_sum
from .rounded import Part, Rounded


def is_plain(rounded: Rounded) -> bool:
    """Whether the weight is one tensor of codes with scales."""
    part = rounded.parts[0]
    if part.format.grid.name == FP4:
        return False
    extras = (part.table, part.columns, part.offset, part.mask, rounded.rows, rounded.columns)
    return len(rounded.parts) == 1 and all(extra is None for extra in extras)


def write_weight(graph: Graph, op: Op, rounded: Rounded, *, by_columns: bool = False) -> Value:
    """The weight as [O, I], or as [I, O] `by_columns`, right before `op`.

    A correction of low rank is left out.
    """
    if is_plain(rounded):
        return _codes(graph, op, rounded.parts[0], by_columns=by_columns)
    return write_sum(graph, op, rounded, by_columns=by_columns)


def _codes(graph: Graph, op: Op, part: Part, *, by_columns: bool) -> Value:
    writer = Writer(graph, op)
    arrays = (part.codes, part.scale, part.zero)
    codes, scale, zero = (array.T if by_columns else array for array in arrays)
    block, dtype = part.format.block, part.format.grid.dtype
    if block <= 0:
        shape = () if block < 0 else (-1,)
        scale, zero = scale.reshape(shape), zero.reshape(shape)
    operands = [writer.constant(codes.astype(dtype), "codes"), writer.number(scale, "scale")]
    if np.any(zero):
        operands.append(writer.constant(zero.astype(dtype), "zero_point"))
    along_rows = int(by_columns) if block == 0 else int(not by_columns)
    made = Dequantize(
        inputs=list(operands), axis=None if block < 0 else along_rows, block=max(block, 0)
    )
    return writer.add(made, codes.shape, writer.dtype)
