"""The part of the vocabulary that only moves, drops, repeats or joins elements, or casts them."""

from dataclasses import dataclass

import numpy as np

from .value import Op, Value

FLOAT32 = np.dtype(np.float32)


@dataclass(eq=False, kw_only=True)
class Reshape(Op):
    """Same elements, new shape. Inputs: x, then the values that `dims` or the IR refers to.

    Attributes:
        dims: the target, one entry per result axis: an extent, −1, or the position in `inputs` of
            the integer value that holds it (wrapped in `Ref`). None when the IR computes the whole
            target as one tensor, which is then `inputs[1]`.
    """

    dims: "tuple[int | Ref, ...] | None" = None


@dataclass(frozen=True)
class Ref:
    """Position in `Op.inputs` of a computed extent."""

    index: int


@dataclass(eq=False, kw_only=True)
class Expand(Op):
    """Broadcast x to a larger shape. Inputs and `dims` as in `Reshape` (−1 keeps an extent)."""

    dims: "tuple[int | Ref, ...] | None" = None


@dataclass(eq=False, kw_only=True)
class Transpose(Op):
    """Result axis i is axis perm[i] of x."""

    perm: tuple[int, ...] = ()


@dataclass(eq=False, kw_only=True)
class Squeeze(Op):
    """Drop axes of extent 1.

    Attributes:
        axes: axes of x.
    """

    axes: tuple[int, ...] = ()


@dataclass(eq=False, kw_only=True)
class Unsqueeze(Op):
    """Insert axes of extent 1.

    Attributes:
        axes: their positions in the result.
    """

    axes: tuple[int, ...] = ()


@dataclass(eq=False, kw_only=True)
class Slice(Op):
    """x restricted along some axes.

    Attributes:
        axes: the axes restricted; every other axis is whole.
        starts, ends, steps: per axis, as in Python (negative from the end; large ends clamp);
            None when the IR computes them: then only `axes` is known.
    """

    axes: tuple[int, ...] = ()
    starts: tuple[int, ...] | None = None
    ends: tuple[int, ...] | None = None
    steps: tuple[int, ...] | None = None


@dataclass(eq=False, kw_only=True)
class Concat(Op):
    """The inputs, all tensors, joined along one axis."""

    axis: int = 0


@dataclass(eq=False, kw_only=True)
class Split(Op):
    """x cut into consecutive pieces along one axis; one result each.

    Attributes:
        axis: the axis cut.
        sizes: extents of the pieces.
    """

    axis: int = 0
    sizes: tuple[int, ...] = ()


@dataclass(eq=False, kw_only=True)
class Unbind(Op):
    """x cut into slices of extent 1 along one axis, which is dropped; one result each."""

    axis: int = 0


@dataclass(eq=False, kw_only=True)
class Gather(Op):
    """Entries of x along one axis. Inputs: x, indices (an integer tensor of any rank).

    The result's shape is x's with that axis replaced by the shape of `indices`; an embedding is a
    Gather on axis 0 of its table, a select one with a scalar constant.
    """

    axis: int = 0

    @property
    def x(self) -> Value:
        return self.require(0)

    @property
    def indices(self) -> Value:
        return self.require(1)


@dataclass(eq=False, kw_only=True)
class Cast(Op):
    """x in another element type."""

    dtype: np.dtype = FLOAT32


@dataclass(eq=False, kw_only=True)
class Identity(Op):
    """x itself: dropout at inference, contiguous, detach, clone."""


MOVEMENT = (
    Reshape,
    Expand,
    Transpose,
    Squeeze,
    Unsqueeze,
    Slice,
    Concat,
    Split,
    Unbind,
    Gather,
    Cast,
    Identity,
)
"""Ops that only move, drop, repeat or join elements (or change their type)."""
