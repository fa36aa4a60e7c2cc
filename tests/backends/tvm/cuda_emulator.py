"""Run models compiled for a GPU on the CPU: the generated kernels as C++, one fibre a thread.

The real host code and the real Relax VM run; only the device is replaced. TVM finds a device's
memory functions and its kernels by name in its global table, so the CPU's memory stands in for the
GPU's, and each kernel's name leads to its C++ form. That replaces TVM's CUDA device for the whole
process: use it in a process of its own.
"""

import ctypes
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tvm
import tvm_ffi

from passel.backends.tvm import cuda_jit, cuda_launch, cuda_pipeline
from passel.backends.tvm.cuda import CudaBuilt
from passel.backends.tvm.cuda_launch import AXES, LAUNCHED
from passel.backends.tvm.cuda_session import CudaSession
from passel.backends.tvm.cuda_target import cuda_target
from passel.backends.tvm.schedules import Scheduled

HEADERS = Path(__file__).parent / "emulated_cuda"
SIGNATURE = re.compile(r"__global__ void (?:__launch_bounds__\(\d+\) )?(\w+)\(([^)]*)\);")
SCALARS = {"int64_t": ctypes.c_int64, "long": ctypes.c_int64, "float": ctypes.c_float}


_order = [0]
"""In which order threads run: 0 forward, 1 backward, 2 shuffled."""


def set_order(order: int) -> None:
    """Let the threads of a block run in another order from now on."""
    _order[0] = order


def emulate(built: CudaBuilt, scheduled: Scheduled, folder: Path) -> CudaSession:
    """A session of a freshly compiled model on the emulator."""
    functions = {
        var.name_hint: function
        for var, function in scheduled.module.functions_items()
        if isinstance(function, tvm.tirx.PrimFunc)
    }
    lowered = cuda_launch.kernels(functions, cuda_target(built.arch))
    axes = {name: [str(axis) for axis in f.attrs[LAUNCHED]] for name, f in lowered.items()}
    library = ctypes.CDLL(str(compiled(built.source, folder)))
    for name, types in kernels(built.source).items():
        function = kernel(getattr(library, f"emulate_{name}"), types, axes[name])
        tvm_ffi.register_global_func(name, function, override=True)
    forget_device_code(built.model.code.library.mod)
    pretend_device(built.arch)
    return CudaSession(built)


def kernels(source: str) -> dict[str, list[str]]:
    """The kernels of a source: the type of each parameter."""
    found = {}
    for name, parameters in SIGNATURE.findall(source):
        plain = [p.replace("__restrict__", "").strip() for p in parameters.split(",")]
        found[name] = [p.rsplit(" ", 1)[0].strip() for p in plain if p]
    return found


def compiled(source: str, folder: Path) -> Path:
    """The kernels as a shared library, with one function emulate_<kernel> each."""
    code = source.replace("__shared__ alignas(64)", "alignas(64) static")
    for name, types in kernels(source).items():
        arguments = ", ".join(f"*({kind}*)given[{k}]" for k, kind in enumerate(types))
        code += f"""
extern "C" void emulate_{name}(void** arguments, const int* n, int order) {{
  static void** given;
  given = arguments;
  auto body = [] {{ {name}({arguments}); }};
  emulated::launch(body, {{n[0], n[1], n[2]}}, {{n[3], n[4], n[5]}}, order);
}}"""
    text, library = folder / "kernels.cpp", folder / "kernels.so"
    text.write_text(code)
    flags = ["-std=c++17", "-O1", "-w", "-ffp-contract=off", "-shared", "-fPIC"]
    subprocess.run(["g++", *flags, f"-I{HEADERS}", "-o", library, text], check=True)
    return library


def kernel(run: Any, types: Sequence[str], axes: Sequence[str]) -> Any:
    """What the host code calls: the kernel's arguments, then the extents of its launch."""

    def call(*values: Any) -> None:
        held = [c_value(kind, value) for kind, value in zip(types, values, strict=False)]
        pointers = (ctypes.c_void_p * len(held))(*map(ctypes.addressof, held))
        extents = dict(zip(axes, values[len(types) :], strict=True))
        counts = (ctypes.c_int * len(AXES))(*(extents.get(axis, 1) for axis in AXES))
        run(pointers, counts, _order[0])

    return call


def c_value(kind: str, value: Any) -> Any:
    """An argument as its C type."""
    if kind.endswith("*"):
        return ctypes.c_void_p(getattr(value, "value", value))
    return SCALARS.get(kind, ctypes.c_int)(value)


def forget_device_code(module: Any) -> None:
    """Drop the CUDA source that the host code would look for kernels in first."""
    if any(child.kind == "cuda" for child in module.imports):
        module.clear_imports()
    for child in module.imports:
        forget_device_code(child)


def pretend_device(arch: str) -> None:
    """Let the CPU's memory be the GPU's."""
    memory = tvm_ffi.get_global_func("device_api.cpu")
    tvm_ffi.register_global_func("device_api.cuda", lambda: memory(), override=True)
    cuda_jit.device_arch = lambda: arch


def keep_scheduled(patch: pytest.MonkeyPatch) -> list[Scheduled]:
    """A list that collects the schedule of each model that is compiled until `patch` is undone."""
    kept: list[Scheduled] = []
    schedule = cuda_pipeline.schedule_cuda

    def keeping(*arguments: Any) -> Scheduled:
        kept.append(schedule(*arguments))
        return kept[-1]

    patch.setattr(cuda_pipeline, "schedule_cuda", keeping)
    return kept
