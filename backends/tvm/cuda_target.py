"""A CUDA device as the code generator sees it: named by its architecture, present or not."""

from typing import TYPE_CHECKING

from ...errors import InvalidInput
from ..target import CUDA_ARCH, OLDEST_SM
from .machine import Machine

if TYPE_CHECKING:
    import tvm

THREADS = 1024
"""Threads in a block, on every architecture."""
SHARED_BYTES = 48 * 1024
"""Shared memory that a block may declare, on every architecture."""
DYNAMIC_KB = {75: 64, 80: 163, 86: 99, 87: 163, 89: 99, 90: 227, 100: 227, 103: 227, 120: 99}
"""Shared memory that a block may ask for when it is launched, in KiB, by architecture."""


def cuda_target(arch: str) -> "tvm.target.Target":
    """The target of code for an architecture; what runs on the host is for any CPU of its kind.

    Raises:
        InvalidInput: `arch` is not the name of an architecture, or of one that is too old.
    """
    from tvm.target import Target

    if number_of(arch) < OLDEST_SM:
        raise InvalidInput(f"expected sm_{OLDEST_SM} or newer, got {arch!r}")
    device = {
        "kind": "cuda",
        "arch": arch,
        "max_threads_per_block": THREADS,
        "max_shared_memory_per_block": SHARED_BYTES,
        "thread_warp_size": 32,
    }
    return Target(device, host={"kind": "llvm"})


def number_of(arch: str) -> int:
    """80 for "sm_80", and for "sm_90a" 90.

    Raises:
        InvalidInput: `arch` is not the name of an architecture.
    """
    number = CUDA_ARCH.fullmatch(arch)
    if number is None:
        raise InvalidInput(f"expected an architecture such as 'sm_80' or 'sm_90', got {arch!r}")
    return int(number[1])


def dynamic_bytes(arch: str) -> int:
    """Shared memory that a block may ask for when it is launched."""
    return DYNAMIC_KB.get(number_of(arch), SHARED_BYTES // 1024) * 1024


def cuda_machine(arch: str) -> Machine:
    """A GPU as emission sees it: by its kind. Only schedules of CPUs ask about registers."""
    return Machine(arch, vector_bytes=0, registers=0, dot="", threads=1, kind="cuda")
