"""MetaSchedule with a memory and a clock; its schedules are used where right and faster."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from passel.backends.explain import InputSpec
from passel.backends.tvm import metaschedule, metaschedule_builder
from passel.backends.tvm.kernels import kernels_of
from passel.backends.tvm.metaschedule import Step, tune
from passel.backends.tvm.metaschedule_memory import FILE, KNOWN, Memory, remembering, removing
from passel.backends.tvm.metaschedule_tasks import search_traces
from passel.backends.tvm.pipeline import build, fused
from passel.backends.tvm.stubs import PACKAGE, in_worker, stub_intrinsics
from passel.backends.tvm.tuned import Tuned, replayed
from tests.backends.tvm.programs import module


def softmax(rows: Any = 24) -> Any:
    """A Relax module with one softmax over rows of 40."""
    from tvm import relax

    spec = InputSpec("x", "float32", (rows, 40))
    return module([spec], [], lambda builder, x: [relax.op.nn.softmax(x, axis=-1)])


def modules(count: int) -> list[Any]:
    """Different kernels."""
    import tvm
    from tvm import te

    def one(columns: int) -> Any:
        x = te.placeholder((4, columns), "float32", "x")
        y = te.compute((4, columns), lambda i, j: x[i, j] + 1.0)
        return tvm.IRModule({"main": te.create_prim_func([x, y])})

    return [one(4 + k) for k in range(count)]


class Counting:
    """A pool and a runner that only count what they are asked for."""

    def __init__(self) -> None:
        self.built: list[int] = []
        self.run_: list[int] = []

    def build(self, inputs: Any, left: Any) -> list[Any]:
        from tvm.s_tir.meta_schedule.builder import BuilderResult

        self.built.append(len(inputs))
        return [
            BuilderResult(None, "refused")
            if k == 1
            else BuilderResult(f"/nowhere/{len(self.built)}/{k}", None)
            for k in range(len(inputs))
        ]

    def run(self, inputs: Any) -> list[Any]:
        from tvm.s_tir.meta_schedule.runner import RunnerFuture, RunnerResult

        self.run_.append(len(inputs))
        return [
            RunnerFuture(lambda: True, lambda k=k: RunnerResult([float(k + 1)], None))
            for k in range(len(inputs))
        ]


def measure(memory: Memory, counting: Counting, kernels: list[Any], machine: Any) -> list[Any]:
    """What a round gives: seconds, or None for what failed."""
    from tvm.s_tir import meta_schedule as ms

    builder, runner = remembering(memory, counting, counting)
    target = machine.target()
    results = builder.build([ms.builder.BuilderInput(one, target) for one in kernels])
    paths = [r.artifact_path for r in results if r.artifact_path is not None]
    futures = iter(runner.run([ms.runner.RunnerInput(str(path), "cpu", []) for path in paths]))
    found = []
    for result in results:
        run = next(futures).result() if result.artifact_path is not None else None
        found.append(
            None if run is None or run.run_secs is None else list(map(float, run.run_secs))
        )
    return found


def test_nothing_is_measured_twice(machine, tmp_path):
    stub_intrinsics()
    kernels, counting = modules(4), Counting()
    first = measure(Memory(tmp_path, lambda: 1.0), counting, kernels[:3], machine)
    assert first == [[1.0], None, [2.0]]
    with (tmp_path / FILE).open("a") as file:
        file.write("half a li")
    memory = Memory(tmp_path, lambda: 1.0)
    assert len(memory) == 3
    again = measure(memory, counting, kernels, machine)
    assert again == [[1.0], None, [2.0], [1.0]]
    assert counting.built == [3, 1]
    assert counting.run_ == [2, 1]


def test_what_was_built_is_deleted_and_what_is_known_needs_no_deleting(tmp_path):
    stub_intrinsics()
    from tvm.s_tir.meta_schedule.builder import BuilderResult

    built = tmp_path / "built"
    built.mkdir()
    (built / "one.tar").touch()
    builds = [BuilderResult(str(built / "one.tar"), None), BuilderResult(KNOWN + "a", None)]
    removing()._inst.apply(None, 0, [], [*builds, BuilderResult(None, "refused")], [])
    assert not built.exists()
    assert tmp_path.exists()


def test_the_clock_ends_the_search(machine, tmp_path):
    stub_intrinsics()
    memory = Memory(tmp_path, lambda: 0.0)
    with pytest.raises(RuntimeError, match="the time is up"):  # as TVM passes it on
        measure(memory, Counting(), modules(1), machine)
    assert memory.out_of_time


def test_what_there_was_no_time_for_is_not_held_against_it(machine, tmp_path):
    stub_intrinsics()
    left = iter([1.0, 0.0])
    memory = Memory(tmp_path, lambda: next(left))
    assert measure(memory, Counting(), modules(1), machine) == [None]
    assert len(memory) == 0


def test_the_intrinsics_are_not_imported():
    stub_intrinsics()
    assert getattr(sys.modules[PACKAGE], "__file__", None) is None
    start = time.perf_counter()
    import tvm.s_tir.tensor_intrin  # noqa: F401

    assert time.perf_counter() - start < 1


def test_what_a_worker_runs_is_pickled_whole():
    """Nothing in it sends the process to import passel."""
    import cloudpickle

    for function in (in_worker(2), metaschedule_builder._build_function()):
        assert b"import passel" not in cloudpickle.dumps(function)
        assert function.__qualname__.count("<locals>") == 1


def workers() -> list[int]:
    """Processes that this one has started for TVM."""
    children = psutil.Process().children(recursive=True)
    return [child.pid for child in children if "popen_worker" in " ".join(child.cmdline())]


ABANDONED = """
import sys, time
from passel.backends.tvm.available import require
require(1)
from passel.backends.tvm.stubs import in_worker
from tvm.support.popen_pool import PopenPoolExecutor
pool = PopenPoolExecutor(max_workers=2, timeout=60, initializer=in_worker(1))
jobs = [pool.submit(lambda: (__import__("time").sleep(1), __import__("os").getpid())[1])
        for _ in range(2)]
