"""Build MetaSchedule's candidates in processes that stay, as long as there is time.

TVM's own builder starts new processes for every round of candidates, each of which imports TVM.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from typing import Any

from .stubs import in_worker

BUILD_SECONDS = 20.0
USES = 200
"""Candidates that a process builds before another takes its place: LLVM gives back little memory
between them."""
LATE = "the time is up"


class BuildPool:
    """Processes that compile modules into files."""

    def __init__(self, workers: int) -> None:
        from tvm.support.popen_pool import PopenPoolExecutor

        self._pool = PopenPoolExecutor(
            max_workers=workers,
            timeout=BUILD_SECONDS,
            initializer=in_worker(),
            maximum_process_uses=USES,
        )

    def build(self, inputs: Sequence[Any], left: Callable[[], float]) -> list[Any]:
        """A BuilderResult for each BuilderInput: a path, or why there is none."""
        build = _build_function()
        futures = [self._pool.submit(build, one.mod, one.target) for one in inputs]
        results = []
        for future in futures:
            if left() <= 0:
                future.cancel()  # what has begun is finished
            results.append(_result(future))
        return results

    def close(self) -> None:
        """End the processes."""
        self._pool.shutdown()


def _result(future: "Future[str]") -> Any:
    from tvm.s_tir.meta_schedule.builder import BuilderResult

    try:
        return BuilderResult(future.result(), None)
    except CancelledError:
        return BuilderResult(None, LATE)
    except TimeoutError:
        return BuilderResult(None, f"not built within {BUILD_SECONDS:.0f} s")
    except Exception as error:  # of the compiler, or of a process that crashed
        return BuilderResult(None, f"not built: {error}")


def _build_function() -> Callable[[Any, Any], str]:
    """What a process does, as a function that pickle takes along whole (see `stubs`)."""

    def build(module: Any, target: Any) -> str:
        from tvm.s_tir.meta_schedule.builder.local_builder import default_build, default_export

        return str(default_export(default_build(module, target, None)))

    return build
