"""How a weight of few bits is stored for a product with float activations, and what it stands for.

W [K, N] is q·s + o or (q − z)·s or T[q]·s, with s, z and o by column and by block of rows:
- codes: bytes [P, S, L, 4], uint8 for 1, 2 and 4 bits, int8 for 8. A panel p has L columns, one for
  each 32-bit lane of a register; the four bytes of a lane hold e = 32/bits rows of one column, the
  first row in the lowest bits. So 64 bytes in a row are what a register takes at once, and a kernel
  reads a panel, and then the next one, from front to back.
      q[k, n] = codes[n / L, k / e, n % L, (k % e)·bits / 8] >> (k·bits % 8)  mod 2^bits
- scale: float32 [P, B, L], B blocks of S/B words.
- shift: z as int8 or o as float32, of the scale's shape; or none.
- table: T, float32 [16], for up to 4 bits; or none. With fewer bits it repeats, so that the bits
  above a code do not matter.
Rows beyond K and columns beyond N are zeros.
"""

from dataclasses import dataclass
from typing import Any

ENTRIES = 16
"""Entries of a table: what a lookup in registers takes."""
WORD = 32
"""Bits of a lane."""


@dataclass(frozen=True)
class Format:
    """Numbers of one stored weight; names are those of the module docstring.

    Attributes:
        bits: of a code.
        rows: K.
        columns: N.
        lanes: L.
        block_words: S/B, words of a column that share a scale.
    """

    bits: int
    rows: int
    columns: int
    lanes: int
    block_words: int

    @property
    def each(self) -> int:
        """e, rows to a word."""
        return WORD // self.bits

    @property
    def block(self) -> int:
        """Rows that share a scale, with what fills up the last word."""
        return self.block_words * self.each

    @property
    def blocks(self) -> int:
        """B."""
        return -(-self.rows // self.block)

    @property
    def words(self) -> int:
        """S, words to a column."""
        return self.blocks * self.block_words

    @property
    def panels(self) -> int:
        """P."""
        return -(-self.columns // self.lanes)

    @property
    def mask(self) -> int:
        """The bits of the first code."""
        return (1 << self.bits) - 1


@dataclass(frozen=True)
class Operands:
    """The tensors of a stored weight: buffers in a kernel, tensors in a tensor expression."""

    codes: Any
    scale: Any
    shift: Any = None
    table: Any = None


def element(form: Format, weight: Operands, k: Any, n: Any) -> Any:
    """W[k, n] as an expression."""
    from tvm import tirx

    panel, lane = tirx.floordiv(n, form.lanes), tirx.floormod(n, form.lanes)
    place = (panel, tirx.floordiv(k, form.block), lane)
    number: Any = _code(form, weight, panel, lane, k)
    number = number.astype("float32") if weight.table is None else weight.table[number]
    if weight.shift is None:
        return number * weight.scale[place]
    if dtype_of(weight.shift) == "int8":
        return (number - weight.shift[place].astype("float32")) * weight.scale[place]
    return number * weight.scale[place] + weight.shift[place]


def _code(form: Format, weight: Operands, panel: Any, lane: Any, k: Any) -> Any:
    """q[k, n], int64, as what it is shifted by."""
    from tvm import tirx

    rest = tirx.floormod(k, form.each)
    per_byte = 8 // form.bits
    byte = weight.codes[panel, tirx.floordiv(k, form.each), lane, tirx.floordiv(rest, per_byte)]
    if form.bits == 8:
        return byte.astype("int64")
    place = tirx.floormod(rest, tirx.const(per_byte, "int64"))
    return (byte.astype("int64") >> (place * form.bits)) & tirx.const(form.mask, "int64")


def dtype_of(tensor: Any) -> str:
    """Element type of a buffer or of a tensor of a tensor expression."""
    return str(tensor.dtype)
