"""A CUDA device as the code generator sees it: named by its architecture, present or not."""

import re
from typing import TYPE_CHECKING

from ...errors import InvalidInput
from .machine import Machine

if TYPE_CHECKING:
    import tvm

OLDEST = 75
"""Compute capability 7.5: the oldest that CUDA 13 compiles for."""
THREADS = 1024
"""Threads in a block, on every architecture."""
SHARED_BYTES = 48 * 1024
"""Shared memory that a block may declare, on every architecture."""
DYNAMIC_KB = {75: 64, 80: 163, 86: 99, 87: 163, 89: 99, 90: 227, 100: 227, 103: 227, 120: 99}
"""Shared memory that a block may ask for when it is launched, in KiB, by architecture."""
VECTOR_BYTES = 16
"""The widest load of one thread."""
REGISTERS = 255
"""32-bit registers of one thread."""


def cuda_target(arch: str) -> "tvm.target.Target":
    """The target of code for an architecture; what runs on the host is for any CPU of its kind.

    Raises:
        InvalidInput: `arch` is not the name of an architecture, or of one that is too old.
    """
    from tvm.target import Target

    if number_of(arch) < OLDEST:
        raise InvalidInput(f"expected sm_{OLDEST} or newer, got {arch!r}")
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
    number = re.fullmatch(r"sm_(\d+)[af]?", arch)
    if number is None:
        raise InvalidInput(f"expected an architecture such as 'sm_80' or 'sm_90', got {arch!r}")
    return int(number[1])


def dynamic_bytes(arch: str) -> int:
    """Shared memory that a block may ask for when it is launched."""
    return DYNAMIC_KB.get(number_of(arch), SHARED_BYTES // 1024) * 1024


def cuda_machine(arch: str) -> Machine:
    """What emission has to know of a GPU: no packed integer product, vectors of 16 bytes."""
    return Machine(arch, VECTOR_BYTES, REGISTERS, dot="", threads=1, kind="cuda")
