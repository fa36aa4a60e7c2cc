"""Code for GPUs: every kernel can be launched, the source compiles, and errors say what to do."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import pytest
import torch

from passel.backends.tvm import cuda_checked, cuda_nvcc, cuda_rules
from passel.backends.tvm.cuda import CudaBuilt, build_cuda, load_cuda, save_cuda
from passel.backends.tvm.cuda_checked import differences
from passel.backends.tvm.cuda_jit import device_arch
from passel.backends.tvm.cuda_launch import Launch, launches
from passel.backends.tvm.cuda_nvcc import cubin, find_nvcc, remember, runs_on
from passel.backends.tvm.cuda_session import CudaSession
from passel.backends.tvm.cuda_target import cuda_target
from passel.backends.tvm.schedules import Scheduled
from passel.errors import BackendUnavailable, InvalidInput, InvalidModel, UnsupportedModel
from passel.graph import fx
from passel.graph import onnx as onnx_view
from tests.backends.tvm.cuda_cases import CASES, prepared
from tests.backends.tvm.cuda_emulator import keep_scheduled

ARCHS = ("sm_80", "sm_90")
needs_nvcc = pytest.mark.skipif(find_nvcc() is None, reason="no nvcc on PATH or in CUDA_HOME")
SOURCE = 'extern "C" __global__ void divide(float* x) { x[threadIdx.x] = x[0] / x[1]; }'


@pytest.fixture(autouse=True)
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test compiles for itself."""
    monkeypatch.setattr(cuda_nvcc, "_compiled", {})


@pytest.fixture(scope="module")
def kept() -> Iterator[list[Scheduled]]:
    """The schedules of the models that this module compiles."""
    with pytest.MonkeyPatch.context() as patch:
        yield keep_scheduled(patch)


@pytest.fixture(scope="module")
def built(kept: list[Scheduled]) -> CudaBuilt:
    graph, _, _ = prepared("block")
    return build_cuda(graph, "sm_80", check=False)


@needs_nvcc
@pytest.mark.parametrize("arch", ARCHS)
def test_generated_source_compiles(built: CudaBuilt, arch: str) -> None:
    assert built.cubin_for(arch).startswith(b"\x7fELF")


@pytest.mark.slow
@needs_nvcc
@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("name", CASES)
def test_every_model_compiles(name: str, arch: str, tmp_path: Path) -> None:
    graph, _, _ = prepared(name)
    found = build_cuda(graph, arch)
    assert found.cubin_for(arch).startswith(b"\x7fELF")
    assert not found.model.notes  # no schedule was found wrong


def test_every_kernel_runs_on_threads_and_within_limits(
    built: CudaBuilt, kept: list[Scheduled]
) -> None:
    functions = {var.name_hint: f for var, f in kept[0].module.functions_items()}
    del functions["main"]
    found = launches(functions, cuda_target("sm_80"))
    assert {one.kernel.split("_kernel")[0] for one in found} == set(built.model.rules)
    for one in found:
        assert one.threads > 1, one
        assert one.excess("sm_80") is None
        assert one.kernel in built.source


def test_schedules_agree_with_plain_kernels(kept: list[Scheduled], tmp_path: Path) -> None:
    assert len(kept[0].plain) > 10
    assert differences(kept[0], tmp_path) == {}


class Wrong:
    """Schedules a kernel that doubles, whatever it is given."""

    def apply(self, function: Any, target: Any, _: bool) -> Any:
        from tvm import te
        from tvm.s_tir.dlight import gpu

        shape = [int(extent) for extent in function.params[0].shape]
        x = te.placeholder(shape, "float32", name="x")
        other = te.create_prim_func([x, te.compute(shape, lambda *i: x(*i) * 2, name="y")])
        return gpu.Fallback().apply(other, target, _)


def test_wrong_schedule_is_replaced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PASSEL_CACHE", str(tmp_path))
    monkeypatch.setattr(cuda_rules, "cuda_rules", lambda: [Wrong()])
    found = build_cuda(graph_of(torch.nn.ReLU(), torch.randn(3, 40)), "sm_80")
    assert list(found.model.rules.values()) == ["Fallback"]
    assert "computes something else" in found.model.notes[0]


def test_no_schedule_is_right(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PASSEL_CACHE", str(tmp_path))
    monkeypatch.setattr(cuda_rules, "cuda_rules", lambda: [Wrong()])
    monkeypatch.setattr(cuda_checked, "fallback", Wrong)
    with pytest.raises(UnsupportedModel, match="kernel 'maximum' is right: 120 of 120 elements"):
        build_cuda(graph_of(torch.nn.ReLU(), torch.randn(3, 40)), "sm_80")


def test_kernel_that_nothing_schedules_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_rules, "cuda_rules", list)
    with pytest.raises(UnsupportedModel, match="no GPU schedule for 'maximum'"):
        build_cuda(graph_of(torch.nn.ReLU(), torch.randn(3, 40)), "sm_80")


