"""`passel diff`: two models side by side: what they hold, and whether they compute the same."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from rich.table import Table

from ..capture import random_like
from ..errors import InvalidInput
from ..execution import runner
from ..graph.fx_tensor import to_numpy
from ..graph.onnx_io import read
from ..passes.report import OutputError
from ..verify import SEEDS, Arrays, compare, first_violation, worst_of
from .cli_facts import TensorFacts, facts, real_inputs, value_facts
from .cli_inputs import GivenInputs
from .cli_screen import Screen
from .cli_tables import columns, comparison


@dataclass(frozen=True)
class Comparison:
    """Which models to compare, on what, and how far apart they may be."""

    left: Path
    right: Path
    inputs: GivenInputs
    rtol: float | None = None
    atol: float | None = None


def diff(asked: Comparison, screen: Screen) -> bool:
    """Print the comparison; whether every output is within its bound.

    Raises:
        InvalidInput: the models differ in their inputs or outputs.
        VerificationError: an output has another shape.
    """
    with screen.working() as working:
        working.say("reading both models")
        left, right = read(asked.left), read(asked.right)
        sizes = facts(left, asked.left), facts(right, asked.right)
        check_same("input", sizes[0].inputs, sizes[1].inputs)
        check_same("output", sizes[0].outputs, sizes[1].outputs)
        working.say("running both models")
        with asked.inputs.explained():
            errors = _errors(asked, left, right)
    screen.print(comparison(*sizes, _headings(asked)), errors_table(errors))
    violated = first_violation(errors)
    if violated is None:
        screen.print(f"{asked.left} and {asked.right} agree")
    else:
        screen.print(
            f"{asked.left} and {asked.right} differ: output {violated.name!r} by "
            f"{violated.max_abs:.3g}, allowed {violated.tolerance:.3g}"
        )
    return violated is None


def check_same(what: str, left: Sequence[TensorFacts], right: Sequence[TensorFacts]) -> None:
    """Refuse models that cannot be given the same inputs, or whose outputs have other names."""
    names = [{value.name for value in side} for side in (left, right)]
    if names[0] != names[1]:
        first, second = (", ".join(sorted(side)) or "none" for side in names)
        raise InvalidInput(f"the models have different {what}s: {first} and {second}")
    others = {value.name: value for value in right}
    for value in left:
        other = others[value.name]
        if value.dtype != other.dtype or not _compatible(value.shape, other.shape):
            raise InvalidInput(
                f"{what} {value.name!r} is {value.dtype} {value.shape_text} in one model and "
                f"{other.dtype} {other.shape_text} in the other"
            )


def _compatible(left: tuple[int | str, ...] | None, right: tuple[int | str, ...] | None) -> bool:
    if left is None or right is None:
        return True
    return len(left) == len(right) and all(
        a == b or isinstance(a, str) or isinstance(b, str) for a, b in zip(left, right, strict=True)
    )


def _errors(asked: Comparison, left: ir.Model, right: ir.Model) -> list[OutputError]:
    """The worst error of each output over the given inputs and seeded random ones."""
    given = asked.inputs.tensors(_narrowest(left, right))
    tensors = list(given.values())
    batches = [tensors, *(random_like(tensors, seed) for seed in SEEDS)]
    feeds = [
        dict(zip(given, (to_numpy(tensor) for tensor in batch), strict=True)) for batch in batches
    ]
    names = [str(value.name) for value in left.graph.outputs]
    results = [_results(model, names, feeds) for model in (left, right)]
    found = [
        compare(names, want, have, asked.atol, asked.rtol)
        for want, have in zip(*results, strict=True)
    ]
    return worst_of(found)


def _narrowest(left: ir.Model, right: ir.Model) -> list[ir.Value]:
    """The inputs of the left model, with the extents that either model fixes."""
    others = {value.name: value for value in real_inputs(right)}
    return [_narrowed(value, others[value.name]) for value in real_inputs(left)]


def _narrowed(value: ir.Value, other: ir.Value) -> ir.Value:
    if value.shape is None or other.shape is None:
        return value if other.shape is None else other
    dims = [
        theirs if isinstance(theirs, int) else mine
        for mine, theirs in zip(value.shape, other.shape, strict=True)
    ]
    return ir.Value(name=value.name, shape=ir.Shape(dims), type=value.type)


def _results(
    model: ir.Model, names: Sequence[str], feeds: Sequence[dict[str, np.ndarray]]
) -> list[Arrays]:
    """The outputs of one model in this order, for each set of inputs; its session ends here."""
    execute = runner(model)
    inputs = [value_facts(value).name for value in real_inputs(model)]
    own = [str(value.name) for value in model.graph.outputs]
    found = []
    for feed in feeds:
        outputs = dict(zip(own, execute([feed[name] for name in inputs]), strict=True))
        found.append([outputs[name] for name in names])
    return found


def errors_table(errors: Sequence[OutputError]) -> Table:
    """One row an output: how far apart the models are."""
    table = columns("output", "max |Δ|", "max |y|", "relative", "allowed", "SNR dB")
    for error in errors:
        numbers = (error.max_abs, error.peak, error.relative, error.tolerance)
        table.add_row(error.name, *(f"{n:.2g}" for n in numbers), f"{error.snr_db:.0f}")
    return table


def _headings(asked: Comparison) -> tuple[str, str]:
    names = (asked.left.name, asked.right.name)
    return names if names[0] != names[1] else (str(asked.left), str(asked.right))
