"""Read a weight that is stored in codes of few bits out of the graph.

    W = (codes − zero)·scale + offset   or   table[codes]·scale + offset
It is what `Dequantize` makes of constants, or the arithmetic of `passes.quantization.expression`: a
cast or a lookup of constant codes, then products and sums with constants. Either may be turned,
reshaped and sliced. Every number is kept for each element until the end, where rows of equal scale
become blocks; so it does not matter in which order the graph does it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import gcd

import numpy as np

from ....graph import Op, Value, bits_of
from ....graph.ops import (
    Cast,
    Dequantize,
    Elementwise,
    Gather,
    Identity,
    Reshape,
    Slice,
    Transpose,
)
from ....graph.quant_numbers import spread
from ..schedules.weight_only_format import ENTRIES
from .emission import computed

INTEGERS = ("int2", "uint2", "int4", "uint4", "int8", "uint8")


@dataclass(frozen=True)
class Coded:
    """A stored tensor; see the module docstring.

    Attributes:
        codes: integers of any shape.
        bits: that a code takes.
        scale, zero, offset: of the shape of `codes` once broadcast; zeros are whole.
        table: what codes stand for, or None for themselves.
    """

    codes: np.ndarray
    bits: int
    scale: np.ndarray
    zero: np.ndarray
    offset: np.ndarray
    table: np.ndarray | None = None

    def moved(self, move: Callable[[np.ndarray], np.ndarray]) -> "Coded":
        """The same elements at other places."""

        def part(array: np.ndarray) -> np.ndarray:
            return array if array.size == 1 else move(np.broadcast_to(array, self.codes.shape))

        scale, zero, offset = map(part, (self.scale, self.zero, self.offset))
        return Coded(move(self.codes), self.bits, scale, zero, offset, self.table)

    @property
    def block(self) -> int:
        """How many rows of a matrix have one scale, zero and offset, column by column."""
        rows = self.codes.shape[0]
        steps = np.zeros(rows, bool)
        for array in (self.scale, self.zero, self.offset):
            if array.size > 1 and array.shape[0] == rows:
                steps[1:] |= (array[1:] != array[:-1]).any(1)
        return gcd(*map(int, np.flatnonzero(steps))) if steps.any() else rows


def coded(value: Value) -> Coded | None:
    """How a value is stored in codes; None where it is not, or in a form that has no kernel."""
    op = value.producer
    if isinstance(op, Dequantize):
        return _dequantized(op)
    if isinstance(op, Transpose | Identity | Reshape | Slice):
        return _moved(op, value)
    if isinstance(op, Elementwise) and op.fn in ("mul", "add", "sub"):
        return _scaled(op)
    if isinstance(op, Gather):
        return _looked_up(op)
    if isinstance(op, Cast):
        return _counted(op)
    return None


def straight(found: Coded) -> Coded:
    """A table of equal steps is no table: T[q] = T[0] + (T[1] − T[0])·q."""
    table = found.table
    if table is None or len(table) < 2:
        return found
    first, step = table[0], table[1] - table[0]
    if not np.allclose(table, first + step * np.arange(len(table)), rtol=0, atol=abs(step) * 1e-7):
        return found
    scale = found.scale * step
    offset = found.offset + found.scale * first
    return replace(found, scale=scale, offset=offset, table=None)


def _dequantized(op: Dequantize) -> Coded | None:
    if computed(op.inputs) or op.x.dtype is None:
        return None
    if op.x.dtype.name not in INTEGERS or op.output.dtype != np.float32:
        return None
    codes = op.x.array().astype(np.int16)
    zero = np.zeros(1) if op.zero_point is None else op.zero_point.array().astype(np.int16)
    scale, zero = (
        spread(part, codes.shape, op.axis, op.block) for part in (op.scale.array(), zero)
    )
    return Coded(codes, bits_of(op.x.dtype), scale, zero, np.zeros(1))


def _moved(op: Op, value: Value) -> Coded | None:
    found = coded(op.require(0))
    if found is None or isinstance(op, Identity):
        return found
    if isinstance(op, Transpose):
        return found.moved(lambda array: array.transpose(op.perm))
    if isinstance(op, Slice):
        if op.starts is None or op.ends is None or op.steps is None:
            return None
        cut = [slice(None)] * found.codes.ndim
        for axis, *bounds in zip(op.axes, op.starts, op.ends, op.steps, strict=True):
            cut[axis] = slice(*bounds)
        return found.moved(lambda array: array[tuple(cut)])
    shape = value.shape
    if shape is None or not all(isinstance(extent, int) for extent in shape):
        return None
    return found.moved(lambda array: array.reshape([int(extent) for extent in shape]))


def _scaled(op: Elementwise) -> Coded | None:
    """codes·constant, codes + constant, constant + codes, codes − constant."""
    a, b = op.require(0), op.require(1)
    if a.constant is not None and op.fn != "sub":
        a, b = b, a
    found = coded(a) if b.constant is not None else None
    if found is None or op.output.dtype != np.float32:
        return None
    number = b.array().astype(np.float64)
    if np.broadcast_shapes(number.shape, found.codes.shape) != found.codes.shape:
        return None
    if op.fn == "mul":
        return replace(found, scale=found.scale * number, offset=found.offset * number)
    return replace(found, offset=found.offset + (number if op.fn == "add" else -number))


def _looked_up(op: Gather) -> Coded | None:
    """A constant table, indexed by constant codes."""
    index = op.indices
    index = index.producer.require(0) if isinstance(index.producer, Cast) else index
    table = op.x
    is_known = table.constant is not None and index.constant is not None
    if not is_known or table.rank != 1 or op.output.dtype != np.float32:
        return None
    values = table.array().astype(np.float64)
    if len(values) > ENTRIES:
        return None
    codes = index.array().astype(np.int16)
    bits = next(bits for bits in (1, 2, 4) if len(values) <= 1 << bits)
    return Coded(codes % len(values), bits, np.ones(1), np.zeros(1), np.zeros(1), values)


def _counted(op: Cast) -> Coded | None:
    """Constant codes as numbers."""
    codes = op.require(0)
    if codes.constant is None or codes.dtype is None or codes.dtype.name not in INTEGERS:
        return None
    if op.output.dtype != np.float32:
        return None
    held = codes.array().astype(np.int16)
    return Coded(held, bits_of(codes.dtype), np.ones(1), np.zeros(1), np.zeros(1))
