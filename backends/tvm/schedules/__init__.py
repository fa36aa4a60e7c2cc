"""CPU schedules: every kernel of a module gets the first rule that takes it.

TVM's own CPU pipeline schedules nothing. A rule is a function from a PrimFunc and the machine to a
schedule of it, or None where the kernel is not its kind. What no rule takes stays serial, and is
named in the result.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from ..machine import Machine
from ..refusals import attempted
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

    def take(self, var: "tvm.ir.GlobalVar", rule: str, function: "tvm.tirx.PrimFunc") -> None:
        """Put a kernel as a rule scheduled it in the place of the kernel as it was."""
        name = var.name_hint
        self.rules[name], self.plain[name] = rule, self.module[var]
        done = function.with_attr("tirx.is_scheduled", True)
        self.module[var] = done.with_attr("global_symbol", name)


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

    refusals = (tvm.error.InternalError, tvm.s_tir.ScheduleError)
    result = Scheduled(tvm.IRModule(dict(module.functions_items()), attrs=module.attrs))
    asked = [*first, *rules()]
    for var, function in list(module.functions_items()):
        if not isinstance(function, tirx.PrimFunc) or _is_scheduled(function):
            continue
        for rule in asked:
            at = f"{var.name_hint} ({rule.__name__})"
            found = attempted(partial(rule, function, machine), at, result.failed, refusals)
            if found is not None:
                result.take(var, rule.__name__, expand(found.mod["main"]))
                break
        else:
            result.serial.append(var.name_hint)
    return result


def _is_scheduled(function: "tvm.tirx.PrimFunc") -> bool:
    return bool(function.attrs and function.attrs.get("tirx.is_scheduled"))
