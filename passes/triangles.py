"""Matrices that depend only on whether the last axis is before, at or after the one before it."""

from typing import NamedTuple

import numpy as np

from ..graph import Op, Shape, Value
from ..graph.ops import Cast, Elementwise, Identity, Reshape, Triangle, Unsqueeze
from .numbers import apply, uniform

SEARCHED = 1 << 24
"""Elements of a constant that are looked through."""
DEPTH = 6
"""Ops that are looked through."""


class Sides(NamedTuple):
    """What such a matrix [.., n, n] holds before, on and after the diagonal, each [.., 1, 1]."""

    before: np.ndarray
    diagonal: np.ndarray
    after: np.ndarray

    def square(self, count: int) -> np.ndarray:
        """The matrix [.., count, count] of these sides."""
        column, row = np.arange(count), np.arange(count)[:, None]
        return np.select([column < row, column == row], [self.before, self.diagonal], self.after)


def sides(value: Value, depth: int = DEPTH) -> Sides | None:
    """The sides of a matrix; None where it is no such matrix, or not known to be one.

    A causal mask and an identity matrix are some, a table of relative positions is not.
    """
    if value.constant is not None:
        return _held(value)
    op, shape = value.producer, value.shape
    if depth == 0 or op is None or shape is None or len(shape) < 2:
        return None
    if shape[-1] != shape[-2] or not isinstance(shape[-1], int) or shape[-1] < 2:
        return None
    found = _made(op, shape, depth)
    if found is None or value.dtype is None:
        return None
    return Sides(
        *(np.array(number).astype(value.dtype).reshape((1,) * len(shape)) for number in found)
    )


def _made(op: Op, shape: Shape, depth: int) -> tuple[float, ...] | None:
    """The three numbers of what an op makes."""
    match op:
        case Triangle() if abs(op.diagonal) <= 1:
            number = uniform(op.require(0))
            kept = [
                (place >= op.diagonal) == op.upper or place == op.diagonal for place in (-1, 0, 1)
            ]
            return None if number is None else tuple(number * keep for keep in kept)
        case Unsqueeze() | Reshape() | Cast() | Identity():
            x = op.require(0)
            same = x.shape is not None and x.shape[-2:] == shape[-2:]
            return _numbers(sides(x, depth - 1)) if same else None
        case Elementwise():
            return _pointwise(op, depth)
    return None


def _cut(op: Triangle) -> tuple[float, ...] | None:
    """A diagonal beside the main one would cut between two that are on the same side."""
    number = uniform(op.require(0))
    kept = [place >= op.diagonal if op.upper else place <= op.diagonal for place in (-1, 0, 1)]
    return None if number is None else tuple(number * keep for keep in kept)


def _pointwise(op: Elementwise, depth: int) -> tuple[float, ...] | None:
    parts = []
    for index in range(len(op.inputs)):
        number = uniform(op.require(index))
        part = _numbers(sides(op.require(index), depth - 1)) if number is None else (number,) * 3
        if part is None:
            return None
        parts.append(part)
    found = [apply(op.fn, [part[k] for part in parts]) for k in range(3)]
    known = tuple(number for number in found if number is not None)
    return known if len(known) == 3 else None


def _numbers(found: Sides | None) -> tuple[float, ...] | None:
    """The sides as one number each, if they are the same in every matrix of the stack."""
    if found is None or any(side.size != 1 for side in found):
        return None
    return tuple(float(side.reshape(())) for side in found)


def _held(value: Value) -> Sides | None:
    payload = value.constant
    if payload is None or len(payload.shape) < 2 or not 0 < np.prod(payload.shape) <= SEARCHED:
        return None
    rows, columns = payload.shape[-2:]
    if rows != columns or rows < 2:
        return None
    array = payload.array()
    found = Sides(array[..., 1:2, :1], array[..., :1, :1], array[..., :1, 1:2])
    return found if np.array_equal(found.square(rows), array) else None
