"""Element types that ONNX Runtime has kernels for run there; for others torch steps in."""

import pytest
import torch
from torch import Tensor, nn

import passel
from passel.errors import InvalidInput, UnsupportedModel, VerificationError
from tests.api import close, example, net, quickly

X = example()
BOUNDS = {torch.float64: 1e-9, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 8e-2}


class Image(nn.Module):
    """A conv and an exact GELU: ONNX Runtime has neither in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.gelu(self.norm(self.conv(x))).mean((2, 3))


IMAGE = torch.randn(2, 2, 6, 6)


def test_torch_runs_what_the_conversion_to_onnx_gets_wrong():
    """As torch.onnx gives an RMS norm in float64 the epsilon of float32."""
    model, x = net().double(), X.double()
    compiled = quickly(model, x)
    note = "runs on torch instead of ONNX Runtime: output 'linear_1' is off by "
    assert compiled.report.notes[0].startswith(note)
    assert close(compiled(x), model(x), 1e-12)
    with pytest.raises(VerificationError, match="before any pass, in the conversion to ONNX"):
        quickly(model, x, backend="onnxruntime")


@pytest.mark.parametrize("dtype", BOUNDS)
def test_a_linear_model_in_every_type(dtype):
    model, x = net().to(dtype), X.to(dtype)
    assert close(quickly(model, x)(x), model(x), BOUNDS[dtype])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_torch_runs_what_onnx_runtime_has_no_kernel_for(dtype, tmp_path):
    model, x = Image().eval().to(dtype), IMAGE.to(dtype)
    compiled = quickly(model, x)
    assert compiled.report.chosen == {"backend": "torch"}
    assert "runs on torch instead of ONNX Runtime: " in compiled.report.notes[0]
    assert "Conv" in compiled.report.notes[0]
    assert compiled.report.after.ops.get("BatchNorm", 0) == 0
    assert close(compiled(x), model(x), BOUNDS[dtype])
    compiled.save(tmp_path / "saved")
    assert torch.equal(passel.load(tmp_path / "saved")(x), compiled(x))


def test_onnx_runtime_alone_says_what_it_lacks():
    with pytest.raises(UnsupportedModel, match=r"cannot load the model: .*implementation for Conv"):
        quickly(Image().eval().double(), IMAGE.double(), backend="onnxruntime")


def test_torch_as_the_backend_asked_for():
    model = net()
    compiled = quickly(model, X, backend="torch", dynamic_shapes={"x": {0: "batch"}})
    assert compiled.report.chosen == {"backend": "torch"}
    assert "on 3 input sets (examples, seed 1, seed 2) on the runtime" in compiled.report.verified
    for given in (X, example(7), example(1)):
        assert close(compiled(given), model(given))
    assert close(torch.from_numpy(compiled(X.numpy())), model(X))
    assert not compiled(X.requires_grad_()).requires_grad
    with pytest.raises(InvalidInput, match="onnx: expected a model on ONNX Runtime; this one runs"):
        _ = compiled.onnx
    with pytest.raises(InvalidInput, match=r"input 'x': expected shape \(s\d+, 8\), got \(3, 9\)"):
        compiled(torch.ones(3, 9))
    with pytest.raises(InvalidInput, match="input 'x': expected float32, got float64"):
        compiled(X.double())


def test_torch_takes_inputs_that_are_no_tensors_from_the_example():
    class Scaled(nn.Module):
        def forward(self, x: Tensor, scale: float, *, shift: Tensor) -> dict[str, Tensor]:
            return {"y": x * scale + shift}

    model, inputs = Scaled().eval(), {"x": X, "scale": 2.0, "shift": X}
    found = quickly(model, inputs, backend="torch")(X, 2.0, shift=X + 1)
    assert close(found["y"], model(X, 2.0, shift=X + 1)["y"])
