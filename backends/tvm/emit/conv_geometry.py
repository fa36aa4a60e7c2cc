"""The extents of a convolution, and where it reads.

A transposed convolution with stride s is one with stride 1 of x with s − 1 zeros between
neighbours, by the kernel turned round; what it pads is what the forward one does not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ....graph.ops import Conv
from .dims import Extent


@dataclass(frozen=True)
class Geometry:
    """A convolution as one of padded data with a plain stride; per spatial axis where a tuple.

    Attributes:
        channels, out: of one group, of x and of the result.
        groups: how many groups.
        size: extents of x.
        kernel, stride, dilation: of the kernel.
        begin, end: zeros before and after (negative: elements dropped).
        gap: distance in the padded data of neighbours of x.
    """

    channels: int
    out: int
    groups: int
    size: tuple[Extent, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]
    gap: tuple[int, ...]

    @property
    def is_padded(self) -> bool:
        return any((*self.begin, *self.end)) or any(gap > 1 for gap in self.gap)

    @property
    def is_pointwise(self) -> bool:
        """Whether each position of the result reads the same position of x, and no other."""
        return set(self.kernel) == {1} and set(self.stride) == {1} and not self.is_padded

    @property
    def wide(self) -> tuple[Extent, ...]:
        """Extents of the padded data."""
        axes = zip(self.size, self.gap, self.begin, self.end, strict=True)
        return tuple((size - 1) * gap + 1 + begin + end for size, gap, begin, end in axes)

    @property
    def across(self) -> tuple[Extent, ...]:
        """Extents of the result."""
        axes = zip(self.wide, self.kernel, self.dilation, self.stride, strict=True)
        return tuple((wide - (k - 1) * d - 1) // s + 1 for wide, k, d, s in axes)


def geometry_of(op: Conv, size: Sequence[Extent], weight: Sequence[int]) -> Geometry:
    """What a convolution does.

    Args:
        op: the convolution; its padding is known.
        size: spatial extents of x.
        weight: extents of the weight.
    """
    kernel = tuple(weight[2:])
    ones = (1,) * len(kernel)
    stride, dilation = tuple(op.stride) or ones, tuple(op.dilation) or ones
    pads = tuple(op.padding or ((0, 0),) * len(kernel))
    begin, end = tuple(b for b, _ in pads), tuple(e for _, e in pads)
    if not op.transposed:
        out = weight[0] // op.groups
        return Geometry(
            weight[1], out, op.groups, tuple(size), kernel, stride, dilation, begin, end, ones
        )
    reach = tuple((k - 1) * d for k, d in zip(kernel, dilation, strict=True))
    extra = tuple(op.output_padding) or (0,) * len(kernel)
    return Geometry(
        weight[0] // op.groups,
        weight[1],
        op.groups,
        tuple(size),
        kernel,
        ones,
        dilation,
        tuple(r - b for r, b in zip(reach, begin, strict=True)),
        tuple(r - e + x for r, e, x in zip(reach, end, extra, strict=True)),
        stride,
    )


def forward(weight: np.ndarray, geometry: Geometry) -> np.ndarray:
    """The weight [C, O/groups, *kernel] of a transposed convolution as [O, C/groups, *kernel]."""
    turned = np.flip(weight, tuple(range(2, weight.ndim)))
    grouped = turned.reshape(
        geometry.groups, geometry.channels, geometry.out, *geometry.kernel
    ).swapaxes(1, 2)
    return grouped.reshape(-1, geometry.channels, *geometry.kernel)


def digits(position: Any, extents: Sequence[Extent]) -> list[Any]:
    """Indices along axes of these extents of the element at a position, the last axis fastest."""
    from tvm import tirx

    found: list[Any] = []
    for extent in reversed(extents[1:]):
        found.append(tirx.floormod(position, extent))
        position = tirx.floordiv(position, extent)
    return [position, *reversed(found)]


def position_of(indices: Sequence[Any], extents: Sequence[Extent]) -> Any:
    """The inverse of `digits`."""
    position = indices[0]
    for index, extent in zip(indices[1:], extents[1:], strict=True):
        position = position * extent + index
    return position
