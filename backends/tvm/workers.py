"""The threads that run a kernel: how many there are, and on which processors.

TVM binds each of its workers to a processor and leaves the caller's thread free. If the system has
put the caller where a worker is bound, the two take turns on one processor while another is idle,
for as long as it stays there: a spinning worker never looks idle to the scheduler, nor can it be
moved. So the caller is kept off the workers' processors during a call.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

BIG = 1
"""TVM's name for "the fastest cores first"."""
NAMED = -2
"""TVM's name for "one processor a thread, as listed"."""


class _Pool(threading.local):
    """TVM keeps one pool of workers for each thread that calls it.

    Attributes:
        asked: how many threads were asked for; 0 before the first time.
        size: how many there are, the caller included.
        bound: the processors that workers are bound to.
    """

    asked = 0
    size = 1
    bound: frozenset[int] = frozenset()


_pool = _Pool()


def use_threads(count: int) -> int:
    """Let kernels called from this thread use so many threads; returns how many they get.

    The pool itself cannot grow beyond the size it was made with.
    """
    if _pool.asked != count:
        import tvm

        places = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []
        configure = tvm.get_global_func("runtime.config_threadpool")
        if 1 < count <= len(places):
            configure(NAMED, count, [str(place) for place in places])
            _pool.bound = frozenset(places[1:count])
        else:
            configure(BIG, count)
            _pool.bound = frozenset()
        _pool.asked = count
        _pool.size = int(tvm.get_global_func("runtime.NumThreads")())
    return _pool.size


@contextmanager
def beside_workers() -> Iterator[None]:
    """Keep this thread off the workers' processors for a while, unless it may run nowhere else."""
    allowed = os.sched_getaffinity(0) if _pool.bound else set()
    free = allowed - _pool.bound
    if not free or free == allowed:
        yield
        return
    os.sched_setaffinity(0, free)
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)
