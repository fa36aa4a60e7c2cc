"""Peak and present resident memory of this process.

`getrusage` will not do: on Linux a child inherits its parent's peak across fork and exec.
"""

import resource
import sys
from pathlib import Path

STATUS = Path("/proc/self/status")


def peak_bytes() -> int:
    """Largest resident set so far, memory-mapped pages included."""
    return _field("VmHWM") or _rusage()


def resident_bytes() -> int:
    """Resident set now."""
    return _field("VmRSS") or _rusage()


def _field(name: str) -> int:
    if not STATUS.exists():
        return 0
    for line in STATUS.read_text(encoding="ascii").splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    return 0


def _rusage() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
