"""What this machine is: CPU, limits, memory, GPUs, runtimes. And a name for its speed."""

import hashlib
import json
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Self

from .. import __version__
from . import cgroup, cpu_facts
from .gpus import Gpu, gpus

if TYPE_CHECKING:
    from .target import Target

__all__ = ["Gpu", "Hardware", "fingerprint", "host_arch", "providers"]

RUNTIMES = {
    "torch": ("torch",),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml"),
    "tvm": ("apache-tvm",),
    "tvm-ffi": ("apache-tvm-ffi",),
    "openvino": ("openvino",),
}
"""The runtimes looked for, with the packages that any of them may come in."""
USED = ("torch", "onnxruntime", "tvm", "tvm-ffi")
"""Those that passel runs models on."""


@dataclass(frozen=True)
class Hardware:
    """Facts about this machine and what this process may use of it.

    Attributes:
        cpu: the vendor's name of the CPU.
        features: its instruction sets, in the spelling of `cpu_features`.
        physical_cores: cores of the machine.
        logical_cores: the same, each hyperthread counted.
        usable_cores: physical cores that this process may keep busy, at least 1: those of its
            affinity or cpuset, and no more than `cpu_limit`.
        cpu_limit: CPUs' worth of time that control groups allow; None without a quota.
        memory: bytes of main memory, 0 if unknown.
        memory_limit: bytes that control groups allow, if that is less; else None.
        gpus: the CUDA devices.
        runtimes: (name, version) of the runtimes that are installed.
    """

    cpu: str
    features: tuple[str, ...]
    physical_cores: int
    logical_cores: int
    usable_cores: int
    cpu_limit: float | None
    memory: int
    memory_limit: int | None
    gpus: tuple[Gpu, ...]
    runtimes: tuple[tuple[str, str], ...]

    @classmethod
    def detect(cls) -> Self:
        """This machine. Imports no runtime, so it takes some milliseconds on Linux."""
        found, allowed = cpu_facts.cpu(), cpu_facts.allowed_processors()
        quota, limit = cgroup.cpu_limit(), cgroup.memory_limit()
        total = cpu_facts.memory()
        return cls(
            cpu=found.brand,
            features=found.features,
            physical_cores=cpu_facts.physical_cores(),
            logical_cores=cpu_facts.logical_cores(),
            usable_cores=usable(cpu_facts.physical_cores(allowed), quota),
            cpu_limit=quota,
            memory=total,
            memory_limit=limit if limit is not None and (not total or limit < total) else None,
            gpus=gpus(),
            runtimes=installed(),
        )

    @property
    def versions(self) -> str:
        """passel and the runtimes it uses, with versions: results hold for no others."""
        found = dict(self.runtimes)
        parts = [("passel", __version__), *((name, found.get(name, "")) for name in USED)]
        return " ".join(f"{name}={number}" for name, number in parts if number)


def usable(cores: int, quota: float | None) -> int:
    """Threads that can run all the time: a quota of 2.5 CPUs would stop three of them in turn."""
    return max(1, cores if quota is None else min(cores, int(quota)))


def installed() -> tuple[tuple[str, str], ...]:
    """Name and version of each runtime that is installed; none is imported."""
    found = []
    for name, packages in RUNTIMES.items():
        numbers = [number for package in packages if (number := version_of(package))]
        found += [(name, numbers[0])] if numbers else []
    return tuple(found)


def version_of(package: str) -> str | None:
    """The version of a package that is installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def providers() -> tuple[str, ...]:
    """ONNX Runtime's execution providers, the preferred first; it is imported for this."""
    try:
        import onnxruntime
    except ImportError:
        return ()
    return tuple(onnxruntime.get_available_providers())


def host_arch(threads: int = 0) -> str:
    """LLVM's name of this CPU, such as "znver4"; "" where no TVM is installed to ask.

    Imports TVM, which takes seconds; `threads` is the size of its pool if this is the first import.
    """
    from ..errors import BackendUnavailable
    from .tvm.available import require

    try:
        require(threads)
        from tvm.target import codegen
    except (BackendUnavailable, ImportError):
        return ""
    return str(codegen.llvm_get_system_cpu())


def fingerprint(hardware: Hardware, target: "Target") -> str:
    """16 hexadecimal digits: equal where the same plan takes the same time.

    It covers the CPU's name, instruction sets and the threads used; of a "cuda" target the GPUs
    too. What a target names as the machine has it, and what it leaves open, are the same.
    """
    arch = target.arch
    facts: dict[str, object] = {
        "kind": target.kind,
        "cpu": hardware.cpu,
        "features": hardware.features,
        "threads": target.threads or hardware.usable_cores,
    }
    if target.kind == "cuda":
        facts["gpus"] = [(gpu.name, gpu.arch) for gpu in hardware.gpus]
        own = hardware.gpus[0].arch if hardware.gpus else ""
    else:
        own = host_arch(target.threads) if arch else ""
        facts["features"] = target.features or hardware.features
    facts["arch"] = arch if arch != own else ""
    text = json.dumps(facts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
