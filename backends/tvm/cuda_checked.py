"""Compare every kernel scheduled for a GPU with its unscheduled form, on the CPU.

What is run is the schedule's serial form (`cuda_serial`). A kernel whose schedule computes
something else gets the most general rule instead, and is compared again.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import UnsupportedModel
from .cuda_rules import fallback, schedule_cuda
from .cuda_serial import serial_form
from .schedules import Scheduled

if TYPE_CHECKING:
    import tvm


def checked_for_cuda(
    scheduled: Scheduled, target: "tvm.target.Target", folder: Path | None = None
) -> Scheduled:
    """The same kernels; those that disagree with their plain form are scheduled anew.

    Args:
        scheduled: a module after scheduling.
        target: the GPU that it is for.
        folder: where verdicts are kept; the user's cache folder by default.

    Raises:
        UnsupportedModel: a kernel is wrong under the most general rule too.
    """
    wrong = differences(scheduled, folder)
    if not wrong:
        return scheduled
    for var, _ in scheduled.module.functions_items():
        if var.name_hint in wrong:
            plain = scheduled.plain[var.name_hint]
            scheduled.module[var] = plain.with_attr("global_symbol", var.name_hint)
    again = schedule_cuda(scheduled.module, target, [fallback()])
    still = differences(again, folder)
    if still or again.serial:
        name, how = next(iter(still.items()), (again.serial[0], "no thread can be bound to it"))
        raise UnsupportedModel(f"TVM: no GPU schedule of kernel {name!r} is right: {how}")
    return Scheduled(
        again.module,
        {**scheduled.rules, **{name: again.rules[name] for name in wrong}},
        {**scheduled.plain, **{name: again.plain[name] for name in wrong}},
        rejected=wrong,
    )


def differences(scheduled: Scheduled, folder: Path | None = None) -> dict[str, str]:
    """How each kernel that is wrong differs from its plain form."""
    from tvm.target.codegen import llvm_get_system_cpu

    from ..cache_folder import cache_folder
    from .checked import Pair, judge
    from .machine import machine_of
    from .verdicts import Verdicts

    pairs = {}
    for name, plain in scheduled.plain.items():
        serial = serial_form(scheduled.module[name])
        if serial is not None:
            pairs[name] = Pair(plain, serial)
    host = machine_of(str(llvm_get_system_cpu()), threads=1)
    found = judge(pairs, host, Verdicts(cache_folder() if folder is None else folder))
    return {name: how for name, how in found.items() if how}
