"""Whether TVM can be used here, and the settings it reads when it is first imported."""

import importlib
import os
import sys

from ...errors import BackendUnavailable
from .. import cpu_facts
from ..hardware import version_of

TVM = "0.27.0.post1"
FFI_FROM = (0, 1, 14)
FFI_BEFORE = (0, 1, 15)
"""From here on, and with this TVM, MetaSchedule's TuneContext crashes the process."""
SPINS = 2000
"""How often an idle worker looks for work before it sleeps, about a millisecond. TVM's own 300000
keep it busy for seconds where others want its processor: ONNX Runtime in other processes then took
three times as long, which made any comparison with it unfair.
"""
INSTALL = 'pip install "passel[tvm]"'
INSTALL_FFI = 'pip install "apache-tvm-ffi>=0.1.14,<0.1.15"'


def require(threads: int = 0) -> None:
    """Import tvm, with a pool of at least this many threads (0: all cores).

    TVM makes its pool when the first kernel runs, and left alone with half of the cores. It is made
    as large as the machine allows here; sessions then use a part of it (`session.use_threads`).
    TVM_NUM_THREADS and TVM_THREAD_POOL_SPIN_COUNT, where the user has set them, have the last word.

    Raises:
        BackendUnavailable: TVM is missing, installed in versions that do not work together, or
            does not start.
    """
    found = problem()
    if found is not None:
        raise BackendUnavailable(found)
    if "tvm" not in sys.modules:
        os.environ.setdefault("TVM_NUM_THREADS", str(max(threads, pool_size())))
        os.environ.setdefault("TVM_THREAD_POOL_SPIN_COUNT", str(SPINS))
    try:
        importlib.import_module("tvm")
    except (ImportError, OSError, RuntimeError) as error:
        raise BackendUnavailable(
            f"apache-tvm {TVM} is installed, but cannot be imported: {error}"
        ) from error


def problem() -> str | None:
    """What is wrong with what is installed, and what to do; None if nothing. Imports nothing."""
    found = version_of("apache-tvm")
    if found is None:
        return f"backend 'tvm' needs Apache TVM, which is missing: {INSTALL}"
    if found != TVM:
        return f"backend 'tvm' needs apache-tvm {TVM}, but {found} is installed: {INSTALL}"
    ffi = version_of("apache-tvm-ffi")
    if ffi is None:
        return f"apache-tvm {TVM} needs apache-tvm-ffi, which is missing: {INSTALL_FFI}"
    if not FFI_FROM <= _numbers(ffi) < FFI_BEFORE:
        return f"apache-tvm-ffi {ffi} does not work with apache-tvm {TVM}: {INSTALL_FFI}"
    return None


def pool_size() -> int:
    """A thread for each logical processor that this process may run on."""
    return len(cpu_facts.allowed_processors() or ()) or cpu_facts.logical_cores()


def _numbers(text: str) -> tuple[int, ...]:
    """Major, minor, patch; a suffix such as "post1" is left out."""
    return tuple(int(part) for part in text.split(".")[:3] if part.isdigit())
