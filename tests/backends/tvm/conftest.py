"""What the tests of the TVM backend share: the machine that they run on."""

import pytest

from passel.backends.tvm.available import require
from passel.backends.tvm.machine import Machine, machine_of
from passel.errors import BackendUnavailable

THREADS = 2

try:
    require(THREADS)
except BackendUnavailable as problem:
    pytest.skip(str(problem), allow_module_level=True)


@pytest.fixture(scope="session")
def machine() -> Machine:
    """The CPU of this computer, with two worker threads."""
    from tvm.target.codegen import llvm_get_system_cpu

    return machine_of(str(llvm_get_system_cpu()), THREADS)
