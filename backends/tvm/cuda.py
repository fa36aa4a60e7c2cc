"""Compile a graph for an NVIDIA GPU, which need not be in this computer.

The result holds CUDA source; `cuda_nvcc.cubin` makes machine code of it where nvcc is installed,
and `cuda_session.CudaSession` runs it where there is a GPU.
"""

import glob
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import InvalidModel
from ...graph import Graph
from .artefact import description, load_model, save_model
from .code import Code, present
from .cuda_nvcc import cubin, find_nvcc, remember
from .cuda_target import cuda_machine, cuda_target
from .model import TvmModel, model_of

if TYPE_CHECKING:
    from .schedules import Scheduled

SOURCE, CODE = ".cu", ".cubin"


@dataclass
class CudaBuilt:
    """A graph compiled for a GPU.

    Attributes:
        model: code of the host with the source inside, weights, inputs, and which rule scheduled
            each kernel; its `machine` is named after the architecture.
        source: the generated CUDA source of all kernels.
    """

    model: TvmModel
    source: str

    @property
    def arch(self) -> str:
        """The architecture that it was compiled for."""
        return self.model.machine.mcpu

    def cubin_for(self, arch: str) -> bytes:
        """Machine code of the kernels for an architecture.

        Raises:
            BackendUnavailable: there is no nvcc, or it does not know the architecture.
        """
        return cubin(self.source, arch)


def build_cuda(
    graph: Graph, arch: str, *, cuda_graph: bool = False, check: bool = True
) -> CudaBuilt:
    """Compile a graph for a GPU of an architecture, such as "sm_90".

    Args:
        graph: what to compile; it is not changed.
        arch: what to compile it for.
        cuda_graph: record the kernels in a CUDA graph on the first call, and replay it: for static
            shapes, where launching a kernel takes longer than running it.
        check: compare the schedule of every kernel with its unscheduled form, on this CPU.

    Raises:
        InvalidInput: `arch` does not name an architecture.
        UnsupportedModel: operators that there is no spelling for, or kernels that no rule can
            schedule; it names them all.
        BackendUnavailable: TVM is missing.
    """
    from .available import require

    require()
    from .cuda_jit import install_compiler
    from .cuda_pipeline import build_for_cuda
    from .emit import emit
    from .stubs import stub_intrinsics

    target, machine = cuda_target(arch), cuda_machine(arch)
    install_compiler()
    stub_intrinsics()  # of which the rule for float16 products imports those for CUDA
    emitted = emit(graph, machine)
    built, scheduled = build_for_cuda(emitted.module, target, cuda_graph=cuda_graph, check=check)
    code = Code(built, scheduled.rules, scheduled.serial, _notes(scheduled))
    return CudaBuilt(model_of(graph, machine, emitted, code), source_of(built.mod))


def _notes(scheduled: "Scheduled") -> list[str]:
    slow = sorted(name for name, rule in scheduled.rules.items() if rule == "OneThread")
    return [
        *(f"kernel {name!r} runs on one thread of the GPU" for name in slow),
        *(
            f"kernel {name!r} has the most general GPU schedule: a better one computes something "
            f"else, {how}"
            for name, how in sorted(scheduled.rejected.items())
        ),
    ]


def source_of(module: Any) -> str:
    """The CUDA source in a compiled module.

    Raises:
        InvalidModel: there is none, since the model has no kernel.
    """
    found = _cuda_module(module)
    if found is None:
        raise InvalidModel("TVM: the model computes nothing that would run on a GPU")
    return str(found.inspect_source("cuda"))


def _cuda_module(module: Any) -> Any:
    """The module of CUDA code among a module and all that it imports; None if there is none."""
    if module.kind == "cuda":
        return module
    return next((m for child in module.imports if (m := _cuda_module(child)) is not None), None)


def save_cuda(built: CudaBuilt, path: Path) -> None:
    """Write `path`, which ends in .tvm, and its companions: source too, and code if nvcc is here.

    Raises:
        InvalidInput: the code cannot be written out.
        OSError: the disk is full, or the like.
    """
    save_model(built.model, path)
    path.with_suffix(SOURCE).write_text(built.source, encoding="utf-8")
    for stale in _code_files(path).values():
        stale.unlink()
    if find_nvcc() is not None:
        path.with_suffix(f".{built.arch}{CODE}").write_bytes(built.cubin_for(built.arch))


def load_cuda(path: Path) -> CudaBuilt:
    """Read what `save_cuda` wrote; saved machine code is used, so that nvcc is not needed.

    Raises:
        InvalidModel: a file is missing or damaged, or from a newer passel.
        BackendUnavailable: TVM is missing, or there is no GPU: TVM cannot even load the code then.
    """
    from .available import require
    from .cuda_jit import install_compiler, require_device

    require()
    require_device(_saved_arch(path))
    source = present(path.with_suffix(SOURCE)).read_text(encoding="utf-8")
    for arch, file in _code_files(path).items():
        remember(source, arch, file.read_bytes())
    install_compiler()
    return CudaBuilt(load_model(path), source)


def _code_files(path: Path) -> dict[str, Path]:
    """The saved machine code of a model, by architecture: m.sm_90.cubin for m.tvm."""
    found = sorted(path.parent.glob(f"{glob.escape(path.stem)}.sm_*{CODE}"))
    return {file.name[len(path.stem) + 1 : -len(CODE)]: file for file in found}


def _saved_arch(path: Path) -> str:
    try:
        return str(description(path)["machine"]["mcpu"])
    except (KeyError, TypeError) as error:
        raise InvalidModel(f"load: {str(path)!r} is damaged: {error!r}") from error
