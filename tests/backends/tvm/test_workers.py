"""Where a kernel's threads run: workers on processors of their own, and the caller beside them."""

import os

import pytest

from passel.backends.tvm.available import require
from passel.backends.tvm.workers import _pool, beside_workers, use_threads

TWO = hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) > 1


@pytest.mark.skipif(not TWO, reason="needs two processors, on Linux")
def test_the_caller_is_kept_off_a_workers_processor() -> None:
    require(2)
    allowed = os.sched_getaffinity(0)
    if use_threads(2) < 2:
        pytest.skip("this process made its pool with one thread")
    (worker,) = _pool.bound
    with beside_workers():
        assert os.sched_getaffinity(0) == allowed - {worker}
    assert os.sched_getaffinity(0) == allowed
    os.sched_setaffinity(0, {worker})
    try:
        with beside_workers():  # the user's own wish stands
            assert os.sched_getaffinity(0) == {worker}
    finally:
        os.sched_setaffinity(0, allowed)
    use_threads(1)
    with beside_workers():
        assert os.sched_getaffinity(0) == allowed
