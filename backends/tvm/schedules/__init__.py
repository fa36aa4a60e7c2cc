"""CPU schedules: every kernel of a module gets the first rule that takes it.

TVM's own CPU pipeline schedules nothing. A rule is a function from a PrimFunc and the machine to a
schedule of it, or None where the kernel is not its kind. What no rule takes stays serial, and is
named in the result.
"""

from collections.abc import Sequence
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
        rejected: kernels whose schedule computed something else, and by how much; each is now as
            it was before.
        failed: steps that TVM refused, by kernel and rule; another rule may have taken the kernel.
    """

    module: "tvm.IRModule"
    rules: dict[str, str] = field(default_factory=dict)
    plain: "dict[str, tvm.tirx.PrimFunc]" = field(default_factory=dict)
    serial: list[str] = field(default_factory=list)
    rejected: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def rules() -> list[Rule]:
    """Every rule, the particular before the general."""
    from .attention import attention
    from .elementwise import elementwise
    from .integer import integer_product
    from .matmul import matmul
    from .rows import rows
    from .weight_only import weight_only

    return [attention, integer_product, weight_only, matmul, rows, elementwise]


def schedule(module: "tvm.IRModule", machine: Machine, first: Sequence[Rule] = ()) -> Scheduled:
    """Schedule every kernel that is not scheduled yet; the rules in `first` are asked first."""
    import tvm
    from tvm import tirx

    from .vector_math import expand

    result = Scheduled(tvm.IRModule(dict(module.functions_items()), attrs=module.attrs))
    for var, function in list(module.functions_items()):
        if not isinstance(function, tirx.PrimFunc) or _is_scheduled(function):
            continue
        name = var.name_hint
        for rule in (*first, *rules()):
            found = _attempt(rule, function, machine, name, result.failed)
            if found is not None:
                result.rules[name], result.plain[name] = rule.__name__, function
                done = expand(found.mod["main"]).with_attr("tirx.is_scheduled", True)
                result.module[var] = done.with_attr("global_symbol", name)
                break
        else:
            result.serial.append(name)
    return result


def _attempt(
    rule: Rule,
    function: "tvm.tirx.PrimFunc",
    machine: Machine,
    name: str,
    failed: dict[str, str],
) -> "tvm.s_tir.Schedule | None":
    """What a rule makes of a kernel; where TVM itself refuses a step of it, that is noted."""
    import tvm

    try:
        return rule(function, machine)
    except (tvm.error.InternalError, tvm.s_tir.ScheduleError) as error:
        failed[f"{name} ({rule.__name__})"] = str(error).strip().splitlines()[-1]
        return None


def _is_scheduled(function: "tvm.tirx.PrimFunc") -> bool:
    return bool(function.attrs and function.attrs.get("tirx.is_scheduled"))
