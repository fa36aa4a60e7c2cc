"""From a captured model to CUDA code by Apache TVM, for a GPU that need not be in this computer."""

from .backends.compiled import CompiledModel
from .backends.elsewhere import Elsewhere
from .backends.target import Target
from .backends.tvm.cuda import CudaBuilt, build_cuda
from .backends.tvm.cuda_session import CudaSession
from .capture import Captured
from .errors import BackendUnavailable
from .lower_tvm import formed
from .pipeline import Job, stage


def on_cuda(job: Job, captured: Captured, target: Target, *, verify: bool) -> CompiledModel:
    """Run the passes, and compile what they made for a GPU; verified where there is one.

    Without one, every kernel is still compared with its plain form on this CPU.

    Raises:
        BackendUnavailable: TVM is missing, or the target names no architecture and there is no GPU.
        UnsupportedModel: operators or kernels that have no lowering; all of them are named.
        VerificationError: the result disagrees with the original.
    """
    aim = Target.of(target)
    graph = formed(job, captured)
    with stage(job.report, "tvm"):
        built = build_cuda(graph, aim.arch)
    report = job.report
    report.chosen = {"backend": "tvm", "arch": built.arch, "kernels": len(built.model.rules)}
    report.notes += built.model.notes
    session = running(built)
    if isinstance(session, Elsewhere):
        report.verified = f"kernel by kernel on this CPU: {session.why}"
    elif verify:
        inputs = captured.inputs_for(captured.program)
        job.verify(captured, captured.program, inputs, session.run_arrays)
    return CompiledModel(built, captured.signature, report, "cuda", session=session)


def running(built: CudaBuilt) -> CudaSession | Elsewhere:
    """The model on this machine's GPU, or what says that there is none."""
    try:
        return CudaSession(built)
    except BackendUnavailable as error:
        return Elsewhere(str(error))
