"""Whether TVM can be used here, and the settings it reads when it is first imported."""

import os
import sys
from importlib.metadata import PackageNotFoundError, version

from ...errors import BackendUnavailable

TVM = "0.27.0.post1"
FFI_BEFORE = (0, 1, 15)
"""From here on, and with this TVM, MetaSchedule's TuneContext crashes the process."""
INSTALL = 'pip install "passel[tvm]"'
INSTALL_FFI = 'pip install "apache-tvm-ffi>=0.1.14,<0.1.15"'


def require(threads: int = 0) -> None:
    """Make `import tvm` safe, with a pool of this many threads (0: all cores).

    TVM reads the size of its pool once in a process, when the first kernel runs; left alone it
    takes half of the cores.

    Raises:
        BackendUnavailable: TVM is missing, or installed in versions that do not work together.
    """
    found = _version("apache-tvm")
    if found is None:
        raise BackendUnavailable(f"backend 'tvm' needs Apache TVM, which is missing: {INSTALL}")
    if found != TVM:
        raise BackendUnavailable(
            f"backend 'tvm' needs apache-tvm {TVM}, but {found} is installed: {INSTALL}"
        )
    ffi = _version("apache-tvm-ffi")
    if ffi is None or _numbers(ffi) >= FFI_BEFORE:
        raise BackendUnavailable(
            f"apache-tvm-ffi {ffi or 'is missing'} does not work with apache-tvm {TVM}: "
            f"{INSTALL_FFI}"
        )
    if "tvm" not in sys.modules:
        os.environ.setdefault("TVM_NUM_THREADS", str(threads or os.cpu_count() or 1))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:3] if part.isdigit())
