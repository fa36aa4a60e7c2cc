"""Quantized programs are programs: they are saved, compiled, written and run like others."""

import io

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import passel
from passel.errors import ExportError, InvalidInput
from passel.graph.fx_tensor import to_numpy
from passel.passes import Quantize
from tests.conftest import relative_error
from tests.passes.test_quantize import DATA, Net, X, arrays, seeded

SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("w2", "ternary", "fp8")]
SCHEMES = ["int8-dynamic", "int8-per-token", "int8", "w4", *SLOW]
BOUNDS = {
    **dict.fromkeys(("int8-dynamic", "int8-per-token", "int8"), 0.03),
    **{"w4": 0.3, "w2": 1.0, "ternary": 1.0, "fp8": 0.2},
}


def asked(scheme, **more):
    calibration = arrays(DATA) if scheme in ("int8", "fp8") else None
    given = {"placement": "all", "calibration": calibration, **more}
    return ["default", Quantize(scheme, **given)]


def distance(expected, found):
    return relative_error([to_numpy(expected)], [to_numpy(found)])


@pytest.fixture(scope="module")
def model():
    return seeded(Net())


@pytest.fixture(scope="module")
def onnx_file(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "plain.onnx"
    passel.export_onnx(model, (X,), path, passes="none", opset=18)
    return path


@pytest.mark.parametrize("scheme", SCHEMES)
def test_compiled_is_near_and_the_same_every_time(model, scheme):
    with torch.no_grad():
        expected = model(X)
    first = passel.compile(model, (X,), passes=asked(scheme), measure=False)
    again = passel.compile(model, (X,), passes=asked(scheme), measure=False)
    assert first.report.chosen["form"] == "matrices"
    assert 1e-4 < distance(expected, first(X)) < BOUNDS[scheme]
    assert torch.equal(first(X), again(X))


@pytest.mark.parametrize("scheme", ["int8-dynamic", "int8", "w4"])
def test_an_optimized_program_is_saved_and_compiled(model, scheme):
    program = passel.optimize(model, (X,), passes=asked(scheme)).program
    expected = program.module()(X)
    held = io.BytesIO()
    torch.export.save(program, held)
    held.seek(0)
    assert torch.equal(torch.export.load(held).module()(X), expected)
    compiled = torch.compile(program.module(), backend="eager")
    assert distance(expected, compiled(X)) < 1e-6


def test_a_quantized_program_is_compiled(model):
    """Through torch.onnx, which knows static Q/DQ."""
    program = passel.optimize(model, (X,), passes=asked("int8")).program
    compiled = passel.compile(program, (X,), measure=False, rtol=0.05)
    assert distance(program.module()(X), compiled(X)) < 0.02
    again = passel.compile(program, (X,), passes=asked("int8"), measure=False, rtol=0.05)
    assert again.report.passes[-1].reasons == {"the model is quantized already": 1}


@pytest.mark.parametrize("scheme", ["int8-dynamic", "w4"])
def test_what_torch_cannot_translate_runs_on_torch(model, scheme):
    program = passel.optimize(model, (X,), passes=asked(scheme)).program
    with pytest.raises(ExportError, match="quantized_decomposed"):
        passel.compile(program, (X,), backend="onnxruntime", measure=False)
    found = passel.compile(program, (X,), measure=False)
    assert any("runs on torch instead" in note for note in found.report.notes)
    assert distance(program.module()(X), found(X)) < 1e-5


@pytest.mark.parametrize("scheme", SCHEMES)
def test_files_are_standard_and_run(model, scheme, tmp_path):
    path = tmp_path / "q.onnx"
    passel.export_onnx(model, (X,), path, passes=asked(scheme))
    onnx.checker.check_model(str(path), full_check=True)
    assert {node.domain for node in onnx.load(path).graph.node} <= {""}
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: to_numpy(X)})
    with torch.no_grad():
        assert relative_error([to_numpy(model(X))], [found]) < BOUNDS[scheme]


@pytest.mark.parametrize(("scheme", "opset"), [("int8", 18), ("w4", 21), ("w2", 25)])
def test_an_old_onnx_model_is_raised_as_far_as_needed(model, onnx_file, scheme, opset):
    found = passel.optimize(onnx_file, passes=asked(scheme)).program
    assert found.opset_imports[""] == opset


def test_an_opset_that_is_too_old_is_refused(model, tmp_path):
    with pytest.raises(InvalidInput, match="opset: expected at least 25 for scheme 'w2', got 21"):
        passel.export_onnx(model, (X,), tmp_path / "q.onnx", passes=asked("w2"), opset=21)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("source", ["torch", "onnx"])
def test_quantize_alone_finds_the_products(model, onnx_file, source):
    """Without the default passes, which make products out of ONNX's matmuls."""
    given = (model, (X,)) if source == "torch" else (onnx_file,)
    compiled = passel.compile(*given, passes=[Quantize(placement="all")], measure=False)
    assert len(compiled.report.passes[-1].applied) == 6


@pytest.mark.slow
def test_measured_forms(model):
    """Whatever turned out faster here, the model is right and the report says which is."""
    compiled = passel.compile(model, (X,), passes=asked("int8-mixed", placement="auto"))
    assert set(compiled.report.chosen["quantized against float (median ms)"]) == {
        "float",
        "quantized",
    }
    with torch.no_grad():
        assert distance(model(X), compiled(X)) < 0.05


@pytest.mark.slow
def test_dynamic_batch():
    shapes = {"x": {0: "batch"}}
    compiled = passel.compile(
        seeded(Net()), (X,), passes=asked("int8"), dynamic_shapes=shapes, measure=False
    )
    x = torch.cat([X, X + 0.1, X * 0.5])
    with torch.no_grad():
        assert distance(seeded(Net())(x), compiled(x)) < 0.03


def test_a_convolution_is_one_of_integers():
    from tests.passes.test_quantize_convs import Block

    torch.manual_seed(0)
    model, x = seeded(Block()), torch.randn(1, 16, 8, 8)
    data = [[np.random.default_rng(k).standard_normal((1, 16, 8, 8), np.float32)] for k in (0, 1)]
    passes = ["default", Quantize("int8", placement="all", calibration=data)]
    compiled = passel.compile(model, (x,), passes=passes, measure=False)
    with torch.no_grad():
        assert distance(model(x), compiled(x)) < 0.1
    assert isinstance(model, nn.Module)
