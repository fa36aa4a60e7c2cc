"""The CUDA devices of this machine."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache

NVIDIA_SMI = "nvidia-smi"
QUERY = "--query-gpu=name,compute_cap,memory.total"
PATIENCE = 10
"""Seconds; nvidia-smi hangs where a driver does."""


@dataclass(frozen=True)
class Gpu:
    """A CUDA device.

    Attributes:
        name: as the vendor calls it.
        arch: its compute capability as compilers name it, such as "sm_90".
        memory: bytes.
    """

    name: str
    arch: str
    memory: int


def gpus() -> tuple[Gpu, ...]:
    """All devices that this process may use; nothing is allocated on them."""
    return visible(_by_driver(), os.environ.get("CUDA_VISIBLE_DEVICES")) or _by_torch()


def visible(found: tuple[Gpu, ...], variable: str | None) -> tuple[Gpu, ...]:
    """Those that CUDA_VISIBLE_DEVICES leaves, in its order; by UUID it leaves all."""
    words = [word.strip() for word in (variable or "").split(",")]
    if variable is None or not all(word.lstrip("-").isdigit() for word in words if word):
        return found
    chosen: list[Gpu] = []
    for word in words:
        if not word or not 0 <= int(word) < len(found):
            break  # CUDA ignores what follows an index that is not there
        chosen.append(found[int(word)])
    return tuple(chosen)


def _by_torch() -> tuple[Gpu, ...]:
    """As torch sees them, where it is loaded already: importing it only for this is slow."""
    torch = sys.modules.get("torch")
    if torch is None or torch.version.cuda is None or not torch.cuda.is_available():
        return ()
    found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return tuple(Gpu(p.name, f"sm_{p.major}{p.minor}", p.total_memory) for p in found)


def _by_driver() -> tuple[Gpu, ...]:
    program = shutil.which(NVIDIA_SMI)
    return () if program is None else _listed(program)


@cache
def _listed(program: str) -> tuple[Gpu, ...]:
    """What nvidia-smi lists; it may take a second, and devices do not change."""
    command = [program, QUERY, "--format=csv,noheader,nounits"]
    try:
        text = subprocess.check_output(
            command, text=True, timeout=PATIENCE, stderr=subprocess.DEVNULL
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    return parsed(text)


def parsed(text: str) -> tuple[Gpu, ...]:
    """The devices that nvidia-smi lists; memory is in MiB. A line it could not fill in is left."""
    found = []
    for line in text.splitlines():
        name, _, rest = line.rpartition(",")
        name, _, capability = name.rpartition(",")
        digits = capability.strip().replace(".", "")
        if digits.isdigit() and rest.strip().isdigit():
            found.append(Gpu(name.strip(), f"sm_{digits}", int(rest) << 20))
    return tuple(found)
