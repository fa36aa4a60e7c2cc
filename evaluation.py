"""What the caller measures of a model, before and after: accuracy, perplexity, or anything else."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import torch

from .capture import Captured
from .errors import InvalidInput
from .execution import arrays_of, runner
from .graph.fx_tensor import to_torch
from .pipeline import Job, stage
from .signature import Signature
from .verify import Runner

Evaluate = Callable[[Callable[..., Any]], float | Mapping[str, float]]
"""From a model, called like the one that came in, to a number or several by name."""
ALONE = "value"
"""The name of a number that came without one."""


@dataclass(frozen=True)
class Callee:
    """A program called like the model that it came from: torch in, torch out; numpy likewise."""

    signature: Signature
    run: Runner

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        flat = self.signature.flatten(args, kwargs)
        is_torch = any(isinstance(value, torch.Tensor) for value in flat)
        results: Sequence[Any] = self.run([_array(value) for value in flat])
        return self.signature.unflatten([to_torch(r) for r in results] if is_torch else results)


def evaluate_original(job: Job, captured: Captured, evaluate: Evaluate | None) -> None:
    """Measure the model as it came in.

    Raises:
        InvalidInput: `evaluate` returns something else than a number or a dict of them.
    """
    if evaluate is None:
        return
    call = captured.reference
    if call is None:
        run = runner(captured.program, job.threads)
    else:
        run = lambda arrays: arrays_of(call([to_torch(array) for array in arrays]))  # noqa: E731
    _evaluate(job, "before", evaluate, Callee(captured.signature, run))


def evaluate_program(job: Job, captured: Captured, evaluate: Evaluate | None, made: Any) -> None:
    """Measure what the passes made of it, an ExportedProgram or an ONNX model."""
    if evaluate is not None:
        callee = Callee(captured.signature, runner(made, job.threads))
        _evaluate(job, "after", evaluate, callee)


def evaluate_result(job: Job, evaluate: Evaluate | None, made: Callable[..., Any]) -> None:
    """Measure a result that is called like the original."""
    if evaluate is not None:
        _evaluate(job, "after", evaluate, made)


def _evaluate(job: Job, when: str, evaluate: Evaluate, model: Callable[..., Any]) -> None:
    with stage(job.report, "evaluate"):
        found = evaluate(model)
    numbers = found if isinstance(found, Mapping) else {ALONE: found}
    job.report.evaluation[when] = {str(name): _number(one) for name, one in numbers.items()}


def _number(found: object) -> float:
    if isinstance(found, torch.Tensor | np.ndarray) and np.prod(found.shape) == 1:
        return float(found)
    if isinstance(found, Real | np.number):
        return float(found)
    raise InvalidInput(
        f"evaluate: expected it to return a number or a dict of numbers, got {found!r}"
    )


def _array(value: Any) -> np.ndarray:
    return arrays_of([value])[0] if isinstance(value, torch.Tensor) else np.asarray(value)
