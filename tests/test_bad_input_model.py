"""Models that cannot be worked with: which part it is, what to do; nothing is left behind."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from torch import Tensor, nn

import passel
from passel.errors import ExportError, InvalidInput, InvalidModel, PasselError
from tests.api import example, files, net, onnx_model, quickly

X = example()
Call = Callable[..., Any]


@pytest.fixture(params=["compile", "optimize", "export_onnx"])
def call(request: pytest.FixtureRequest, tmp_path: Path) -> Call:
    """Each public function on a model and inputs; what they leave in the folder is checked."""

    def run(model: Any, inputs: Any = None) -> Any:
        if request.param == "compile":
            return quickly(model, inputs)
        if request.param == "optimize":
            return passel.optimize(model, inputs)
        return passel.export_onnx(model, inputs, tmp_path / "result.onnx")

    return run


def refused(call: Call, folder: Path, kind: type[PasselError], message: str, *given: Any) -> None:
    """The call raises that error, and leaves the folder as it was."""
    before = files(folder)
    with pytest.raises(kind, match=message) as caught:
        call(*given)
    assert type(caught.value) is kind
    assert files(folder) == before


def test_training_mode(call, tmp_path):
    message = r"Net is in training mode \(first at {}\): call model\.eval\(\) first"
    refused(call, tmp_path, InvalidModel, message.format("'Net'"), net().train(), X)
    model = net()
    model.norm.train()
    refused(call, tmp_path, InvalidModel, message.format("'norm'"), model, X)


def test_control_flow_on_values(call, tmp_path):
    class Branch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    message = (
        r"(?s)torch\.export cannot capture Branch: GuardOnDataDep.*test_bad_input_model\.py:\d+: "
        r"return x if x\.sum\(\) > 0.*use torch\.cond or torch\.where"
    )
    refused(call, tmp_path, ExportError, message, Branch().eval(), X)


@pytest.mark.parametrize("name", ["last.weight", "first.bias"])
def test_nan_parameters(call, tmp_path, name):
    model = net()
    model.get_parameter(name).data.view(-1)[0] = float("nan")
    message = f"Net: '{name}' holds NaN: repair the checkpoint"
    refused(call, tmp_path, InvalidModel, message, model, X)


def test_nan_buffers_also_in_a_program(call, tmp_path):
    model = nn.Sequential(nn.BatchNorm1d(8)).eval()
    program = torch.export.export(model, (X,))
    model[0].running_var[3] = float("nan")
    message = "{}: '0.running_var' holds NaN"
    refused(call, tmp_path, InvalidModel, message.format("Sequential"), model, X)
    refused(call, tmp_path, InvalidModel, message.format("ExportedProgram"), program, X)


def product(weight: np.ndarray, **more: Any) -> onnx.ModelProto:
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    return onnx_model([node], {"x": ["n", 8]}, {"y": ["n", 8]}, {"w": weight}, **more)


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
def test_nan_initializers(call, tmp_path, dtype):
    model = product(np.full((8, 8), np.nan, dtype))
    refused(call, tmp_path, InvalidModel, "tiny: initializer 'w' holds NaN: repair", model)


def test_nan_in_external_data(call, tmp_path):
    weight = np.zeros((300, 8), np.float32)
    weight[-1, -1] = np.nan
    onnx.save(product(weight), tmp_path / "m.onnx", save_as_external_data=True)
    refused(call, tmp_path, InvalidModel, "initializer 'w' holds NaN", tmp_path / "m.onnx")


def test_infinity_is_no_error(call):
    """Masks hold it."""
    node = helper.make_node("Max", ["x", "w"], ["y"])
    low = np.full((8,), -np.inf, np.float32)
    assert call(onnx_model([node], {"x": ["n", 8]}, {"y": ["n", 8]}, {"w": low}))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lambda whole: whole[: len(whole) // 2], "truncated"),
        (lambda _: b"", "expected an ONNX model, got an empty file"),
        (lambda _: b"PK\x03\x04more", r"a zip archive \(perhaps a PyTorch checkpoint\)"),
        (lambda _: b"hello there", "not an ONNX model, or one that is truncated"),
    ],
)
def test_files_that_are_not_onnx(call, tmp_path, data, message):
    whole = product(np.eye(8, dtype=np.float32)).SerializeToString()
    path = tmp_path / "m.onnx"
    path.write_bytes(data(whole))
    refused(call, tmp_path, InvalidModel, rf"m\.onnx': .*{message}", path)


def test_files_that_are_not_there(call, tmp_path):
    refused(call, tmp_path, InvalidInput, r"no such file: '.*m\.onnx'", tmp_path / "m.onnx")
    refused(call, tmp_path, InvalidInput, "expected an ONNX file, got the folder", tmp_path)


def test_missing_external_data(call, tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save(product(np.ones((300, 8), np.float32)), path, save_as_external_data=True)
    (data,) = (file for file in tmp_path.iterdir() if file != path)
    data.unlink()
    message = rf"m\.onnx': initializer 'w' is in the external data .*{data.name}', which is missing"
    refused(call, tmp_path, InvalidModel, message, path)


def test_an_opset_too_old(call, tmp_path):
    model = product(np.eye(8, dtype=np.float32), opset=12)
    refused(call, tmp_path, InvalidModel, "this model uses opset 12; opsets 13 to 28", model)


def test_what_is_no_model(call, tmp_path):
    message = r"model: expected a torch\.nn\.Module, .*, got {}"
    refused(call, tmp_path, InvalidInput, message.format("int"), 3)
    refused(call, tmp_path, InvalidInput, message.format("function"), lambda x: x)


def test_state_between_calls(call, tmp_path):
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(3, 8))

        def forward(self, x: Tensor) -> Tensor:
            self.seen[:, :4].add_(x[:, :4])
            return self.seen * 2

    model = Counter().eval()
    message = (
        "Counter writes to its buffer 'seen' when it is called: pass such state in as an input"
    )
    refused(call, tmp_path, InvalidModel, message, model, X)


def test_outputs_that_are_dynamic_numbers():
    class Size(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, int]:
            return x * 2, x.shape[0]

    assert quickly(Size().eval(), X)(X)[1] == 3
    with pytest.raises(ExportError, match="an integer that follows from dynamic shapes: make it"):
        quickly(Size().eval(), X, dynamic_shapes={"x": {0: "batch"}})


def test_an_operator_that_onnx_lacks():
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.special.bessel_j0(x)

    message = r"torch\.onnx cannot translate the model: .*bessel_j0"
    with pytest.raises(ExportError, match=message) as caught:
        quickly(Odd().eval(), X)
    assert "\x1b" not in str(caught.value)
    assert torch.allclose(quickly(Odd().eval(), X, backend="torch")(X), Odd()(X))


def test_errors_are_one_family():
    for name in dir(passel.errors):
        kind = getattr(passel.errors, name)
        if isinstance(kind, type):
            assert issubclass(kind, PasselError)
    assert issubclass(InvalidInput, ValueError)
