"""The generated CUDA kernels, run on the CPU by an emulator, compute what torch computes.

The real host code and VM run. Threads of a block run in several orders, so that a missing barrier
shows; each run is a process of its own, since the emulator takes the place of TVM's CUDA device.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.backends.tvm.cuda_cases import CASES

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ to compile kernels")
ORDERS = ("0", "1", "2")
LIMIT = 1e-5
"""Of the largest output: float32 sums in another order."""


def emulated(name: str, *, barriers: bool = True) -> dict[str, Any]:
    """Errors by order of threads, and the largest output."""
    script = Path(__file__).parent / "cuda_cases.py"
    how = "barriers" if barriers else "without"
    command = [sys.executable, "-P", str(script), name, how, *ORDERS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_block() -> None:
    found = emulated("block")
    assert found["kernels"] > 10
    assert max(found["errors"]) < LIMIT * found["scale"]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CASES if name != "block"])
def test_models(name: str) -> None:
    found = emulated(name)
    assert max(found["errors"]) < LIMIT * found["scale"]


@pytest.mark.slow
def test_emulator_notices_missing_barriers() -> None:
    found = emulated("block", barriers=False)
    assert min(found["errors"]) > 100 * LIMIT * found["scale"]
