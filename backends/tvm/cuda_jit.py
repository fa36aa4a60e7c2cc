"""The GPU here, and which machine code TVM loads on it: ours, from `cuda_nvcc`, not TVM's own.

TVM keeps CUDA source in a compiled module, and turns it into machine code through a global
function: when it compiles the model on a computer with a GPU, else when the module is loaded there.
"""

from typing import Any

from ...errors import BackendUnavailable
from .cuda_nvcc import cubin

HOOK = "tvm_callback_cuda_compile"


def install_compiler() -> None:
    """Let TVM compile CUDA source without fast math, for the target at hand or for the GPU here."""
    import tvm_ffi
    from tvm.support import nvcc  # noqa: F401  registers TVM's own function, which this replaces

    def compile_source(source: str) -> bytearray:
        return bytearray(cubin(source, _arch()))

    tvm_ffi.register_global_func(HOOK, compile_source, override=True)


def require_device(arch: str) -> str:
    """The architecture of the GPU here.

    Raises:
        BackendUnavailable: there is none that TVM can use, for code compiled for `arch`.
    """
    found = device_arch()
    if found is None:
        raise BackendUnavailable(
            f"the model was compiled for {arch}; this machine has no CUDA device that TVM can use "
            "(a GPU, its driver and libcudart.so.13)"
        )
    return found


def device_arch() -> str | None:
    """The architecture of the first GPU here; None where there is none that TVM can use."""
    import tvm

    try:
        device = tvm.cuda(0)
        return f"sm_{device.compute_version.replace('.', '')}" if device.exist else None
    except Exception:  # TVM has no CUDA runtime, or the runtime no driver
        return None


def _arch() -> str:
    from tvm.target import Target

    current: Any = Target.current(allow_none=True)
    named = current.attrs.get("arch") if current is not None else None
    return str(named) if named else require_device("another GPU")
