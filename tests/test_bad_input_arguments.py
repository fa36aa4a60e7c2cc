"""Arguments that are wrong: which one, what was expected, what was given; before any work."""

from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch

import passel
from passel.errors import BackendUnavailable, InvalidInput
from tests.api import example, files, net, quickly

X = example()


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (None, "example_inputs: expected inputs to trace Net with, got None"),
        (torch.ones(3, 9), r"example_inputs: Net does not run on them: .*\(3x9 and 8x8\)"),
        (X.double(), "example_inputs: Net does not run on them: .*same dtype, but got Double"),
        ((X, X), "example_inputs: Net does not run on them: .*takes 2 positional arguments but 3"),
        ({"y": X}, "example_inputs: Net does not run on them: .*unexpected keyword argument 'y'"),
        ({}, "example_inputs: Net does not run on them: .*missing 1 required positional"),
        ("text", "example_inputs: Net does not run on them"),
    ],
)
def test_example_inputs_of_a_module(inputs, message, capfd):
    for function in (quickly, passel.optimize):
        with pytest.raises(InvalidInput, match=message):
            function(net(), inputs)
    assert "Traceback" not in capfd.readouterr().err


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "net.onnx"
    passel.export_onnx(net(), X, path, dynamic_shapes={"x": {0: "batch"}})
    return path


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (torch.ones(3, 9), r"input 'x': expected shape \(batch, 8\), got \(3, 9\)"),
        (torch.ones(8), r"input 'x': expected shape \(batch, 8\), got \(8,\)"),
        (X.double(), "input 'x': expected float32, got float64"),
        ((X, X), "expected inputs x; got 2 positional"),
        ({"y": X}, "expected inputs x; got y"),
        ((), "expected inputs x; got nothing"),
        ("text", "input 'x': expected a tensor or an array, got str"),
    ],
)
def test_example_inputs_of_an_onnx_file(file, inputs, message):
    for function in (quickly, passel.optimize):
        with pytest.raises(InvalidInput, match=message):
            function(file, inputs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "tpu"}, "target: expected one of cpu, cuda, got 'tpu'"),
        ({"backend": "tflite"}, "expected one of auto, onnxruntime, tvm, torch, got 'tflite'"),
        (
            {"backend": "torch", "target": "cuda"},
            "target: expected 'cpu' for backend 'torch', got 'cuda'",
        ),
        (
            {"passes": ["recentre"]},
            "passes: expected one of default, none, .*, got 'recentre'",
        ),
        ({"passes": "compress(form='x')"}, r"cannot read .*: compress: expected form in .*got 'x'"),
        ({"passes": "compress(shape=1)"}, "cannot read .*unexpected keyword argument 'shape'"),
        ({"passes": "compress(form='paper'"}, "passes: cannot read .*never closed"),
        ({"passes": "compress('paper')"}, "cannot read .*: expected keyword parameters only"),
        ({"passes": [3]}, "passes: expected names, specs or pass objects, got int"),
        ({"passes": None}, "passes: expected names, specs or pass objects, got NoneType"),
        ({"exclude": "blocks"}, "exclude: 'blocks' matches no op name, op kind or module path"),
        ({"exclude": ["re:("]}, r"exclude: 're:\(' is no regular expression: missing \)"),
        (
            {"exclude": {"compress": ["x"]}},
            r"exclude: expected passes of this run .*'compress'",
        ),
        ({"rtol": float("nan")}, "rtol: expected a number that is not negative, got nan"),
        ({"threads": -1}, "threads: expected 0 or more, got -1"),
    ],
)
def test_options(file, options, message):
    with pytest.raises(InvalidInput, match=message):
        quickly(file, **options)


def test_cuda_that_is_not_installed(file):
    with pytest.raises(
        BackendUnavailable,
        match="target 'cuda' needs ONNX Runtime's CUDAExecutionProvider, which this build lacks: "
        "pip install onnxruntime-gpu in place of onnxruntime, or use target='cpu'",
    ):
        quickly(file, target="cuda")


def test_cuda_that_is_installed_and_does_not_start(file, monkeypatch):
    monkeypatch.setattr(
        onnxruntime,
        "get_available_providers",
        lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"],
    )
    with (
        pytest.warns(UserWarning, match="CUDAExecutionProvider"),
        pytest.raises(BackendUnavailable, match="cannot start its CUDAExecutionProvider, though"),
    ):
        quickly(file, target="cuda")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("none/m.onnx", "cannot write '.*': there is no folder '.*none'"),
        ("file/m.onnx", "cannot write '.*': there is no folder '.*file'"),
        ("folder", "expected a file to write, got the folder '.*folder'"),
    ],
)
def test_paths_that_cannot_be_written(tmp_path, path, message):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    before = files(tmp_path)
    with pytest.raises(InvalidInput, match=message):
        passel.export_onnx("the model is not even looked at", None, tmp_path / path)
    assert files(tmp_path) == before


def interrupted(*_: Any) -> None:
    raise KeyboardInterrupt


def test_ctrl_c_goes_through(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    calls = (
        lambda: quickly(net(), X, progress=interrupted),
        lambda: passel.optimize(net(), X, progress=interrupted),
        lambda: passel.export_onnx(net(), X, "m.onnx", progress=interrupted),
    )
    for call in calls:
        with pytest.raises(KeyboardInterrupt):
            call()
    assert files(tmp_path) == {}
