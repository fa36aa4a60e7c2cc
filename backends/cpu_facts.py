"""What the operating system says of the CPU: its name, instruction sets, cores, and affinity.

On Linux from /proc and /sys, in a millisecond; elsewhere py-cpuinfo asks the CPU, in a second.
"""

import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .cpu_features import known

ROOT = Path("/")
NAMES = ("model name", "Model", "Processor", "cpu model")
"""Entries of /proc/cpuinfo that name the CPU, by architecture."""
IDS = ("cpu family", "model", "CPU implementer", "CPU part")
"""What tells one generation from another."""
FLAGS = ("flags", "Features")


@dataclass(frozen=True)
class Cpu:
    """A CPU as it names itself.

    Attributes:
        brand: the vendor's name for it, with family and model, since clouds give one name to
            several generations; "" where nothing says so.
        features: instruction sets, in the spelling of `cpu_features`.
    """

    brand: str
    features: tuple[str, ...]


def cpu(root: Path = ROOT) -> Cpu:
    """The machine's CPU; of several kinds of core, what all of them can do."""
    try:
        text = (root / "proc" / "cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return _asked()
    return parsed(text)


def parsed(text: str) -> Cpu:
    """The CPU that a /proc/cpuinfo describes."""
    entries = [line.split(":", 1) for line in text.splitlines() if ":" in line]
    pairs = [(name.strip(), value.strip()) for name, value in entries]
    brand = next((value for wanted in NAMES for name, value in pairs if name == wanted), "")
    first = dict(reversed(pairs))
    brand = _with(brand, [f"{name} {first[name]}" for name in IDS if name in first])
    flags = [set(value.split()) for name, value in pairs if name in FLAGS]
    return Cpu(brand, known(set.intersection(*flags)) if flags else ())


def _asked() -> Cpu:
    import cpuinfo

    found = cpuinfo.get_cpu_info()
    numbers = [f"{name} {found[name]}" for name in ("family", "model") if name in found]
    brand = _with(found.get("brand_raw", ""), numbers)
    return Cpu(brand, known(found.get("flags", ())))


def _with(brand: str, numbers: list[str]) -> str:
    return " ".join(part for part in (brand, f"({', '.join(numbers)})" if numbers else "") if part)


def allowed_processors() -> frozenset[int] | None:
    """The logical processors that this process may use (affinity, cpuset); None if unknown."""
    if sys.platform == "linux":
        return frozenset(os.sched_getaffinity(0))
    return None


def logical_cores(root: Path = ROOT) -> int:
    """How many logical processors the machine has, whoever may use them."""
    return len(_processors(root)) or os.cpu_count() or 1


def physical_cores(processors: Iterable[int] | None = None, root: Path = ROOT) -> int:
    """How many cores the given logical processors (all by default) belong to.

    Two hyperthreads of one core count once. Where the system does not say, each counts as a core.
    """
    if sys.platform == "darwin" and root == ROOT:
        return _sysctl("hw.physicalcpu") or os.cpu_count() or 1
    folder = root / "sys" / "devices" / "system" / "cpu"
    if processors is None:
        processors = _processors(root) or range(os.cpu_count() or 1)
    return len({_core(folder, processor) for processor in processors}) or 1


def _processors(root: Path) -> frozenset[int]:
    """The processors that are running, as the kernel lists them: "0-3,6"."""
    try:
        text = (root / "sys" / "devices" / "system" / "cpu" / "online").read_text().strip()
    except OSError:
        return frozenset()
    spans = [span.partition("-") for span in text.split(",") if span]
    found = [range(int(first), int(last or first) + 1) for first, _, last in spans]
    return frozenset(number for numbers in found for number in numbers)


def _core(folder: Path, processor: int) -> str:
    """What is equal for the hyperthreads of one core."""
    siblings = folder / f"cpu{processor}" / "topology" / "thread_siblings_list"
    try:
        return siblings.read_text().strip()
    except OSError:  # offline, or a system that does not tell
        return str(processor)


def _sysctl(name: str) -> int | None:
    try:
        return int(subprocess.check_output(["sysctl", "-n", name], text=True, timeout=5))
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def memory(root: Path = ROOT) -> int:
    """Bytes of main memory; 0 if unknown."""
    try:
        lines = (root / "proc" / "meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemTotal"))
    except (OSError, StopIteration, ValueError, IndexError):
        if sys.platform == "darwin":
            return _sysctl("hw.memsize") or 0
        return _windows_memory() if sys.platform == "win32" else 0


def _windows_memory() -> int:
    import ctypes

    class Status(ctypes.Structure):
        _fields_ = (
            ("length", ctypes.c_ulong),
            ("load", ctypes.c_ulong),
            ("total", ctypes.c_ulonglong),
            ("rest", ctypes.c_ulonglong * 6),
        )

    status = Status()
    status.length = ctypes.sizeof(status)
    ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))  # type: ignore[attr-defined]
    return int(status.total)
