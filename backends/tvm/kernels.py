"""The distinct kernels of a module: how often each runs, and what schedules it has."""

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .machine import Machine
from .plain_form import axes_of
from .schedules.expressions import nodes_of
from .tuned import by_rules, form_of, kernel_key

if TYPE_CHECKING:
    import tvm

ODD = 17
"""Axes from this length on that are prime leave nothing to tile by."""


@dataclass
class Kernel:
    """One kernel.

    Attributes:
        name: of one of its occurrences.
        key: see `tuned.kernel_key`.
        plain: before scheduling.
        ours: our rule's schedule of it as a function; `plain` where no rule takes it.
        decisions: what that rule is free to decide, with the options, its own choice first.
        calls: how often the module calls it.
    """

    name: str
    key: str
    plain: "tvm.tirx.PrimFunc"
    ours: "tvm.tirx.PrimFunc"
    decisions: dict[str, list[str]]
    calls: int = 1


def kernels_of(module: "tvm.IRModule", machine: Machine) -> list[Kernel]:
    """The distinct kernels that `main` calls, in order of their names."""
    from tvm import ir, tirx

    called = Counter(var.name_hint for var in nodes_of(module["main"].body, ir.GlobalVar))
    found: dict[str, Kernel] = {}
    for name in sorted(called):
        function = module[name]
        if not isinstance(function, tirx.PrimFunc):
            continue
        key = kernel_key(function)
        if key in found:
            found[key].calls += called[name]
        else:
            found[key] = _kernel(name, key, function, machine, called[name])
    return list(found.values())


def _kernel(
    name: str, key: str, function: "tvm.tirx.PrimFunc", machine: Machine, calls: int
) -> Kernel:
    schedule, decisions = by_rules(function, machine, {})
    ours = function if schedule is None else form_of(schedule)
    return Kernel(name, key, function, ours, decisions, calls)


def prime_axes(kernels: list[Kernel]) -> list[int]:
    """Lengths of axes that no tile divides."""
    found = {
        int(getattr(axis.dom.extent, "value", 1))
        for kernel in kernels
        for axes in axes_of(kernel.plain)
        for axis in axes
    }
    return sorted(e for e in found if e >= ODD and all(e % k for k in range(2, int(e**0.5) + 1)))
