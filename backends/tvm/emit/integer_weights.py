"""Weights of 8 bits for products of bytes: where they are stored, and how they are packed.

Packed: panels [P, K'/4, L, 4] of int8. A panel holds L columns, as many as a register has 32-bit
lanes, and four rows of each together, as the dot product instruction reads them:
panels[p, q, l, g] = W[4q + g, p·L + l], and 0 for rows from K and columns from N on.
"""

from dataclasses import dataclass

import numpy as np

from ....graph import Value
from ....graph.ops import Dequantize, Identity, Linear, Transpose
from ..vnni import GROUP
from .emission import computed


@dataclass(frozen=True)
class Codes:
    """A weight W = (codes − zero)·scale.

    Attributes:
        codes: int8 [K, N].
        scale: float32 [N].
        zero: int32 [N].
    """

    codes: np.ndarray
    scale: np.ndarray
    zero: np.ndarray

    @property
    def sums(self) -> np.ndarray:
        """Σ_k codes[k, n] − K·zero[n], int32 [N]: what a zero point of x is multiplied by."""
        depth = self.codes.shape[0]
        return self.codes.sum(0, dtype=np.int32) - np.int32(depth) * self.zero


def stored(op: Linear) -> Dequantize | None:
    """What dequantizes the weight of a product, if its codes can be multiplied as bytes.

    They are 8-bit constants with one scale, or one per column of the product.
    """
    source, turned = _source(op.weight)
    found = source.producer
    if not isinstance(found, Dequantize) or found.block or found.output.dtype != np.float32:
        return None
    if computed(found.inputs):
        return None
    if found.x.dtype not in (np.int8, np.uint8) or found.x.rank != 2:
        return None
    by_row = (op.layout == "oi") != turned
    lone = found.axis is None or all(extent == 1 for extent in found.scale.shape or ())
    return found if lone or found.axis == (0 if by_row else 1) else None


def loaded(op: Linear) -> Codes:
    """The weight of a product that `stored` has found."""
    source, turned = _source(op.weight)
    found = source.producer
    assert isinstance(found, Dequantize)
    codes = found.x.array()
    zero = np.zeros(1, np.int32)
    if found.zero_point is not None:
        zero = found.zero_point.array().reshape(-1).astype(np.int32)
    if codes.dtype == np.uint8:
        codes, zero = (codes ^ 128).view(np.int8), zero - 128
    if (op.layout == "oi") != turned:
        codes = codes.T
    columns = codes.shape[1]
    scale = found.scale.array().reshape(-1).astype(np.float32)
    return Codes(codes, *(np.broadcast_to(part, columns).copy() for part in (scale, zero)))


def packed(codes: np.ndarray, lanes: int) -> np.ndarray:
    """The panels of a weight; see the module docstring.

    Args:
        codes: int8 [K, N].
        lanes: L.
    """
    depth, columns = codes.shape
    steps, panels = -(-depth // GROUP), -(-columns // lanes)
    padded = np.zeros((steps * GROUP, panels * lanes), np.int8)
    padded[:depth, :columns] = codes
    parts = padded.reshape(steps, GROUP, panels, lanes)
    return np.ascontiguousarray(parts.transpose(2, 0, 3, 1))


def _source(value: Value) -> tuple[Value, bool]:
    """What a matrix is made of by transposition, and whether it is turned."""
    turned = False
    while isinstance(op := value.producer, Transpose | Identity):
        turned ^= isinstance(op, Transpose) and op.perm == (1, 0)
        value = op.require(0)
    return value, turned
