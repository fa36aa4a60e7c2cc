"""TVM's kernels tuned on another machine, through its RPC tracker, and a library for it."""

from pathlib import Path
from typing import TYPE_CHECKING

from .backends.cache_folder import cache_folder
from .backends.compiled import CompiledModel
from .backends.elsewhere import Elsewhere
from .backends.target import Target
from .backends.tvm.available import require
from .backends.tvm.machine import Machine, machine_of
from .backends.tvm.model import build_model
from .capture import Captured
from .errors import InvalidInput
from .lower_tvm import formed, tell
from .pipeline import Job, stage

if TYPE_CHECKING:
    from .backends.tvm.metaschedule import Progress
    from .backends.tvm.rpc import Remote


def tuned_remotely(
    job: Job,
    captured: Captured,
    target: Target,
    seconds: float,
    address: str,
    *,
    progress: "Progress | None" = None,
) -> CompiledModel:
    """Tune kernels on a tracker's devices, and compile the model for them.

    Args:
        target: the devices' CPU and threads, in full.
        seconds: budget, compilation included.
        address: "host:port" or "host:port/key" of a TVM RPC tracker.

    Returns:
        What can be saved, and loaded there. What is found is kept apart from what is measured here.

    Raises:
        InvalidInput: the address cannot be read, or the target's CPU is left open.
        BackendUnavailable: TVM is missing, or the tracker has no such device.
    """
    if target.kind != "cpu" or not (target.arch and target.threads):
        raise InvalidInput(
            "target: expected the devices' CPU and threads, such as 'cpu:arch=znver4,threads=8', "
            f"got {str(target)!r}"
        )
    require()
    from .backends.tvm.emit import emit
    from .backends.tvm.metaschedule import tune
    from .backends.tvm.rpc import Remote, check_remote, remote_runner

    remote = Remote.of(address)
    check_remote(remote)
    machine = machine_of(target.arch, target.threads)
    graph = formed(job, captured)
    with stage(job.report, "tune"):
        module = emit(graph, machine).module
        folder, runner = remote_folder(machine, remote), remote_runner(remote)
        tuned = tune(module, machine, folder, seconds, progress=progress, runner=runner)
    with stage(job.report, "tvm"):
        model = build_model(graph, machine, tuned=tuned if tuned.winners else None)
    tell(job, model, tuned)
    job.report.verified = "not as a whole: it was compiled for another machine"
    session = Elsewhere(f"the model was compiled for {target}: load it on that machine")
    return CompiledModel(model, captured.signature, job.report, session=session)


def remote_folder(machine: Machine, remote: "Remote") -> Path:
    """Where schedules are kept that were measured on a tracker's devices."""
    return cache_folder() / "kernels" / f"{remote.key}-{machine.mcpu}-{machine.threads}"
