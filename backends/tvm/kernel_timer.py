"""Time forms of one kernel side by side."""

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ...graph.fx_tensor import to_torch
from ..measure import interleaved, medians
from .aligned import aligned_array
from .index_bounds import index_bounds
from .kernel_build import compiled_groups
from .kernel_inputs import arguments, parameters, symbols
from .machine import Machine
from .workers import beside_workers, use_threads

if TYPE_CHECKING:
    import tvm

OPEN_SIZE = 128
"""What open sizes are while a kernel is timed."""
COPIES_BYTES, MOST_COPIES = 32 << 20, 8
"""Calls go round copies of the arguments of so many bytes together: in a model, the weights of one
kernel have left the nearer caches by the time that it runs again."""


def times(
    plain: "tvm.tirx.PrimFunc",
    forms: Mapping[str, "tvm.tirx.PrimFunc"],
    machine: Machine,
    seconds: float,
) -> dict[str, float]:
    """Median microseconds of a call of each form that compiles.

    Args:
        plain: the kernel before scheduling, which says what the arguments are.
        forms: schedules of it, by name.
        machine: what to compile for; also the number of threads.
        seconds: time for all forms together, compilation not included.
    """
    functions = built(forms, machine)
    if not functions:
        return {}
    sets = _argument_sets(plain)
    use_threads(machine.threads)
    calls = {name: _rotating(function, sets) for name, function in functions.items()}
    with beside_workers():
        found = medians(interleaved(calls, seconds=seconds / len(calls), same_threads=True))
    return {name: 1e3 * milliseconds for name, milliseconds in found.items()}


def built(forms: Mapping[str, "tvm.tirx.PrimFunc"], machine: Machine) -> dict[str, Any]:
    """The forms that compile, as functions."""
    groups = compiled_groups([{name: form} for name, form in forms.items()], machine)
    compiled = [found for found in groups if not isinstance(found, Exception)]
    return {name: function for found in compiled for name, function in found.items()}


def _argument_sets(plain: "tvm.tirx.PrimFunc") -> list[list[Any]]:
    given = parameters(plain)
    sizes = {var: OPEN_SIZE for var in symbols(given)}
    values = arguments(given, sizes, index_bounds(plain, given, sizes), seed=0)
    total = sum(value.nbytes for value in values if isinstance(value, np.ndarray))
    copies = max(1, min(MOST_COPIES, math.ceil(COPIES_BYTES / max(total, 1))))

    def one() -> list[Any]:
        return [
            to_torch(aligned_array(value.copy())) if isinstance(value, np.ndarray) else value
            for value in values
        ]

    return [one() for _ in range(copies)]


def _rotating(function: Any, sets: list[list[Any]]) -> Callable[[], object]:
    turn = [0]

    def call() -> None:
        turn[0] = (turn[0] + 1) % len(sets)
        function(*sets[turn[0]])

    return call