print(*[job.result() for job in jobs], flush=True)
time.sleep(600)
"""


@pytest.mark.slow
def test_workers_end_with_a_process_that_is_killed():
    with subprocess.Popen(
        [sys.executable, "-P", "-c", ABANDONED], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        started = [int(pid) for pid in parent.stdout.readline().split()]
        parent.kill()
    assert started
    deadline = time.monotonic() + 60
    while any(map(psutil.pid_exists, started)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not any(map(psutil.pid_exists, started))


@pytest.fixture(scope="module")
def tuning(machine, tmp_path_factory) -> tuple[Path, Tuned, list[Step]]:
    """A short real search."""
    folder, told = tmp_path_factory.mktemp("tuning"), []
    return folder, tune(softmax(), machine, folder, 900.0, trials=8, progress=told.append), told


@pytest.mark.slow
def test_a_search_leaves_records(tuning):
    folder, tuned, told = tuning
    assert tuned.trials >= 4
    assert told[-1].trials == tuned.trials
    records = (folder / "database_tuning_record.json").read_text().splitlines()
    assert len(records) >= 1
    assert len((folder / FILE).read_text().splitlines()) == tuned.trials
    assert workers() == []


@pytest.mark.slow
def test_a_second_search_goes_on_from_there(tuning, machine):
    folder = tuning[0]
    before = (folder / FILE).read_text().splitlines()
    again = tune(softmax(), machine, folder, 900.0, trials=8)
    after = (folder / FILE).read_text().splitlines()
    assert after[: len(before)] == before
    keys = [json.loads(line)[0] for line in after]
    assert len(set(keys)) == len(keys)
    assert again.trials == len(keys) > len(before)


@pytest.mark.slow
def test_a_search_that_meets_known_schedules_again(tuning, machine):
    """Without MetaSchedule's own records, it begins as the first one did."""
    folder = tuning[0]
    for path in folder.glob("database_*.json"):
        path.unlink()
    known = (folder / FILE).read_text().splitlines()
    again = tune(softmax(), machine, folder, 900.0, trials=8, seed=-len(known))
    assert again.trials >= len(known)
    assert (folder / FILE).read_text().splitlines()[: len(known)] == known
    assert (folder / "database_tuning_record.json").read_text()


@pytest.mark.slow
def test_its_best_is_used_where_it_is_faster(tuning, machine, monkeypatch):
    """Timing is pretended; the trace, the comparison and the build are real."""
    folder = tuning[0]
    monkeypatch.setattr(
        metaschedule,
        "times",
        lambda plain, forms, machine, seconds: {n: 1.0 if n == "trace" else 2.0 for n in forms},
    )
    tuned = tune(softmax(), machine, folder, 900.0, trials=2)
    (winner,) = tuned.winners.values()
    assert (winner.microseconds, winner.before) == (1.0, 2.0)
    (kernel,) = kernels_of(fused(softmax(), machine.target()), machine)
    assert replayed(winner.trace, kernel.plain) is not None
    _, scheduled = build(softmax(), machine, check=True, tuned=tuned)
    assert list(scheduled.rules.values()) == ["measured"]
    monkeypatch.setattr(metaschedule, "agrees", lambda *_: False)
    (folder / "winners.json").unlink()
    assert tune(softmax(), machine, folder, 900.0, trials=2).winners == {}


def test_open_sizes_are_left_to_our_rules(machine, tmp_path):
    kernels = kernels_of(fused(softmax("n"), machine.target()), machine)
    bench = metaschedule.Bench(machine, tmp_path, lambda: 100.0, 4, None, 0)
    assert search_traces(kernels, {}, Tuned(), bench, lambda kernel: None) == {}


def test_prime_axes_get_a_note(machine, tmp_path):
    tuned = Tuned()
    kernels = kernels_of(fused(softmax(197), machine.target()), machine)
    bench = metaschedule.Bench(machine, tmp_path, lambda: 0.0, 4, None, 0)
    search_traces(kernels, {kernels[0].key: 1.0}, tuned, bench, lambda kernel: None)
    assert "cannot tile axes of prime length (197)" in tuned.notes[0]
