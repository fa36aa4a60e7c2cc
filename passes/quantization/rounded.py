"""A weight after rounding: integer codes with their scales, a sum of such parts, corrections."""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from .grid import Grid


@dataclass(frozen=True)
class Format:
    """How a weight [O, I] is stored.

    Attributes:
        grid: the format of the codes.
        block: neighbours along I that share a scale; 0 for one scale a row, −1 for one in all.
    """

    grid: Grid
    block: int = 0

    def blocks(self, width: int) -> int:
        """Number of scales per row of a weight with I = `width`; the last block may be short."""
        return -(-width // self.block) if self.block > 0 else 1

    def spread(self, per_block: np.ndarray, width: int) -> np.ndarray:
        """[O or 1, blocks] as [O or 1, I or 1], to broadcast with the weight."""
        if self.block <= 0:
            return per_block
        return np.repeat(per_block, self.block, axis=1)[:, :width]

    def ranges(self, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(min, max) of every block, [O, blocks] ([1, 1] for block −1); padding counts as 0."""
        if self.block < 0:
            return weight.min(keepdims=True), weight.max(keepdims=True)
        if self.block == 0:
            return weight.min(axis=1, keepdims=True), weight.max(axis=1, keepdims=True)
        parts = padded(weight, self.block)
        return parts.min(axis=2), parts.max(axis=2)


def padded(weight: np.ndarray, block: int) -> np.ndarray:
    """[O, I] as [O, ⌈I/block⌉, block], filled up with zeros."""
    rows, width = weight.shape
    short = -width % block
    filled = np.pad(weight, ((0, 0), (0, short))) if short else weight
    return filled.reshape(rows, -1, block)


@dataclass(frozen=True)
class Part:
    """One stored tensor: W = scale·(table[codes] or codes − zero) + offset.

    Attributes:
        codes: [O, I] integers, or floats of a float grid, held in any dtype that is exact.
        scale: [O, blocks], or [1, 1].
        zero: zero points like `scale`, whole numbers in the grid; ignored with a table.
        format: grid and block.
        table: values that codes 0, 1, .. stand for, [K] or [O, K]; None when codes are numbers.
        columns: which columns of W this part holds (sorted); None for all of them.
        offset: what is added after scaling, float, like `scale`; None for 0. It holds the mean of
            a binary weight, which a whole zero point cannot.
        mask: which entries the part holds at all, bool [O, I]; elsewhere it is 0, its code is 0,
            and no code is stored, only the mask's bit. None for all of them.
    """

    codes: np.ndarray
    scale: np.ndarray
    zero: np.ndarray
    format: Format
    table: np.ndarray | None = None
    columns: np.ndarray | None = None
    offset: np.ndarray | None = None
    mask: np.ndarray | None = None

    def dense(self) -> np.ndarray:
        """The weight that the codes stand for, float64 [O, I] (of its columns only)."""
        dense = self._scaled()
        if self.offset is not None:
            dense = dense + self.format.spread(self.offset, dense.shape[1])
        return dense if self.mask is None else np.where(self.mask, dense, 0.0)

    def _scaled(self) -> np.ndarray:
        width = self.codes.shape[1]
        scale = self.format.spread(self.scale, width)
        if self.table is None:
            zero = self.format.spread(self.zero, width)
            return scale * (self.codes.astype(np.float64) - zero)
        codes = self.codes.astype(np.int64)
        if self.table.ndim == 1:
            return scale * self.table[codes]
        return scale * np.take_along_axis(self.table, codes, axis=1)

    @property
    def bits(self) -> float:
        """Bits that the part takes: codes, float32 scales, zero points of an asymmetric grid.

        A mask costs one bit an entry, and its part codes only where it is set.
        """
        grid = self.format.grid
        zeros = 0 if grid.symmetric or self.table is not None else self.zero.size * grid.bits
        table = 0 if self.table is None else self.table.size * 32
        index = 0 if self.columns is None else 32 * self.columns.size
        offset = 0 if self.offset is None else 32 * self.offset.size
        held, mask = self.codes.size, 0
        if self.mask is not None:
            held, mask = int(self.mask.sum()), self.mask.size
        codes = held * grid.bits + mask
        return codes + self.scale.size * 32 + zeros + table + index + offset


@dataclass(frozen=True)
class Rounded:
    """A weight [O, I] as what is stored of it.

    W ≈ (rows ⊗ columns)⊙Σ parts + left·right.

    Attributes:
        parts: the sum; one of them in the usual case.
        rows, columns: factors [O] and [I] on the sum, as a rank-1 scale; None for 1.
        left, right: a low-rank correction [O, r], [r, I]; None for none.
        method: how it was found, for reports: "rtn", "mse+gptq", ...
        notes: what the user should know ("converged at 11 %", "fell back to nearest: ...").
    """

    parts: tuple[Part, ...]
    shape: tuple[int, int]
    rows: np.ndarray | None = None
    columns: np.ndarray | None = None
    left: np.ndarray | None = None
    right: np.ndarray | None = None
    method: str = ""
    notes: tuple[str, ...] = ()

    def dense(self) -> np.ndarray:
        """The weight that a float kernel would use, float64 [O, I]."""
        total = self.summed()
        if self.rows is not None:
            total = total * self.rows[:, None]
        if self.columns is not None:
            total = total * self.columns[None, :]
        if self.left is not None and self.right is not None:
            total = total + self.left.astype(np.float64) @ self.right.astype(np.float64)
        return total

    def summed(self) -> np.ndarray:
        """Σ parts, float64 [O, I]."""
        total = np.zeros(self.shape)
        for part in self.parts:
            columns = slice(None) if part.columns is None else part.columns
            total[:, columns] += part.dense()
        return total

    @property
    def bits(self) -> float:
        """Bits that all of it takes."""
        extra = (self.rows, self.columns, self.left, self.right)
        return sum(part.bits for part in self.parts) + sum(
            32 * array.size for array in extra if array is not None
        )

    def but(self, method: str, **changes: object) -> Self:
        """The same with `changes`, and `method` added to what it was found by."""
        name = f"{self.method}+{method}" if self.method else method
        return replace(self, method=name, **changes)  # type: ignore[arg-type]
