"""Compare every scheduled kernel with its unscheduled form before it is used.

Both are compiled and run on the same random arguments; where sizes are open, on several sizes. A
kernel that computes something else, or that LLVM refuses, is replaced by its plain form. Equal
kernels are compared once, and what was found is kept for the next process (`verdicts.py`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...graph.fx_tensor import to_torch
from ..cache_folder import cache_folder
from .aligned import aligned_array
from .index_bounds import index_bounds
from .kernel_build import compiled_groups
from .kernel_inputs import Parameter, arguments, parameters, symbols
from .kernel_outputs import Allowed, allowed, difference
from .machine import Machine
from .plain_form import quicker, terms
from .refusals import last_line
from .schedules import Scheduled
from .tuned import kernel_key
from .verdicts import Verdicts

if TYPE_CHECKING:
    import tvm

SIZES = (1, 7, 64, 65, 32)
"""What open sizes become: one, an odd number, a tile, one more."""


@dataclass(frozen=True)
class Pair:
    """A kernel in both forms."""

    plain: "tvm.tirx.PrimFunc"
    scheduled: "tvm.tirx.PrimFunc"

    def key(self, machine: Machine) -> str:
        """The same for equal kernels, in any process."""
        return f"{kernel_key(self.plain)}{kernel_key(self.scheduled)}:{machine.mcpu}"


def checked(scheduled: Scheduled, machine: Machine, folder: Path | None = None) -> Scheduled:
    """The same kernels, those that disagree with their plain form replaced by it.

    Args:
        scheduled: a module after scheduling.
        machine: what it is for; the code must run here.
        folder: where verdicts are kept; the user's cache folder by default.
    """
    pairs = {name: Pair(plain, scheduled.module[name]) for name, plain in scheduled.plain.items()}
    wrong = differing(pairs, machine, folder)
    return replace(
        scheduled,
        module=replaced(scheduled.module, {name: scheduled.plain[name] for name in wrong}),
        rules={name: rule for name, rule in scheduled.rules.items() if name not in wrong},
        plain={name: plain for name, plain in scheduled.plain.items() if name not in wrong},
        serial=[*scheduled.serial, *wrong],
        rejected={**scheduled.rejected, **wrong},
    )


def replaced(module: "tvm.IRModule", kernels: "Mapping[str, tvm.tirx.PrimFunc]") -> "tvm.IRModule":
    """The module with other kernels of these names."""
    import tvm

    functions = {var: kernels.get(var.name_hint, old) for var, old in module.functions_items()}
    return tvm.IRModule(functions, attrs=module.attrs)


def differing(
    pairs: Mapping[str, Pair], machine: Machine, folder: Path | None = None
) -> dict[str, str]:
    """How the two forms of each kernel differ where they do; verdicts are kept in the folder."""
    found = judge(pairs, machine, Verdicts(cache_folder() if folder is None else folder))
    return {name: verdict for name, verdict in found.items() if verdict}


def judge(pairs: Mapping[str, Pair], machine: Machine, verdicts: Verdicts) -> dict[str, str]:
    """For each kernel "", or how its two forms differ."""
    keys = {name: pair.key(machine) for name, pair in pairs.items()}
    fresh = {key: pairs[name] for name, key in reversed(keys.items()) if verdicts.get(key) is None}
    for key, functions in zip(fresh, compiled_pairs(list(fresh.values()), machine), strict=True):
        if isinstance(functions, str):
            verdicts.put(key, functions)
        else:
            verdicts.put(key, compare(fresh[key].plain, functions) or "")
    return {name: verdicts.get(key) or "" for name, key in keys.items()}


def compiled_pairs(pairs: Sequence[Pair], machine: Machine) -> Iterator[tuple[Any, Any] | str]:
    """Both forms of each kernel as functions, or why one of them does not compile."""
    forms = [{"plain": quicker(pair.plain), "scheduled": pair.scheduled} for pair in pairs]
    for found in compiled_groups(forms, machine):
        if isinstance(found, Exception):
            yield f"does not compile: {last_line(found)}"
        else:
            yield found["plain"], found["scheduled"]


def compare(plain: "tvm.tirx.PrimFunc", functions: tuple[Any, Any]) -> str | None:
    """How the two functions differ on random arguments; None if they do not.

    Args:
        plain: the kernel's unscheduled form, which says what the arguments are.
        functions: both forms, compiled.
    """
    given = parameters(plain)
    open_sizes = symbols(given)
    limit = allowed(plain, terms(plain))
    for turn in range(len(SIZES) - 1 if open_sizes else 1):
        sizes = {var: SIZES[(turn + k) % len(SIZES)] for k, var in enumerate(open_sizes)}
        wrong = _compare_at(plain, given, sizes, functions, limit, turn)
        if wrong is not None:
            at = ", ".join(f"{var} = {size}" for var, size in sizes.items())
            return f"{wrong} where {at}" if at else wrong
    return None


def _compare_at(
    plain: "tvm.tirx.PrimFunc",
    given: list[Parameter],
    sizes: Mapping[Any, int],
    functions: tuple[Any, Any],
    limit: Allowed,
    seed: int,
) -> str | None:
    bounds = index_bounds(plain, given, sizes)
    for positive in (False, True):
        inputs = arguments(given, sizes, bounds, seed, positive=positive)
        expected, found = (_run(function, given, inputs) for function in functions)
        wrong = difference(expected, found, limit)
        if wrong is not None or all(map(_is_finite, expected)):
            return wrong
    return None


def _run(function: Any, given: list[Parameter], inputs: Sequence[Any]) -> list[np.ndarray]:
    """What a function writes, starting from what the arguments hold there."""
    held = []
    for one, value in zip(given, inputs, strict=True):
        if one.shape is None:
            held.append(value)
        else:
            held.append(aligned_array(value.copy() if one.written else value))
    function(*(to_torch(v) if isinstance(v, np.ndarray) else v for v in held))
    return [value for one, value in zip(given, held, strict=True) if one.written]


def _is_finite(array: np.ndarray) -> bool:
    return bool(np.isfinite(array.astype(np.float64)).all())
