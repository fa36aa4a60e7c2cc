"""Dot products of bytes: one instruction, or the shortest exact sequence, on each x86 CPU.

All of them work on 32-bit lanes. In each lane they add to an int32 the four products of unsigned
bytes a and signed bytes b:
    c ← c + a0·b0 + a1·b1 + a2·b2 + a3·b3
- AVX-512 VNNI and AVX-VNNI do that in one instruction, vpdpbusd, without saturation.
- Without it, even and odd bytes are widened to 16 bits and multiplied by vpmaddwd, which is exact:
  two products of at most 255·128 fit in 32 bits. vpmaddubsw takes bytes as they are, but saturates
  at 16 bits, so it is wrong for a0·b0 + a1·b1 > 32767.

LLVM 22 takes the byte operands of vpdpbusd as vectors of bytes, and rejects them as int32 lanes.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .machine import Machine

GROUP = 4
"""Products per lane and step."""


@dataclass(frozen=True)
class Dot:
    """The way of one CPU to add products of bytes.

    Attributes:
        lanes: int32 sums in one register.
        registers: how many registers there are.
        single: whether it is one instruction.
    """

    lanes: int
    registers: int
    single: bool

    def operands(self, columns: int) -> int:
        """Registers that a step needs besides its sums, for so many registers of b."""
        return columns + 2 if self.single else 2 * columns + 4

    def step(self, sums: Any, a: Any, b: Any) -> Any:
        """The sums after one step.

        Args:
            sums: int32 [lanes].
            a: uint8 [4], the same for every lane.
            b: int8 [4·lanes].
        """
        from tvm.tirx import Broadcast, reinterpret

        every = Broadcast(reinterpret("int32", a), self.lanes)
        if self.single:
            return self._vpdpbusd(sums, reinterpret(f"int8x{GROUP * self.lanes}", every), b)
        return sums + self._products(every, b)

    def _vpdpbusd(self, sums: Any, a: Any, b: Any) -> Any:
        name = f"llvm.x86.avx512.vpdpbusd.{32 * self.lanes}"
        return _llvm(name, f"int32x{self.lanes}", sums, a, b)

    def _products(self, a: Any, b: Any) -> Any:
        """Sums of four products: even and odd bytes, widened, apart from each other."""
        from tvm.tirx import Broadcast, const, reinterpret

        wide = f"x{2 * self.lanes}"

        def all_lanes(number: int, dtype: str) -> Any:
            return Broadcast(const(number, dtype), 2 * self.lanes)

        a, b = reinterpret(f"uint16{wide}", a), reinterpret(f"int16{wide}", b)
        even_a, odd_a = a & all_lanes(255, "uint16"), a >> all_lanes(8, "uint16")
        eight = all_lanes(8, "int16")
        even_b, odd_b = (b << eight) >> eight, b >> eight
        return self._vpmaddwd(even_a, even_b) + self._vpmaddwd(odd_a, odd_b)

    def _vpmaddwd(self, a: Any, b: Any) -> Any:
        from tvm.tirx import reinterpret

        wide = self.lanes > 8
        name = "llvm.x86.avx512.pmaddw.d.512" if wide else "llvm.x86.avx2.pmadd.wd"
        a = reinterpret(f"int16x{2 * self.lanes}", a)
        return _llvm(name, f"int32x{self.lanes}", a, b)


def dot_of(machine: "Machine") -> Dot | None:
    """How a machine adds products of bytes; None where it is no x86 CPU with AVX2."""
    from tvm.target import codegen

    target = machine.target()
    if not codegen.llvm_cpu_has_features("avx2", target):
        return None
    lanes = machine.lanes()
    if lanes > 8 and not codegen.llvm_cpu_has_features("avx512bw", target):
        lanes = 8
    return Dot(lanes, machine.registers, bool(machine.dot))


def _llvm(name: str, dtype: str, *arguments: Any) -> Any:
    from tvm.tirx import call_llvm_pure_intrin

    return call_llvm_pure_intrin(dtype, name, *arguments)
