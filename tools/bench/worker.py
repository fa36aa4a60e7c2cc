"""One side of the benchmark, in a process of its own: loads the model, then times calls on demand.

A process per side keeps thread pools, spinning threads and peak memory apart.
"""

import json
import os
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import torch

from ...backends.cache_folder import VARIABLE
from ...backends.choices import SessionChoice
from ...backends.onnxruntime import Session
from ...capture import quiet
from .models import Loaded, load
from .turns import serve

Call = Callable[[], Any]


def eager(loaded: Loaded, threads: int) -> Call:
    """The module as it is."""
    model, inputs = loaded
    return lambda: model(*inputs)


def inductor(loaded: Loaded, threads: int) -> Call:
    """torch.compile with its default backend."""
    model, inputs = loaded
    compiled = torch.compile(model)
    return lambda: compiled(*inputs)


def onnxruntime(loaded: Loaded, threads: int) -> Call:
    """torch.onnx.export with default settings, run by ONNX Runtime with default settings."""
    model, inputs = loaded
    with quiet():
        exported = torch.onnx.export(model, inputs, dynamo=True, verbose=False)
    assert exported is not None
    session = Session(exported.model, choice=SessionChoice(threads=threads))
    return lambda: session.run_tensors(inputs)


def pushed(loaded: Loaded, threads: int) -> Call:
    """The same export with push-tokens as its only pass, by ONNX Runtime with default settings."""
    from ...compiler import optimize

    model, inputs = loaded
    with quiet():
        exported = torch.onnx.export(model, inputs, dynamo=True, verbose=False)
    assert exported is not None
    found = optimize(exported.model, passes=["push-tokens", "eliminate-dead-code"], verify=False)
    assert isinstance(found.program, ir.Model)
    session = Session(found.program, choice=SessionChoice(threads=threads))
    return lambda: session.run_tensors(inputs)


def passel(loaded: Loaded, threads: int) -> Call:
    """passel.compile with default settings, as if nothing had been tuned here."""
    from ...compiler import compile

    model, inputs = loaded
    with tempfile.TemporaryDirectory() as empty:
        os.environ[VARIABLE] = empty
        compiled = compile(model, inputs, threads=threads)
    print(json.dumps({"form": compiled.report.chosen}), file=sys.stderr)
    return lambda: compiled(*inputs)


def tvm(loaded: Loaded, threads: int) -> Call:
    """The default passes, then TVM with passel's own schedules, nothing tuned."""
    return _on_tvm(loaded, threads, seconds=0.0)


def tvm_tuned(loaded: Loaded, threads: int) -> Call:
    """The same after the kernels were tuned on this machine, for as long as BUDGET says."""
    return _on_tvm(loaded, threads, seconds=budget())


def _on_tvm(loaded: Loaded, threads: int, seconds: float) -> Call:
    from ...backends.target import Target
    from ...capture import capture
    from ...lower_tvm import built, tune_kernels
    from ...pipeline import Job

    model, inputs = loaded
    job = Job.of("default", (), None, threads=threads)
    captured, target = capture(model, inputs), Target(threads=threads)
    if seconds:
        tune_kernels(job, captured, target, seconds)
    session = built(job, captured, target, tuned=bool(seconds))
    print(json.dumps({"chosen": job.report.chosen}), file=sys.stderr)
    return lambda: session.run_tensors(inputs)


def autotuned(loaded: Loaded, threads: int) -> Call:
    """passel.autotune; a lookup where the model was tuned before."""
    from ...autotuning import autotune

    model, inputs = loaded
    compiled = autotune(model, inputs, threads=threads, budget=budget())
    print(json.dumps({"plan": compiled.report.chosen}, default=str), file=sys.stderr)
    return lambda: compiled(*inputs)


BUDGET = "PASSEL_BENCH_BUDGET"
"""Environment variable: how long the sides that search may take, as `autotune` has it."""


def budget() -> float:
    """Seconds that a side may search."""
    from ...backends.tuning.standing import seconds_of

    return seconds_of(os.environ.get(BUDGET, "10min"))


SIDES: dict[str, Callable[[Loaded, int], Call]] = {
    "eager": eager,
    "torch.compile": inductor,
    "onnxruntime": onnxruntime,
    "push-tokens": pushed,
    "passel": passel,
    "autotuned": autotuned,
    "tvm": tvm,
    "tvm-tuned": tvm_tuned,
}


DEFAULT_SIDES = ("eager", "torch.compile", "onnxruntime", "passel")


def main() -> None:
    """Serve turns until standard input ends."""
    side, model, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
    torch.set_num_threads(threads)
    with torch.no_grad():
        call = SIDES[side](load(model), threads)
        serve(call)


if __name__ == "__main__":
    main()
