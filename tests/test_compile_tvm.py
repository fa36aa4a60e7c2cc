"""compile(backend="tvm"): both kinds of model, open sizes, saving, and what it refuses."""

import importlib.metadata
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import passel
from passel.backends import hardware
from passel.backends.tvm import available
from passel.errors import BackendUnavailable, InvalidInput, UnsupportedModel
from passel.models import DIGITS, VIT_S16, MoDViT, Routing, ViT, randomize, vit_inputs

SMALL = replace(VIT_S16, image_size=32, patch_size=8, dim=48, depth=2, heads=3, classes=10)


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.fixture(scope="module")
def vit() -> nn.Module:
    torch.manual_seed(0)
    return randomize(ViT(SMALL)).eval()


@torch.no_grad()
def test_a_vit_runs_on_tvm_and_is_loaded_again(vit: nn.Module, tmp_path: Path) -> None:
    inputs = vit_inputs(SMALL)
    compiled = passel.compile(vit, inputs, backend="tvm")
    assert compiled.report.chosen["backend"] == "tvm"
    assert compiled.report.verified
    assert relative(compiled(*inputs), vit(*inputs)) < 1e-5
    compiled.save(tmp_path / "saved")
    again = passel.load(tmp_path / "saved")
    assert torch.equal(again(*inputs), compiled(*inputs))
    with pytest.raises(InvalidInput, match="this one runs on TVM"):
        _ = compiled.onnx


@torch.no_grad()
def test_an_onnx_file_runs_on_tvm(vit: nn.Module, tmp_path: Path) -> None:
    inputs = vit_inputs(SMALL)
    passel.export_onnx(vit, inputs, tmp_path / "vit.onnx", passes="none")
    compiled = passel.compile(tmp_path / "vit.onnx", backend="tvm")
    assert relative(torch.as_tensor(compiled(*inputs)), vit(*inputs)) < 1e-5


@torch.no_grad()
def test_a_mixture_of_depths_runs_on_the_tokens_it_keeps() -> None:
    torch.manual_seed(0)
    model = randomize(MoDViT(SMALL, Routing(ratio=0.5, every=1))).eval()
    inputs = vit_inputs(SMALL)
    compiled = passel.compile(model, inputs, backend="tvm")
    assert compiled.report.after.flops < 0.8 * compiled.report.before.flops
    assert relative(compiled(*inputs), model(*inputs)) < 1e-5


@torch.no_grad()
def test_one_build_serves_every_size() -> None:
    model = nn.Sequential(nn.Linear(24, 40), nn.GELU(), nn.LayerNorm(40), nn.Linear(40, 7)).eval()
    shapes = {"input": {0: "batch"}}
    compiled = passel.compile(model, torch.randn(3, 24), backend="tvm", dynamic_shapes=shapes)
    for count in (1, 2, 17, 64, 65):
        x = torch.randn(count, 24)
        assert relative(compiled(x), model(x)) < 1e-5


@torch.no_grad()
def test_int8_products_run_as_integers() -> None:
    torch.manual_seed(0)
    model = randomize(ViT(DIGITS)).eval()
    inputs = vit_inputs(DIGITS)
    passes = ["default", "quantize(placement='all')"]
    compiled = passel.compile(model, inputs, backend="tvm", passes=passes)
    on_ort = passel.compile(model, inputs, backend="onnxruntime", passes=passes, measure=False)
    assert relative(compiled(*inputs), on_ort(*inputs)) < 2e-2
    assert any("integer" in rule for rule in compiled._model.rules.values())


def test_everything_that_has_no_lowering_is_named() -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.qr(x)[0] + torch.special.i0(x)

    with pytest.raises(UnsupportedModel, match=r"linalg_qr.*special_i0"):
        passel.compile(Odd().eval(), torch.randn(4, 4), backend="tvm", passes="none")


@pytest.mark.parametrize(
    ("versions", "message"),
    [
        ({}, r"needs Apache TVM.*pip install"),
        ({"apache-tvm": available.TVM, "apache-tvm-ffi": "0.1.15"}, r"apache-tvm-ffi.*<0\.1\.15"),
    ],
)
def test_what_to_install(versions: dict[str, str], message: str, monkeypatch: Any) -> None:
    def version(name: str) -> str:
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(hardware, "version", version)
    with pytest.raises(BackendUnavailable, match=message):
        passel.compile(nn.Linear(2, 2).eval(), torch.randn(1, 2), backend="tvm")


def test_code_for_a_gpu_that_is_elsewhere(tmp_path: Path) -> None:
    model, x = nn.Sequential(nn.Linear(8, 8), nn.ReLU()).eval(), torch.randn(2, 8)
    target = passel.Target("cuda", arch="sm_90")
    compiled = passel.compile(model, x, backend="tvm", target=target)
    compiled.save(tmp_path / "saved")
    assert "__global__" in (tmp_path / "saved" / "model.cu").read_text()
    if not torch.cuda.is_available():
        assert "no CUDA device" in compiled.report.verified
        with pytest.raises(BackendUnavailable, match="compiled for sm_90"):
            compiled(x)
        with pytest.raises(BackendUnavailable, match="no NVIDIA GPU"):
            passel.compile(model, x, backend="tvm", target="cuda")
