"""MetaSchedule on a list of kernels: tasks, rounds of measurements, the best trace of each.

Only TVM's rules for plain LLVM are used. Those for dot products (VNNI) pass operands that this LLVM
refuses, or read the weights in the wrong order, and nothing in MetaSchedule compares results.
"""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .kernel_inputs import parameters, symbols
from .kernels import Kernel, prime_axes
from .machine import Machine
from .metaschedule_builder import BuildPool
from .metaschedule_memory import Memory, remembering, removing
from .stubs import end_workers, in_worker, stub_intrinsics
from .tuned import Tuned

ROUND = 16
"""Schedules that are built and measured together."""
PER_KERNEL = 256
"""Measurements of one kernel in one call, at most."""
POPULATION, GENERATIONS = 128, 3
"""A quarter of TVM's, whose search takes longer than the measurements of a round."""
RUN_SECONDS = 20


@dataclass(frozen=True)
class Bench:
    """How MetaSchedule is to run.

    Attributes:
        machine: what to compile for.
        folder: of the database.
        left: seconds that are left.
        trials: bound on measurements, None for the time alone.
        runner: what measures; None for this machine.
        seed: of the search.
    """

    machine: Machine
    folder: Path
    left: Callable[[], float]
    trials: int | None
    runner: Any
    seed: int


def search_traces(
    kernels: list[Kernel],
    weights: dict[str, float],
    tuned: Tuned,
    bench: Bench,
    tell: Callable[[Kernel], None],
) -> dict[str, str]:
    """Let MetaSchedule search until the time or the trials are up; its best trace by kernel.

    Args:
        kernels: what to tune; those of open sizes are left out.
        weights: microseconds that each takes in a run of the model.
        tuned: counts the trials, and gets notes.
        bench: how to run.
        tell: called with the kernel after each round of measurements.
    """
    stub_intrinsics()
    from tvm.s_tir import meta_schedule as ms

    memory = Memory(bench.folder, bench.left)
    # Another seed than last time, or the first round would be that of last time.
    tasks, chosen = _tasks(kernels, bench, bench.seed + len(memory))
    _note_primes(chosen, tuned)
    if not tasks or bench.left() <= 0:
        return {}
    database = ms.database.JSONDatabase(work_dir=str(bench.folder))
    try:
        _run(
            bench,
            memory,
            tasks,
            [max(weights[kernel.key], 1e-3) for kernel in chosen],
            database,
            _counting(chosen, memory, tuned, tell),
        )
    except Exception:  # the memory's TimeoutError, in whatever TVM makes of it on its way through
        if not memory.out_of_time:
            raise
    return _best(tasks, chosen, database, bench.machine)


def _run(
    bench: Bench,
    memory: Memory,
    tasks: list[Any],
    weights: list[float],
    database: Any,
    counting: Any,
) -> None:
    """Search until the trials are used up; out of time, the memory ends it by an exception."""
    from tvm.s_tir import meta_schedule as ms

    pool = BuildPool(bench.machine.threads)
    measuring = bench.runner or local_runner(bench.machine)
    builder, runner = remembering(memory, measuring, pool)
    try:
        ms.tune_tasks(
            tasks=tasks,
            task_weights=weights,
            work_dir=str(bench.folder),
            max_trials_global=bench.trials or PER_KERNEL * len(tasks),
            max_trials_per_task=PER_KERNEL,
            num_trials_per_iter=min(ROUND, bench.trials or ROUND),
            builder=builder,
            runner=runner,
            database=database,
            cost_model="xgb",
            measure_callbacks=[
                ms.measure_callback.AddToDatabase(),
                removing(),
                ms.measure_callback.UpdateCostModel(),
                counting,
            ],
        )
    finally:
        pool.close()
        if bench.runner is None:
            end_workers(measuring)


def local_runner(machine: Machine) -> Any:
    """Measures in a process beside this one, so that a crash ends only that."""
    from tvm.s_tir import meta_schedule as ms

    return ms.runner.LocalRunner(
        timeout_sec=RUN_SECONDS,
        evaluator_config=evaluator(),
        initializer=in_worker(machine.threads),
    )


def evaluator() -> Any:
    """How one schedule is timed."""
    from tvm.s_tir import meta_schedule as ms

    return ms.runner.EvaluatorConfig(
        number=3, repeat=1, min_repeat_ms=20, enable_cpu_cache_flush=False
    )


def _tasks(kernels: list[Kernel], bench: Bench, seed: int) -> tuple[list[Any], list[Kernel]]:
    """A task for each kernel of fixed sizes that MetaSchedule finds something to do for."""
    import tvm
    from tvm.s_tir import meta_schedule as ms

    target = bench.machine.target()
    tasks, chosen = [], []
    for number, kernel in enumerate(kernels):
        if symbols(parameters(kernel.plain)):
            continue
        task = ms.TuneContext(
            mod=tvm.IRModule({"main": kernel.plain.with_attr("global_symbol", "main")}),
            target=target,
            space_generator=ms.space_generator.PostOrderApply(
                sch_rules="llvm", postprocs="llvm", mutator_probs="llvm"
            ),
            search_strategy=ms.search_strategy.EvolutionarySearch(
                population_size=POPULATION, genetic_num_iters=GENERATIONS
            ),
            task_name=kernel.key,
            rand_state=seed + number + 1,
            num_threads=bench.machine.threads,
            logger=_silent(),
        )
        try:
            space = task.generate_design_space()
        except (RuntimeError, ValueError, TypeError):
            continue  # opaque to MetaSchedule
        if space:
            tasks.append(task.clone())
            chosen.append(kernel)
    return tasks, chosen


def _best(
    tasks: list[Any], chosen: list[Kernel], database: Any, machine: Machine
) -> dict[str, str]:

    target = machine.target()
    found = {}
    for task, kernel in zip(tasks, chosen, strict=True):
        record = database.query_tuning_record(task.mod, target, kernel.key)
        if record is not None:
            found[kernel.key] = json.dumps(_plain(record.trace.as_json()))
    return found


def _plain(value: Any) -> Any:
    """TVM's containers as Python's."""
    if isinstance(value, str | bool | int | float | type(None)):
        return value
    if hasattr(value, "items"):
        return {str(key): _plain(one) for key, one in value.items()}
    if hasattr(value, "__iter__"):
        return [_plain(one) for one in value]
    return getattr(value, "value", str(value))


def _counting(
    chosen: list[Kernel], memory: Memory, tuned: Tuned, tell: Callable[[Kernel], None]
) -> Any:
    """A callback that tells after each round, when the round's results are in the memory."""
    from tvm.ir.utils import derived_object
    from tvm.s_tir import meta_schedule as ms

    @derived_object
    class Counting(ms.measure_callback.PyMeasureCallback):
        def apply(
            self, scheduler: Any, task: int, candidates: Any, builds: Any, results: Any
        ) -> None:
            tuned.trials = len(memory)
            tell(chosen[task])

    return Counting()


def _note_primes(kernels: list[Kernel], tuned: Tuned) -> None:
    found = ", ".join(map(str, prime_axes(kernels)))
    if found:
        note = (
            f"MetaSchedule cannot tile axes of prime length ({found}); inputs padded to a multiple "
            "of 8 may become faster"
        )
        tuned.notes = [*dict.fromkeys([*tuned.notes, note])]


def _silent() -> logging.Logger:
    logger = logging.getLogger("passel.metaschedule")
    logger.propagate = False
    logger.setLevel(logging.CRITICAL)
    return logger
