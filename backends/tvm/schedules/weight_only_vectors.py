"""Codes of few bits as floats, a register of columns at a time.

A word w holds e = 32/b codes of one column, the j-th in the bits b·j .. b·j + b − 1. Two forms:
- exact: the code itself, for a weight that is to be scaled at once.
- raised: the code where it stands, masked but not shifted, is q·2^(b·j), also exactly; the factor
  2^(−b·j) goes into x, once for all columns. That saves an instruction for each register.
Codes of 8 bits are signed. They are shifted up instead, to where their sign is that of the word, so
that all of them are q·2^24.

A table of 16 entries is looked up in a register: AVX-512's permutation takes the four lowest bits
of each lane, AVX2's three, so that there two of them and the fourth bit choose.
"""

from dataclasses import dataclass
from typing import Any

from .weight_only_format import ENTRIES, WORD, Format, dtype_of

SIGN = -(1 << 24)
"""The top byte of a word."""


@dataclass(frozen=True)
class Codes:
    """Vector expressions for the codes of one format.

    Attributes:
        form: the format.
        table: its table's buffer, or None.
    """

    form: Format
    table: Any = None

    def word(self, codes: Any, panel: Any, step: Any) -> Any:
        """A register of words, int32, from the buffer of codes."""
        from tvm import tirx

        zero = tirx.const(0, "int64")
        kind = f"{codes.dtype}x{4 * self.form.lanes}"
        return tirx.reinterpret(self._words, codes.vload([panel, step, zero, zero], kind))

    def exact(self, word: Any, place: int) -> Any:
        """q or T[q], float32."""
        form = self.form
        if self.table is not None:
            return self._looked_up(word, place)
        if form.bits == 8:
            code = (word << self._all(24 - 8 * place)) >> self._all(24)
        else:
            code = (word >> self._all(form.bits * place)) & self._all(form.mask)
        return code.astype(self._floats)

    def raised(self, word: Any, place: int) -> Any:
        """q or T[q] times 2^`power`, float32."""
        form = self.form
        if self.table is not None or (form.bits < 8 and place == form.each - 1):
            return self.exact(word, place)
        if form.bits == 8:
            code = (word << self._all(24 - 8 * place)) & self._all(SIGN)
        else:
            code = word & self._all(form.mask << (form.bits * place))
        return code.astype(self._floats)

    def factor(self, place: Any) -> Any:
        """2^(−power) of the codes at a place in the word, an index; float32."""
        from tvm import tirx

        if self.table is not None:
            return tirx.const(1.0, "float32")
        if self.form.bits == 8:
            return tirx.const(2.0**-24, "float32")
        power = tirx.Select(
            place.equal(self.form.each - 1), tirx.const(0, "int64"), place * self.form.bits
        )
        return tirx.reinterpret("float32", (127 - power).astype("int32") << 23)

    def _looked_up(self, word: Any, place: int) -> Any:
        """T[q]; the bits above a code need no mask, as the table repeats."""
        from tvm.tirx import call_llvm_pure_intrin

        form = self.form
        index = word >> self._all(form.bits * place)
        if form.lanes == ENTRIES:
            name = "llvm.x86.avx512.permvar.sf.512"
            return call_llvm_pure_intrin(self._floats, name, self._part(0), index)
        name = "llvm.x86.avx2.permps"
        low = call_llvm_pure_intrin(self._floats, name, self._part(0), index)
        if form.bits < 4:
            return low
        high = call_llvm_pure_intrin(self._floats, name, self._part(1), index)
        sign = self._reinterpreted(word << self._all(WORD - form.bits * (place + 1)))
        return call_llvm_pure_intrin(self._floats, "llvm.x86.avx.blendv.ps.256", low, high, sign)

    def _part(self, number: int) -> Any:
        from tvm import tirx

        return self.table.vload([tirx.const(number * self.form.lanes, "int64")], self._floats)

    def _reinterpreted(self, word: Any) -> Any:
        from tvm import tirx

        return tirx.reinterpret(self._floats, word)

    @property
    def _words(self) -> str:
        return f"int32x{self.form.lanes}"

    @property
    def _floats(self) -> str:
        return f"float32x{self.form.lanes}"

    def _all(self, number: int) -> Any:
        """A number in every lane, as the bits of an int32."""
        from tvm import tirx

        signed = (number + (1 << 31)) % (1 << 32) - (1 << 31)
        return tirx.Broadcast(tirx.const(signed, "int32"), self.form.lanes)


def floats_of(tensor: Any, place: list[Any], lanes: int) -> Any:
    """A register of floats from a buffer of float32 or int8."""
    kind = f"float32x{lanes}"
    if dtype_of(tensor) == "int8":
        return tensor.vload(place, f"int8x{lanes}").astype(f"int32x{lanes}").astype(kind)
    return tensor.vload(place, kind)
