"""What the CPU schedules have to know about the machine they are for."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tvm

WIDE = 64
"""Bytes in a register of AVX-512; one of AVX has half."""


@dataclass(frozen=True)
class Machine:
    """A CPU as schedules see it.

    Attributes:
        mcpu: LLVM's name of the CPU.
        vector_bytes: width of a vector register.
        registers: how many vector registers there are.
        dot: instruction that multiplies u8·s8 and adds four products to an int32: "avx512vnni",
            "avxvnni", or "" where there is none.
        threads: worker threads.
        kind: "cpu"; "cuda" for a GPU, for which no weight is packed: `mcpu` names its architecture.
    """

    mcpu: str
    vector_bytes: int
    registers: int
    dot: str
    threads: int
    kind: str = "cpu"

    def lanes(self, bits: int = 32) -> int:
        """Elements of this width in one register."""
        return self.vector_bytes * 8 // bits

    def target(self) -> "tvm.target.Target":
        """The target as TVM takes it."""
        from tvm.target import Target

        return Target({"kind": "llvm", "mcpu": self.mcpu, "num-cores": self.threads})


def machine_of(mcpu: str, threads: int) -> Machine:
    """The machine that LLVM knows by this name."""
    from tvm.target import Target, codegen

    target = Target({"kind": "llvm", "mcpu": mcpu})

    def has(feature: str) -> bool:
        return bool(codegen.llvm_cpu_has_features(feature, target))

    wide = has("avx512f")
    dot = next((name for name in ("avx512vnni", "avxvnni") if has(name)), "")
    return Machine(mcpu, WIDE if wide else WIDE // 2, 32 if wide else 16, dot, threads)
