"""What MetaSchedule's processes do first: import little, and end with the process they work for.

`tvm.s_tir.tensor_intrin` parses TVMScript for 10 to 25 seconds when it is imported, most of it for
GPUs, which every process would do anew. The CPU rules used here need none of it.

A worker of TVM's waits for its pipe to close, but its siblings hold copies of that pipe: were their
parent killed, they would wait for each other for ever.
"""

from collections.abc import Callable
from typing import Any

PACKAGE = "tvm.s_tir.tensor_intrin"
WATCH_SECONDS = 2.0
"""How often a process looks whether its parent is still there."""


def stub_intrinsics() -> None:
    """Put an empty package in the place of the intrinsics, unless they are imported already."""
    _stub()(PACKAGE)


def in_worker(threads: int = 0) -> Callable[[], None]:
    """The same for a process that builds or measures, as a function that pickle takes along whole.

    One that pickle finds by its name would make each process import passel, and torch with it.

    Args:
        threads: how many the process runs kernels on; 0 leaves it as it is.
    """
    stub, package, seconds = _stub(), PACKAGE, WATCH_SECONDS

    def initialize() -> None:
        import os
        import threading
        import time

        parent = os.getppid()

        def watch() -> None:
            while os.getppid() == parent:
                time.sleep(seconds)
            os._exit(1)

        threading.Thread(target=watch, daemon=True).start()
        if threads:
            os.environ["TVM_NUM_THREADS"] = str(threads)
        stub(package)

    return initialize


def end_workers(runner: Any) -> None:
    """End the processes of a runner of MetaSchedule's, which cannot be used any more."""
    runner.pool.shutdown()


def _stub() -> Callable[[str], None]:
    def stub(package: str) -> None:
        import importlib
        import os
        import sys
        import types

        if package in sys.modules:
            return
        parent = importlib.import_module(package.rpartition(".")[0])
        name = package.rpartition(".")[2]
        module = types.ModuleType(package)
        module.__path__ = [os.path.join(os.path.dirname(str(parent.__file__)), name)]
        sys.modules[package] = module
        setattr(parent, name, module)

    return stub
