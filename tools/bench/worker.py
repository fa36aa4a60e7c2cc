"""One side of the benchmark, in a process of its own: loads the model, then times calls on demand.

The parent writes a number of calls per line; the answer is one JSON list of seconds. A process per
side keeps thread pools, spinning threads and peak memory apart.
"""

import json
import os
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import torch

from ...backends.choices import SessionChoice
from ...backends.measure import timed
from ...backends.onnxruntime import Session
from ...capture import quiet
from .memory import peak_bytes
from .models import Loaded, load

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
    """passel.compile with default settings."""
    from ...compiler import compile

    model, inputs = loaded
    compiled = compile(model, inputs, threads=threads)
    print(json.dumps({"form": compiled.report.chosen}), file=sys.stderr)
    return lambda: compiled(*inputs)


def tvm(loaded: Loaded, threads: int) -> Call:
    """passel.compile for TVM, with passel's own schedules, nothing tuned."""
    from ...compiler import compile

    model, inputs = loaded
    with tempfile.TemporaryDirectory() as empty:
        os.environ["PASSEL_CACHE"] = empty
        compiled = compile(model, inputs, backend="tvm", threads=threads)
    return lambda: compiled(*inputs)


def tvm_tuned(loaded: Loaded, threads: int) -> Call:
    """The same after the kernels were tuned on this machine, for as long as BUDGET says."""
    from ...backends.target import Target
    from ...backends.tuning.standing import Limits
    from ...capture import capture
    from ...compiler import compile
    from ...lower_tvm import tune_kernels
    from ...pipeline import Job

    model, inputs = loaded
    seconds = Limits.of(os.environ.get(BUDGET, "10min"), None).seconds or 0.0
    job = Job.of("default", (), None, threads=threads)
    tune_kernels(job, capture(model, inputs, None), Target(threads=threads), seconds)
    compiled = compile(model, inputs, backend="tvm", threads=threads)
    print(json.dumps({"chosen": compiled.report.chosen}), file=sys.stderr)
    return lambda: compiled(*inputs)


def autotuned(loaded: Loaded, threads: int) -> Call:
    """passel.autotune; a lookup where the model was tuned before."""
    from ...autotuning import autotune

    model, inputs = loaded
    compiled = autotune(model, inputs, threads=threads, budget=os.environ.get(BUDGET, "10min"))
    print(json.dumps({"plan": compiled.report.chosen}, default=str), file=sys.stderr)
    return lambda: compiled(*inputs)


BUDGET = "PASSEL_BENCH_BUDGET"
"""How long the sides that search may take, as `autotune` has it."""

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
        timed(call, 3)
        print(json.dumps("ready"), flush=True)
        for line in sys.stdin:
            print(json.dumps(timed(call, int(line))), flush=True)
    print(json.dumps(peak_bytes()), flush=True)


if __name__ == "__main__":
    main()
