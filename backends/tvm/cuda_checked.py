"""Compare every kernel scheduled for a GPU with its unscheduled form, on the CPU.

What is run is the schedule's serial form (`cuda_serial`). A kernel whose schedule computes
something else gets the most general rule instead, and is compared again.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import UnsupportedModel
from ..hardware import host_arch
from .checked import Pair, differing, replaced
from .cuda_rules import fallback, schedule_cuda
from .cuda_serial import serial_form
from .machine import machine_of
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
    import tvm

    wrong = differences(scheduled, folder)
    if not wrong:
        return scheduled
    plain = tvm.IRModule({name: scheduled.plain[name] for name in wrong})
    anew = schedule_cuda(plain, target, [fallback()])
    still = differences(anew, folder) | dict.fromkeys(anew.serial, "no thread can be bound to it")
    if still:
        name, how = next(iter(still.items()))
        raise UnsupportedModel(f"TVM: no GPU schedule of kernel {name!r} is right: {how}")
    return replace(
        scheduled,
        module=replaced(scheduled.module, {name: anew.module[name] for name in wrong}),
        rules=scheduled.rules | anew.rules,
        rejected=wrong,
    )


def differences(scheduled: Scheduled, folder: Path | None = None) -> dict[str, str]:
    """How each kernel that is wrong differs from its plain form."""
    pairs = {}
    for name, plain in scheduled.plain.items():
        serial = serial_form(scheduled.module[name])
        if serial is not None:
            pairs[name] = Pair(plain, serial)
    return differing(pairs, machine_of(host_arch(), threads=1), folder)
