"""Tune a module's kernels by measurement: what our rules decide, then MetaSchedule.

Both share one clock. A winner is kept only if it computes what the unscheduled kernel does, and was
faster than our rule's schedule when both were timed in turns. Everything is kept in a folder: the
winners (`tuned.py`), MetaSchedule's JSON database, and every measurement by schedule, so that a
later call goes on where this one stopped. MetaSchedule looks records up by kernel alone, whatever
they were measured on: one folder serves one kind of machine.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .host import missing_features
from .kernel_search import GAIN, TURN_SECONDS, Search, agrees, best_decisions
from .kernel_timer import times
from .kernels import Kernel, kernels_of
from .machine import Machine
from .measured_forms import remote_times
from .metaschedule_tasks import Bench, search_traces
from .pipeline import fused
from .plain_form import operations
from .stubs import end_workers
from .tuned import Tuned, Winner, form_of, replayed, scheduled_by, structural_key
from .verdicts import Verdicts

if TYPE_CHECKING:
    import tvm

OWN_SHARE = 0.4
"""Of the time, for what our rules decide."""
MOST_OPERATIONS = 1e12
LOOK_SECONDS = 0.05
"""Time to see how long a kernel takes."""


@dataclass(frozen=True)
class Step:
    """What is told while tuning goes on.

    Attributes:
        kernel: name.
        microseconds: of its fastest schedule so far.
        before: of its schedule without tuning.
        trials: measurements of MetaSchedule so far, of all kernels.
        left: seconds.
    """

    kernel: str
    microseconds: float
    before: float
    trials: int
    left: float


Progress = Callable[[Step], None]


def tune(
    module: "tvm.IRModule",
    machine: Machine,
    work_dir: Path,
    seconds: float,
    trials: int | None = None,
    progress: Progress | None = None,
    *,
    runner: Any = None,
    seed: int = 0,
) -> Tuned:
    """Find faster schedules for the kernels of a module; what is found is saved as it goes.

    Args:
        module: a Relax module as `emit` makes it.
        machine: this machine, or the one behind `runner`.
        work_dir: where to keep and find results, one folder for each kind of machine.
        seconds: budget, compilation included; a step that has begun is finished. What earlier calls
            took of it for this module counts, where neither they nor this one are bound by trials.
        trials: bound on measurements of MetaSchedule in this call; 0 for none at all.
        progress: told after each kernel and each round of measurements.
        runner: what measures for MetaSchedule (`rpc.remote_runner`), by default this machine; its
            processes are ended with the call.
        seed: of MetaSchedule's search.
    """
    tuned, key = Tuned.load(work_dir), structural_key(module)
    share = seconds - (tuned.spent.get(key, 0.0) if trials is None else 0.0)
    deadline = time.monotonic() + share
    search = Search(machine, Verdicts(work_dir), lambda: deadline - time.monotonic())
    work_dir.mkdir(parents=True, exist_ok=True)
    try:
        if share > 0:
            _tune(module, tuned, search, _Asked(work_dir, share, trials, progress, runner, seed))
            if trials is None:
                tuned.spent[key] = seconds
            tuned.save(work_dir)
    finally:
        if runner is not None:
            end_workers(runner)
    return tuned


@dataclass(frozen=True)
class _Asked:
    """What is left of a call of `tune`; see there."""

    work_dir: Path
    seconds: float
    trials: int | None
    progress: Progress | None
    runner: Any
    seed: int


def _tune(module: "tvm.IRModule", tuned: Tuned, search: Search, asked: _Asked) -> None:
    machine, runner = search.machine, asked.runner
    kernels = kernels_of(fused(module, machine.target()), machine)
    weights = _weights(kernels, machine, here=runner is None)
    told = asked.progress or (lambda step: None)

    def tell(kernel: Kernel) -> None:
        winner, own = tuned.winners.get(kernel.key), weights[kernel.key] / kernel.calls
        now, before = (winner.microseconds, winner.before) if winner else (own, own)
        told(Step(kernel.name, now, before, tuned.trials, search.left()))

    if runner is None:  # a remote machine measures for MetaSchedule only
        _tune_decisions(kernels, weights, tuned, search, asked.seconds * OWN_SHARE, tell)
        tuned.save(asked.work_dir)
    if asked.trials != 0 and search.left() > 0:
        bench = Bench(machine, asked.work_dir, search.left, asked.trials, runner, asked.seed)
        traces = search_traces(kernels, weights, tuned, bench, tell)
        _take_traces(kernels, traces, tuned, search, runner)


def _weights(kernels: list[Kernel], machine: Machine, *, here: bool) -> dict[str, float]:
    """Microseconds that each kernel takes in one run of the module, under our own schedule.

    By the number of operations alone, at one in a nanosecond, where the machine is another one.
    """
    found = {}
    for kernel in kernels:
        if here:
            alone = times(kernel.plain, {"ours": kernel.ours}, machine, LOOK_SECONDS)
            once = alone.get("ours", 0.0)
        else:
            once = min(operations(kernel.plain), MOST_OPERATIONS) * 1e-3
        found[kernel.key] = once * kernel.calls
    return found


def _tune_decisions(
    kernels: list[Kernel],
    weights: dict[str, float],
    tuned: Tuned,
    search: Search,
    seconds: float,
    tell: Callable[[Kernel], None],
) -> None:
    """Our own rules, the kernels that take longest first, each by its share of the time."""
    open_ = [k for k in kernels if k.decisions and k.key not in tuned.settled]
    total = sum(weights[k.key] for k in open_) or 1.0
    for kernel in sorted(open_, key=lambda k: -weights[k.key]):
        winner, complete = best_decisions(kernel, search, seconds * weights[kernel.key] / total)
        if winner is not None:
            tuned.winners[kernel.key] = winner
        if complete:
            tuned.settled.add(kernel.key)
        tell(kernel)
        if search.left() <= 0:
            return


def _take_traces(
    kernels: list[Kernel], traces: dict[str, str], tuned: Tuned, search: Search, runner: Any
) -> None:
    """Keep each of MetaSchedule's best that is right, and faster than what there is."""
    missing = missing_features(search.machine)
    if missing and traces:
        tuned.notes.append(
            f"MetaSchedule's schedules are not used: this CPU lacks {', '.join(missing[:4])}, so "
            "that it cannot compare what they compute"
        )
        return
    for kernel in kernels:
        trace = traces.get(kernel.key, "")
        schedule = replayed(trace, kernel.plain) if trace else None
        form = None if schedule is None else form_of(schedule)
        if form is None or not agrees(kernel, form, search):
            continue
        forms = {**_rivals(kernel, tuned, search), "trace": form}
        found = (
            remote_times(forms, search.machine, runner)
            if runner is not None
            else times(kernel.plain, forms, search.machine, TURN_SECONDS * len(forms))
        )
        best = min((found[n] for n in ("ours", "rival") if n in found), default=math.inf)
        if found.get("trace", math.inf) < GAIN * best:
            before = found.get("ours", found["trace"])
            tuned.winners[kernel.key] = Winner(found["trace"], before, trace=trace)


def _rivals(kernel: Kernel, tuned: Tuned, search: Search) -> dict[str, Any]:
    """Our own schedule of a kernel, and what has beaten it so far."""
    forms = {"ours": kernel.ours}
    known = tuned.winners.get(kernel.key)
    schedule = scheduled_by(known, kernel.plain, search.machine) if known else None
    if schedule is not None:
        forms["rival"] = form_of(schedule)
    return forms
