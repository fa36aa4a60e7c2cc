"""MetaSchedule's builder and runner, with a memory: no schedule is measured twice.

MetaSchedule itself forgets between calls what it has measured beyond the best few. Here each
measurement is kept by the hash of the scheduled module; a schedule that is met again is neither
built nor run. The clock is kept here too, for MetaSchedule has none.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..kept_lines import KeptLines
from .metaschedule_builder import LATE, BuildPool
from .tuned import structural_key

FILE = "measured.jsonl"
KNOWN = "known:"
"""How the path of what need not be built begins; its key follows."""
FAILED = "failed when it was measured before"


class Memory(KeptLines[list[float]]):
    """By schedule the seconds of each run; none at all for a schedule that failed.

    Attributes:
        left: seconds that are left.
        out_of_time: whether the search was stopped because the time was up.
    """

    def __init__(self, folder: Path, left: Callable[[], float]) -> None:
        super().__init__(folder / FILE, lambda seconds: [float(second) for second in seconds])
        self.left = left
        self.out_of_time = False

    def check_clock(self) -> None:
        """End the search if the time is up."""
        if self.left() <= 0:
            self.out_of_time = True
            raise TimeoutError("the time is up")


def remembering(memory: Memory, runner: Any, pool: BuildPool) -> tuple[Any, Any]:
    """A builder and a runner that ask the memory first.

    Args:
        memory: what is known, and the clock.
        runner: measures what is not.
        pool: builds it.
    """
    from tvm.ir.utils import derived_object
    from tvm.s_tir import meta_schedule as ms

    keys: dict[str, str] = {}  # of what was built, by path

    @derived_object
    class Builder(ms.builder.PyBuilder):
        def build(self, build_inputs: Any) -> Any:
            memory.check_clock()
            wanted = [structural_key(one.mod) for one in build_inputs]
            fresh = [k for k, key in enumerate(wanted) if memory.get(key) is None]
            results = [ms.builder.BuilderResult(KNOWN + key, None) for key in wanted]
            built = pool.build([build_inputs[k] for k in fresh], memory.left)
            for k, result in zip(fresh, built, strict=True):
                results[k] = result
                if result.artifact_path is not None:
                    keys[str(result.artifact_path)] = wanted[k]
                elif str(result.error_msg) != LATE:
                    memory.put(wanted[k], [])
            return results

    @derived_object
    class Runner(ms.runner.PyRunner):
        def run(self, runner_inputs: Any) -> Any:
            late = memory.left() <= 0
            fresh = [one for one in runner_inputs if not _known(one)]
            futures = iter([] if late or not fresh else runner.run(fresh))
            return [
                _remembered(memory, str(one.artifact_path)[len(KNOWN) :])
                if _known(one)
                else _done(None, LATE)
                if late
                else _recorded(memory, keys[str(one.artifact_path)], next(futures))
                for one in runner_inputs
            ]

    return Builder(), Runner()


def removing() -> Any:
    """A callback that deletes what was built once it was measured; TVM's own trips over `KNOWN`."""
    from tvm.ir.utils import derived_object
    from tvm.s_tir import meta_schedule as ms

    @derived_object
    class Removing(ms.measure_callback.PyMeasureCallback):
        def apply(
            self, scheduler: Any, task: int, candidates: Any, builds: Any, results: Any
        ) -> None:
            for one in builds:
                if one.artifact_path is not None and not _known(one):
                    shutil.rmtree(Path(str(one.artifact_path)).parent, ignore_errors=True)

    return Removing()


def _known(built: Any) -> bool:
    """Whether the path of a builder's result, or a runner's input, stands for what was measured."""
    return str(built.artifact_path).startswith(KNOWN)


def _remembered(memory: Memory, key: str) -> Any:
    seconds = memory.get(key)
    return _done(seconds, None) if seconds else _done(None, FAILED)


def _done(seconds: list[float] | None, error: str | None) -> Any:
    from tvm.s_tir import meta_schedule as ms

    result = ms.runner.RunnerResult(seconds, error)
    return ms.runner.RunnerFuture(f_done=lambda: True, f_result=lambda: result)


def _recorded(memory: Memory, key: str, future: Any) -> Any:
    """A future that puts its result into the memory."""
    from tvm.s_tir import meta_schedule as ms

    def result() -> Any:
        found = future.result()
        seconds = [] if found.run_secs is None else [float(second) for second in found.run_secs]
        memory.put(key, seconds)
        return found

    return ms.runner.RunnerFuture(f_done=future.done, f_result=result)
