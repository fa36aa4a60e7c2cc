"""CPU schedules: every kernel of a module gets the first rule that takes it.

TVM's own CPU pipeline schedules nothing. A rule is a function from a PrimFunc and the machine to a
schedule of it, or None where the kernel is not its kind. What no rule takes stays serial, and is
named in the result.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..machine import Machine
from .rule import Rule

if TYPE_CHECKING:
    import tvm


@dataclass
class Scheduled:
    """A module after scheduling.

    Attributes:
        module: every kernel scheduled, or as it was.
        rules: name of the rule that took each kernel.
        plain: each scheduled kernel as it was before, to compare with.
        serial: kernels that no rule took.
    """

    module: "tvm.IRModule"
    rules: dict[str, str] = field(default_factory=dict)
    plain: "dict[str, tvm.tirx.PrimFunc]" = field(default_factory=dict)
    serial: list[str] = field(default_factory=list)


def rules() -> list[Rule]:
    """Every rule, the particular before the general."""
    return []


def schedule(module: "tvm.IRModule", machine: Machine) -> Scheduled:
    """Schedule every kernel that is not scheduled yet."""
    import tvm
    from tvm import tirx

    result = Scheduled(tvm.IRModule(dict(module.functions_items()), attrs=module.attrs))
    for var, function in list(module.functions_items()):
        if not isinstance(function, tirx.PrimFunc) or _is_scheduled(function):
            continue
        name = var.name_hint
        for rule in rules():
            found = rule(function, machine)
            if found is not None:
                result.rules[name], result.plain[name] = rule.__name__, function
                done = found.mod["main"].with_attr("tirx.is_scheduled", True)
                result.module[var] = done.with_attr("global_symbol", name)
                break
        else:
            result.serial.append(name)
    return result


def _is_scheduled(function: "tvm.tirx.PrimFunc") -> bool:
    return bool(function.attrs and function.attrs.get("tirx.is_scheduled"))