def test_what_must_run_in_order_runs_on_one_thread(tmp_path: Path) -> None:
    node = onnx.helper.make_node("ScatterND", ["x", "at", "new"], ["y"])
    shapes = {"x": (1, [6, 4]), "at": (7, [3, 1]), "new": (1, [3, 4]), "y": (1, [6, 4])}
    values = {k: onnx.helper.make_tensor_value_info(k, *v) for k, v in shapes.items()}
    graph = onnx.helper.make_graph(
        [node], "g", [values["x"], values["at"], values["new"]], [values["y"]]
    )
    opset = onnx.helper.make_opsetid("", 18)
    model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10)
    found = build_cuda(onnx_view.lift(ir.serde.deserialize_model(model)), "sm_80", check=False)
    assert found.model.rules == {"scatter": "OneThread"}
    assert found.model.notes == ["kernel 'scatter' runs on one thread of the GPU"]


def test_cuda_graph() -> None:
    model = torch.nn.Sequential(*[torch.nn.Linear(8, 8) for _ in range(4)])
    graph = graph_of(model, torch.randn(4, 8))
    for wanted in (False, True):
        found = build_cuda(graph, "sm_80", cuda_graph=wanted, check=False)
        assert ("cuda_graph.run_or_capture" in found.model.code.library.as_text()) is wanted


@pytest.mark.parametrize(("arch", "said"), [("cuda", "such as 'sm_80'"), ("sm_50", "or newer")])
def test_wrong_architecture(arch: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        build_cuda(graph_of(torch.nn.ReLU(), torch.randn(3)), arch)


@pytest.mark.parametrize(
    ("extents", "shared", "dynamic", "said"),
    [
        ({"threadIdx.x": 1024}, 48 * 1024, 163 * 1024, None),
        ({"threadIdx.x": 1024, "threadIdx.y": 2}, 0, 0, "2048 threads"),
        ({"threadIdx.z": 65}, 0, 0, "65 on threadIdx.z"),
        ({"blockIdx.x": 2**20, "blockIdx.y": 2**16}, 0, 0, "65536 on blockIdx.y"),
        ({}, 48 * 1024 + 1, 0, "49153 bytes"),
        ({}, 0, 163 * 1024 + 1, "a block on sm_80"),
    ],
)
def test_limits(extents: dict[str, int], shared: int, dynamic: int, said: str | None) -> None:
    found = Launch("k", extents, shared, dynamic).excess("sm_80")
    assert found is None if said is None else said in str(found)


@needs_nvcc
def test_division_is_exact(tmp_path: Path) -> None:
    """Fast math would divide by an approximate reciprocal, which takes far less code."""
    exact = cubin(SOURCE, "sm_80")
    assert len(exact) > len(cubin(SOURCE.replace("x[0] / x[1]", "__fdividef(x[0], x[1])"), "sm_80"))


def test_compiler_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CUDA_HOME", raising=False)
    with pytest.raises(BackendUnavailable, match="needs nvcc: install the CUDA toolkit"):
        cubin(SOURCE, "sm_90")
    remember(SOURCE, "sm_80", b"code")
    assert cubin(SOURCE, "sm_86") == b"code"


@needs_nvcc
def test_compiler_refuses() -> None:
    with pytest.raises(BackendUnavailable, match="does not know sm_999"):
        cubin(SOURCE, "sm_999")
    with pytest.raises(InvalidModel, match=r"refused the generated code for sm_90: .*error"):
        cubin("not C++", "sm_90")


@pytest.mark.parametrize(
    ("arch", "device", "runs"),
    [
        ("sm_80", "sm_80", True),
        ("sm_80", "sm_86", True),
        ("sm_86", "sm_80", False),
        ("sm_80", "sm_90", False),
        ("sm_90a", "sm_90", False),
        ("sm_90a", "sm_90a", True),
        ("sm_100", "sm_103", True),
        ("sm_100", "sm_120", False),
    ],
)
def test_where_code_runs(arch: str, device: str, runs: bool) -> None:
    assert runs_on(arch, device) is runs


@pytest.mark.skipif(device_arch() is not None, reason="this machine has a GPU")
def test_no_gpu(built: CudaBuilt, tmp_path: Path) -> None:
    said = "compiled for sm_80; this machine has no CUDA device"
    with pytest.raises(BackendUnavailable, match=said):
        CudaSession(built)
    path = tmp_path / "m.tvm"
    save_cuda(built, path)
    assert path.with_suffix(".cu").read_text() == built.source
    assert (tmp_path / "m.sm_80.cubin").is_file() is (find_nvcc() is not None)
    with pytest.raises(BackendUnavailable, match=said):
        load_cuda(path)
    path.write_text("{}")
    with pytest.raises(InvalidModel, match="is damaged"):
        load_cuda(path)


@pytest.mark.skipif(
    device_arch() is None, reason="this machine has no CUDA device that TVM can use"
)
def test_on_a_gpu(tmp_path: Path) -> None:
    graph, module, inputs = prepared("block")
    arch = str(device_arch())
    save_cuda(build_cuda(graph, arch), tmp_path / "m.tvm")
    session = CudaSession(load_cuda(tmp_path / "m.tvm"))
    with torch.no_grad():
        want = module(*inputs)
    (on_host,) = session.run_tensors(inputs)
    torch.testing.assert_close(on_host, want, rtol=1e-4, atol=1e-5)
    if torch.cuda.is_available():
        (on_device,) = session.run_tensors([t.cuda() for t in inputs])
        torch.testing.assert_close(on_device.cpu(), on_host, rtol=0, atol=0)


def graph_of(module: torch.nn.Module, *inputs: torch.Tensor) -> Any:
    return fx.lift(torch.export.export(module.eval(), inputs))
