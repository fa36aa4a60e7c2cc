"""`passel.autotune`: search for the fastest way to run a model on this machine, and remember it.

Every plan that the search tries is built, verified and timed in a process of its own; plain ONNX
Runtime is one of them, so the result is never slower than it. What was found is kept in a database,
by graph, machine and versions: the next call with the same model is a lookup, an interrupted one
goes on where it was, and several processes may share one search.
"""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .backends.compiled import CompiledModel
from .backends.onnxruntime import provider
from .backends.target import Target
from .backends.tuning.late import Late
from .backends.tuning.live import shown
from .backends.tuning.memory import tuned_plan
from .backends.tuning.records import Key
from .backends.tuning.standing import Limits, Progress
from .errors import InvalidInput, PasselError
from .passes import Quantize
from .passes.base import AnyPass, Exactness
from .passes.registry import Request, resolve
from .passes.report import Report
from .tuner import Asked, Tuner

if TYPE_CHECKING:
    from .backends.tuning.database import Database

__all__ = ["autotune", "tuned_plan"]


def autotune(
    model: Any,
    example_inputs: Any = None,
    *,
    target: "str | Target" = "cpu",
    budget: "str | float | None" = None,
    trials: int | None = None,
    database: "str | os.PathLike[str] | Database | None" = None,
    objective: str = "latency",
    max_error: float | None = None,
    passes: Request = "default",
    dynamic_shapes: Any = None,
    threads: int = 0,
    seed: int = 0,
    progress: Progress | None = None,
) -> CompiledModel:
    """Search for the best way to run a model here; other arguments as in `passel.compile`.

    The same call again is a lookup. Limits hold for the search as a whole, so a larger one goes on
    where the last ended. Ctrl-C ends it with the best plan so far.

    Args:
        target: "cpu", "cuda" or a `Target`.
        budget: "30s", "5min", "1h" or seconds; 5 minutes where no `trials` are given either.
        trials: how many candidates to try.
        database: where results are kept: a file, a SQLAlchemy URL, which workers on several
            machines may share, or None for the user's cache folder (PASSEL_CACHE).
        objective: what is minimised. "latency": the median of a call. "throughput": the time
            per call when as many calls run at once as the cores allow, from threads of the caller's
            (`report.chosen["plan"]["streams"]`), each with `threads` threads. "memory": the
            largest resident memory of a process that runs the model.
        max_error: allows quantized plans whose outputs are off by no more than this share of the
            largest output, on the example inputs.
        passes: what plans may run, each pass or not; lossy ones need `max_error`.
        threads: fixes the threads of a call; 0 lets the search choose.
        seed: of the search.
        progress: called with the `Standing` of the search at every step; by default a table is
            shown on a terminal.

    Raises:
        InvalidInput: an argument is wrong, or the database cannot be used.
        PasselError: as `compile`, where plain ONNX Runtime cannot run the model either.
    """
    limits = Limits.of(budget, trials)
    asked = _asked(target, limits, objective, max_error, passes, threads, seed)
    late = Late(database)
    tuner = Tuner(asked, late, Report())
    tuner.take_in(model, example_inputs, dynamic_shapes)
    known = tuner.known()
    if known is not None and known.covers(asked.limits):
        try:
            return tuner.built(known, looked_up=True)
        except PasselError as error:
            late.database.forget(tuner.key)
            tuner.report.notes.append(f"the stored plan does not work any more: {error}")
    tuner.report.notes[:0] = late.database.notes
    with shown(progress) as told:
        found = tuner.search(told)
    return tuner.result(found)


def _asked(
    target: "str | Target",
    limits: Limits,
    objective: str,
    max_error: float | None,
    passes: Request,
    threads: int,
    seed: int,
) -> Asked:
    """The arguments, checked.

    Raises:
        InvalidInput: one of them is wrong.
        BackendUnavailable: the target is not there.
    """
    for name, value in (("threads", threads), ("seed", seed)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise InvalidInput(f"{name}: expected a whole number from 0 on, got {value!r}")
    Key("", "", "", objective, max_error)  # checks both
    aim = Target.of(target)
    provider(aim.kind)
    found = tuple(resolve(passes))
    _check_passes(found, max_error)
    return Asked(aim, limits, objective, max_error, found, threads, seed)


def _check_passes(passes: Sequence[AnyPass], max_error: float | None) -> None:
    for one in passes:
        if isinstance(one, Quantize):
            raise InvalidInput(
                "passes: quantization is a part of the search: give max_error= instead"
            )
        if one.exactness is Exactness.APPROXIMATE and max_error is None:
            raise InvalidInput(f"passes: {one.spec} is lossy: give max_error= to bound its error")
