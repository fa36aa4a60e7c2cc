"""`export_onnx`: the file is what was asked for, or is not there."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import passel
from passel.errors import InvalidInput, VerificationError
from tests.api import Spoil, example, files, net

X = example()


class Residual(nn.Module):
    """Pre-norm blocks: what ONNX Runtime has operators of its own for."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(8) for _ in range(3))
        self.linears = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.linears[0](x)
        for norm, linear in zip(self.norms, self.linears, strict=True):
            x = x + linear(norm(x))
        return self.linears[0](self.norms[0](x))


@pytest.fixture(scope="module")
def residual() -> torch.export.ExportedProgram:
    shapes = {"x": {0: torch.export.Dim("batch")}}
    return torch.export.export(Residual().eval(), (X,), dynamic_shapes=shapes)


def run(path: Path, x: Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    return result


def operators(path: Path) -> set[tuple[str, str]]:
    return {(node.domain, node.op_type) for node in onnx.load(str(path)).graph.node}


@pytest.mark.parametrize("portable", [True, False])
def test_operators_of_the_standard_or_of_onnx_runtime(residual, tmp_path, portable):
    path = tmp_path / "m.onnx"
    report = passel.export_onnx(residual, X, path, portable=portable)
    found = operators(path)
    own = {name for domain, name in found if domain or name == "SimplifiedLayerNormalization"}
    if portable:
        onnx.checker.check_model(str(path), full_check=True)
        assert own == set()
        assert ("", "RMSNormalization") in found
    else:
        assert own == {"SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization"}
    for x in (X, example(7)):
        assert np.allclose(run(path, x), residual.module()(x).detach(), atol=1e-4)
    assert report.verified.endswith(f"worst relative error {report.errors[0].relative:.2e}")


def test_dynamic_axes_have_the_users_names(tmp_path):
    passel.export_onnx(net(), example(1), tmp_path / "m.onnx", dynamic_shapes={"x": {0: "batch"}})
    graph = onnx.load(str(tmp_path / "m.onnx")).graph
    for value in (*graph.input, *graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch"


@pytest.mark.parametrize("opset", [17, 18, 20, 22, 23, 24])
def test_the_opset_asked_for(residual, tmp_path, opset):
    passel.export_onnx(residual, X, tmp_path / "m.onnx", opset=opset)
    assert onnx.load(str(tmp_path / "m.onnx")).opset_import[0].version == opset
    assert np.allclose(run(tmp_path / "m.onnx", X), residual.module()(X).detach(), atol=1e-4)


@pytest.mark.parametrize(
    ("opset", "message"),
    [
        (12, "opset: expected 13 to 28, got 12"),
        (99, "opset: expected 13 to 28, got 99"),
        ("23", "opset: expected 13 to 28, got '23'"),
        (13, r"opset: got 18 instead of the 13 asked for: torch\.onnx goes no further"),
    ],
)
def test_opsets_that_cannot_be_had(residual, tmp_path, opset, message):
    with pytest.raises(InvalidInput, match=message):
        passel.export_onnx(residual, X, tmp_path / "m.onnx", opset=opset)
    assert files(tmp_path) == {}


def test_onnx_to_onnx(residual, tmp_path):
    source = tmp_path / "source.onnx"
    passel.export_onnx(residual, X, source, opset=20, passes="none")
    for opset, expected in ((None, 23), (20, 20), (22, 22)):
        passel.export_onnx(source, X, tmp_path / "result.onnx", opset=opset)
        assert onnx.load(str(tmp_path / "result.onnx")).opset_import[0].version == expected
        assert np.allclose(run(tmp_path / "result.onnx", X), run(source, X), atol=1e-4)
    with pytest.raises(InvalidInput, match=r"got 20 instead of the 18 asked .* only be raised"):
        passel.export_onnx(source, None, tmp_path / "result.onnx", opset=18)


def test_over_the_file_that_is_read(residual, tmp_path):
    path = tmp_path / "m.onnx"
    passel.export_onnx(residual, X, path, passes="none", external_data=True)
    expected = run(path, X)
    passel.export_onnx(path, None, path, external_data=True)
    assert files(tmp_path).keys() == {"m.onnx", "m.onnx.data"}
    assert np.allclose(run(path, X), expected, atol=1e-4)


def test_weights_in_a_file_of_their_own(residual, tmp_path):
    passel.export_onnx(residual, X, str(tmp_path / "m.onnx"), external_data=True)
    assert files(tmp_path).keys() == {"m.onnx", "m.onnx.data"}


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"passes": [Spoil()]}, VerificationError),
        ({"progress": interrupted}, KeyboardInterrupt),
        ({"exclude": ["nothing like it"]}, InvalidInput),
    ],
)
def test_a_failure_leaves_everything_as_it_was(tmp_path, options, error, old):
    if old:
        (tmp_path / "m.onnx").write_bytes(b"old")
        (tmp_path / "m.onnx.data").write_bytes(b"old")
    before = files(tmp_path)
    with pytest.raises(error):
        passel.export_onnx(net(), X, tmp_path / "m.onnx", **options)
    assert files(tmp_path) == before


@pytest.mark.parametrize("step", ["passel.graph.onnx_write._put", "os.replace"])
def test_ctrl_c_while_writing(residual, tmp_path, monkeypatch, step):
    (tmp_path / "m.onnx").write_bytes(b"old")
    calls: list[Callable[[], object]] = []
    monkeypatch.setattr(step, interrupted)
    monkeypatch.setattr("passel.graph.onnx_write.SMALL_BYTES", 0)
    calls.append(lambda: passel.export_onnx(residual, X, tmp_path / "m.onnx", external_data=True))
    calls.append(lambda: passel.export_onnx(residual, X, tmp_path / "m.onnx", verify=False))
    for call in calls:
        with pytest.raises(KeyboardInterrupt):
            call()
    assert files(tmp_path) == {"m.onnx": b"old"}


def test_bfloat16_weights_stay_bfloat16(tmp_path):
    """The exporter's own optimizer makes them float32 where it folds a batch norm into a conv."""
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)).eval().bfloat16()
    x = torch.randn(1, 2, 6, 6).bfloat16()
    passel.export_onnx(model, x, tmp_path / "m.onnx")
    onnx.checker.check_model(str(tmp_path / "m.onnx"), full_check=True)
    assert operators(tmp_path / "m.onnx") == {("", "Conv")}
