"""`passel run`: a model's inputs and outputs, and its latency on ONNX Runtime."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.table import Table

from ..backends.choices import SessionChoice
from ..backends.measure import timed
from ..backends.onnxruntime import Session
from ..graph.fx_tensor import to_numpy
from ..graph.onnx_io import read
from .cli_facts import TensorFacts, real_inputs, value_facts
from .cli_inputs import GivenInputs
from .cli_screen import Screen
from .cli_tables import columns, duration, labelled, milliseconds


@dataclass(frozen=True)
class Trial:
    """What to run and how often."""

    model: Path
    inputs: GivenInputs
    runs: int = 50
    warmup: int = 5
    threads: int = 0
    target: str = "cpu"


def run(trial: Trial, screen: Screen) -> None:
    """Run the model and print shapes and latency.

    Raises:
        PasselError: the model or the inputs are unfit, or the target is not there.
    """
    with screen.working() as working:
        working.say(f"loading {trial.model}")
        model = read(trial.model)
        declared = [value_facts(value) for value in real_inputs(model)]
        arrays = [to_numpy(tensor) for tensor in trial.inputs.of(model).values()]
        session = Session(trial.model, trial.target, SessionChoice(threads=trial.threads))
        working.say(f"running {trial.model}")
        with trial.inputs.explained():
            results = session.run_arrays(arrays)
        timed(lambda: session.run_arrays(arrays), trial.warmup)
        times = timed(lambda: session.run_arrays(arrays), trial.runs)
    table = columns("", "name", "type", "shape", left=range(4))
    _add(table, "input", declared, arrays)
    outputs = [TensorFacts(name, None, "") for name in session.outputs]
    _add(table, "output", outputs, results)
    screen.print(table, *_latency(times, trial))


def _add(
    table: Table, label: str, declared: Sequence[TensorFacts], arrays: Sequence[np.ndarray]
) -> None:
    for position, (value, array) in enumerate(zip(declared, arrays, strict=True)):
        shape = TensorFacts("", np.shape(array), "").shape_text
        symbolic = value.shape is not None and any(isinstance(dim, str) for dim in value.shape)
        note = f"{shape}  ({value.shape_text})" if symbolic else shape
        dtype = getattr(array, "dtype", np.dtype(object)).name
        table.add_row(label if not position else "", value.name, dtype, note)


def _latency(times: Sequence[float], trial: Trial) -> list[str]:
    nine_tenths = float(np.quantile(times, 0.9))
    threads = f"{trial.threads} threads" if trial.threads else "all cores"
    return [
        labelled(
            "latency",
            f"median {milliseconds(statistics.median(times))} ms, "
            f"p90 {milliseconds(nine_tenths)} ms, min {milliseconds(min(times))} ms",
        ),
        labelled("", f"{len(times)} runs in {duration(sum(times))}, {trial.target}, {threads}"),
    ]
