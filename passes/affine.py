"""The algebra of per-channel affine maps: y = scale⊙x + shift, and the ops that compute one."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..graph import Op, Value
from ..graph.ops import Affine, BatchNorm, Elementwise


@dataclass(frozen=True)
class Diagonal:
    """y = scale⊙x + shift.

    Attributes:
        scale, shift: float64 arrays of the value's rank, extent 1 where they do not vary.
    """

    scale: np.ndarray
    shift: np.ndarray

    @classmethod
    def of(cls, rank: int, scale: np.ndarray | None, shift: np.ndarray | None) -> "Diagonal":
        """From constants that broadcast to a value of `rank` (None for 1 and 0)."""
        return cls(_ranked(scale, rank, 1.0), _ranked(shift, rank, 0.0))

    @property
    def rank(self) -> int:
        return self.scale.ndim

    @property
    def shifts(self) -> bool:
        return bool(np.any(self.shift))

    @property
    def scales(self) -> bool:
        return bool(np.any(self.scale != 1))

    @property
    def cost(self) -> int:
        """How many pointwise ops it takes to compute."""
        return int(self.scales) + int(self.shifts)

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes along which it varies."""
        widths = np.maximum(self.scale.shape, self.shift.shape) if self.rank else np.ones(0)
        return tuple(int(axis) for axis in np.flatnonzero(widths > 1))

    def without_shift(self) -> "Diagonal":
        """The map without its shift."""
        return Diagonal(self.scale, np.zeros((1,) * self.rank))

    def then(self, outer: "Diagonal") -> "Diagonal":
        """outer∘self."""
        return Diagonal(outer.scale * self.scale, outer.scale * self.shift + outer.shift)

    def map(self, move: "Callable[[np.ndarray, float], np.ndarray | None]") -> "Diagonal | None":
        """Both arrays through `move(array, neutral)`; None when either cannot pass."""
        scale, shift = move(self.scale, 1.0), move(self.shift, 0.0)
        return None if scale is None or shift is None else Diagonal(scale, shift)

    def vectors(self, axis: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Scale and shift as vectors [width] along the one axis they may vary on."""
        shape = tuple(width if k == axis else 1 for k in range(self.rank))
        return (
            np.broadcast_to(self.scale, shape).reshape(width),
            np.broadcast_to(self.shift, shape).reshape(width),
        )

    def drop_leading(self, rank: int) -> "Diagonal | None":
        """The same map on a value of smaller rank that broadcasts; None if it varies up front."""
        extra = self.rank - rank
        if extra < 0 or any(axis < extra for axis in self.axes):
            return None
        tail = self.scale.shape[extra:], self.shift.shape[extra:]
        return Diagonal(self.scale.reshape(tail[0]), self.shift.reshape(tail[1]))


def _ranked(array: np.ndarray | None, rank: int, neutral: float) -> np.ndarray:
    if array is None:
        return np.full((1,) * rank, neutral)
    wide = np.asarray(array, dtype=np.float64)
    return wide.reshape((1,) * (rank - wide.ndim) + wide.shape)


def as_affine(op: Op) -> tuple[Value, Diagonal] | None:
    """`op` as a map of one computed operand that varies along one axis at most, if it is one."""
    if not op.outputs or not op.output.is_float or op.output.shape is None:
        return None
    found = _read_affine(op)
    if found is None or found[0].constant is not None:
        return None
    value, diagonal = found
    if value.shape != op.output.shape or value.dtype != op.output.dtype:
        return None  # it also broadcasts or promotes
    if diagonal.rank != op.output.rank or len(diagonal.axes) > 1:
        return None
    finite = np.isfinite(diagonal.scale).all() and np.isfinite(diagonal.shift).all()
    return (value, diagonal) if finite else None


def _read_affine(op: Op) -> tuple[Value, Diagonal] | None:
    rank = op.output.rank or 0
    match op:
        case Affine():
            return op.x, Diagonal.of(rank, _payload(op.scale), _payload(op.shift))
        case BatchNorm():
            return _batch_norm(op, rank)
        case Elementwise(fn="neg"):
            return op.require(0), Diagonal.of(rank, np.array(-1.0), None)
        case Elementwise(fn="add" | "sub" | "mul" | "div") if len(op.inputs) == 2:
            return _binary(op.fn, op.require(0), op.require(1), rank)
    return None


def _binary(fn: str, left: Value, right: Value, rank: int) -> tuple[Value, Diagonal] | None:
    if right.constant is not None and _is_vector(right):
        constant = np.asarray(right.array(), dtype=np.float64)
        return left, _right_constant(fn, constant, rank)
    if left.constant is not None and _is_vector(left) and fn != "div":
        constant = np.asarray(left.array(), dtype=np.float64)
        if fn == "sub":
            return right, Diagonal.of(rank, np.array(-1.0), constant)
        return right, _right_constant(fn, constant, rank)
    return None


def _right_constant(fn: str, constant: np.ndarray, rank: int) -> Diagonal:
    if fn in ("add", "sub"):
        return Diagonal.of(rank, None, constant if fn == "add" else -constant)
    with np.errstate(divide="ignore"):
        return Diagonal.of(rank, constant if fn == "mul" else 1.0 / constant, None)


def _is_vector(value: Value) -> bool:
    """Whether a constant varies along one axis at most (so that big tables are never read)."""
    return value.shape is not None and sum(dim != 1 for dim in value.shape) <= 1


def _batch_norm(op: BatchNorm, rank: int) -> tuple[Value, Diagonal] | None:
    scale, shift, mean, variance = (op.operand(k) for k in (1, 2, 3, 4))
    if any(v is not None and v.constant is None for v in (scale, shift, mean, variance)):
        return None
    assert mean is not None
    assert variance is not None
    gain = 1.0 / np.sqrt(variance.array().astype(np.float64) + op.eps)
    if scale is not None:
        gain = gain * scale.array().astype(np.float64)
    offset = -gain * mean.array().astype(np.float64)
    if shift is not None:
        offset = offset + shift.array().astype(np.float64)
    shape = (-1,) + (1,) * (rank - 2)
    return op.require(0), Diagonal.of(rank, gain.reshape(shape), offset.reshape(shape))


def _payload(value: Value | None) -> np.ndarray | None:
    return None if value is None else value.array()
