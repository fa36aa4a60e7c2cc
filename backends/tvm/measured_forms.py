"""Time forms of one kernel through MetaSchedule's builder and runner, as on another machine."""

import statistics
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .machine import Machine
from .stubs import in_worker

if TYPE_CHECKING:
    import tvm

TURNS = 3
"""How often each form is sent; they take turns."""
BUILD_SECONDS = 30.0


def remote_times(
    forms: "Mapping[str, tvm.tirx.PrimFunc]", machine: Machine, runner: Any
) -> dict[str, float]:
    """Median microseconds of a call of each form that could be measured.

    Args:
        forms: schedules of one kernel, by name.
        machine: what to compile for.
        runner: sends them to where they are measured.
    """
    import tvm
    from tvm.s_tir import meta_schedule as ms

    target = machine.target()
    builder = ms.builder.LocalBuilder(
        max_workers=1, timeout_sec=BUILD_SECONDS, initializer=in_worker()
    )
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(TURNS):
        # An artefact is gone once it was measured, so each turn builds anew.
        modules = [
            tvm.IRModule({"main": form.with_attr("global_symbol", "main")})
            for form in forms.values()
        ]
        built = builder.build([ms.builder.BuilderInput(module, target) for module in modules])
        for name, module, one in zip(forms, modules, built, strict=True):
            if one.artifact_path is not None:
                seconds[name] += _seconds(module, str(one.artifact_path), runner)
    return {name: 1e6 * statistics.median(found) for name, found in seconds.items() if found}


def _seconds(module: "tvm.IRModule", path: str, runner: Any) -> list[float]:
    from tvm.s_tir import meta_schedule as ms

    arguments = ms.arg_info.ArgInfo.from_entry_func(module, remove_preproc=True)
    (future,) = runner.run([ms.runner.RunnerInput(path, "cpu", arguments)])
    result = future.result()
    return [] if result.run_secs is None else [float(second) for second in result.run_secs]
