"""Whether this machine's CPU can run what was compiled for another."""

from ...errors import BackendUnavailable
from .machine import Machine

EMITTED = ("sse", "ssse", "avx", "fma", "f16c", "bmi", "gfni", "vaes", "vpclmul", "lzcnt", "popcnt")
"""How the names of features begin that LLVM uses unasked. A virtual machine often hides others of
its CPU (pku, mwaitx); code made for the CPU runs all the same."""


def missing_features(machine: Machine) -> list[str]:
    """Instruction sets that code for the machine uses and that this CPU lacks."""
    import tvm_ffi
    from tvm.target import codegen

    host = tvm_ffi.get_global_func("tvm.codegen.llvm.GetHostCPUFeatures")()
    target = machine.target()
    wanted = sorted(str(name) for name in codegen.llvm_get_cpu_features(target))
    return [name for name in wanted if name.startswith(EMITTED) and name in host and not host[name]]


def check_host(machine: Machine) -> None:
    """Say so if this CPU cannot run code for the machine, which would end the process.

    Raises:
        BackendUnavailable: it lacks instruction sets; the first few are named.
    """
    missing = missing_features(machine)
    if missing:
        shown = ", ".join(missing[:4]) + (", ..." if len(missing) > 4 else "")
        raise BackendUnavailable(
            f"the model was compiled for {machine.mcpu!r}, and this CPU lacks {shown}: compile it "
            "again here, or for a CPU that both machines can run"
        )
