"""Whether what is written to a residual stream sums to zero along the features."""

import numpy as np

from ..graph import Value
from ..graph.ops import Conv, Gather, Linear
from .basis import recentred_from
from .streams import Writer
from .weights import BLOCK_BYTES, row_axis

ROUNDING = 16 * float(np.finfo(np.float64).eps)
"""Relative error that float64 arithmetic itself may leave in a mean."""


def is_zero_mean(writer: Writer) -> bool:
    """Whether the writer's values sum to 0 along the features, up to rounding of its weights."""
    if writer.is_computed:
        return recentred_from(writer.value, writer.axis) is not None
    return all(_is_centred(value, axis) for value, axis in written_constants(writer))


def is_nonzero(writer: Writer) -> bool:
    """Whether the writer can put anything but zeros on the stream."""
    return writer.is_computed or any(value.array().any() for value, _ in written_constants(writer))


def written_constants(writer: Writer) -> list[tuple[Value, int]]:
    """The constants that a writer's values are made from, with the features' axis (−1: flat)."""
    op = writer.op
    match op:
        case None:
            return [(writer.value, writer.axis)]
        case Gather():
            return [(op.x, writer.axis - (op.indices.rank or 0) + 1)]
    assert isinstance(op, Linear | Conv)
    bias = [] if op.bias is None else [(op.bias, 0)]
    return [(op.weight, row_axis(op)), *bias]


def _is_centred(value: Value, axis: int) -> bool:
    """Whether |mean| is at most what rounding each entry twice can leave: ulp(1)·mean|x|.

    Twice, because a gain may be folded into a recentred weight.
    A wider bound would take any half-precision table for recentred: in bfloat16 the mean of d
    random numbers, 1/√d, is soon below a few ulps of their largest.
    """
    array = value.array()
    if axis < 0:
        return not array.any()
    moved = np.moveaxis(array, axis, 0)
    flat = moved.reshape(moved.shape[0], -1)
    relative, absolute = _precision(array.dtype)
    columns = max(1, BLOCK_BYTES // (8 * max(1, flat.shape[0])))
    for start in range(0, flat.shape[1], columns):
        block = flat[:, start : start + columns].astype(np.float64)
        bound = relative * np.abs(block).mean(axis=0) + absolute
        if np.any(np.abs(block.mean(axis=0)) > bound):
            return False
    return True


def _precision(dtype: np.dtype) -> tuple[float, float]:
    """Relative and absolute error of rounding to `dtype`, with 1% for the measurement itself."""
    one = np.ones((), dtype)
    ulp = float(np.nextafter(one, one + one)) - 1.0
    return 1.01 * max(ulp, ROUNDING), float(np.nextafter(one - one, one))
