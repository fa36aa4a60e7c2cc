"""`passel.quantize` and quantized files: schemes, opsets, notes, and `evaluate=` everywhere."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import nn

import passel
from passel.errors import InvalidInput
from passel.passes import Quantize
from passel.passes.quantization.schemes import SCHEMES

WIDTH = 128
X = torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(0))


class Mlp(nn.Module):
    def __init__(self, hidden=192):
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down = nn.Linear(WIDTH, hidden), nn.Linear(hidden, WIDTH)

    def forward(self, x):
        return self.down(torch.relu(self.up(x)))


MODEL = Mlp().eval()
LEAST = {
    **dict.fromkeys(("int8", "int8-dynamic", "int8-per-token", "int8-mixed", "w8"), 33.0),
    **{"w4": 18.0, "w4a8": 18.0, "fp8": 22.0, "fp8-e5m2": 16.0, "w4-fp": 12.0},
    **{"w2": 4.0, "ternary": 4.0, "binary": 2.0, "partial-binary": 3.0},
}
"""SNR in dB that normal weights keep at least, about 3 dB below what is measured."""


def expected():
    with torch.no_grad():
        return MODEL(X).numpy()


def snr(got, wanted):
    return 10 * np.log10((wanted**2).sum() / max(((got - wanted) ** 2).sum(), 1e-30))


@pytest.fixture(scope="module")
def float_file(tmp_path_factory):
    """The model as ONNX."""
    path = tmp_path_factory.mktemp("float") / "m.onnx"
    passel.export_onnx(MODEL, X, path, passes="none", opset=20)
    return path


@pytest.mark.parametrize("portable", [True, False])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_is_written_and_runs_without_passel(tmp_path, float_file, scheme, portable):
    path = tmp_path / "q.onnx"
    report = passel.quantize(float_file, X, path, scheme=scheme, portable=portable)
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    domains = {entry.domain for entry in proto.opset_import}
    assert domains <= {"", "ai.onnx"} or not portable
    feed = {proto.graph.input[0].name: X.numpy()}
    (got,) = ort.InferenceSession(path).run(None, feed)
    assert snr(got, expected()) > LEAST[scheme]
    assert abs(snr(got, expected()) - report.errors[0].snr_db) < 3
    assert report.errors[0].cosine == pytest.approx(
        np.vdot(got, expected()) / np.linalg.norm(got) / np.linalg.norm(expected()), abs=1e-2
    )
    if portable:  # the runtime may round activations too, the standard's own evaluator does not
        (plain,) = ReferenceEvaluator(proto).run(None, feed)
        assert snr(got, plain) > max(30.0, LEAST[scheme])


def test_a_relu_before_8_bit_floats_stays(tmp_path, float_file):
    """ONNX Runtime drops it where a zero point is written out."""
    passel.quantize(float_file, X, tmp_path / "q.onnx", scheme="fp8")
    proto = onnx.load(tmp_path / "q.onnx")
    quantizers = [node for node in proto.graph.node if node.op_type == "QuantizeLinear"]
    assert [len(node.input) for node in quantizers] == [2, 2]


@pytest.mark.parametrize(("scheme", "opset"), [("w2", 25), ("ternary", 25), ("w4", 23)])
def test_formats_raise_the_opset(tmp_path, float_file, scheme, opset):
    for k, model in enumerate((MODEL, float_file)):
        path = tmp_path / f"{k}.onnx"
        passel.quantize(model, X, path, scheme=scheme)
        assert onnx.load(path).opset_import[0].version == opset


@pytest.mark.parametrize(("scheme", "least"), [("w2", 25), ("w4", 21), ("binary", 21), ("fp8", 19)])
def test_an_opset_that_is_too_old_is_refused(tmp_path, scheme, least):
    assert Quantize(scheme=scheme).opset == least
    message = f"opset: expected at least {least} for scheme '{scheme}', got {least - 1}"
    with pytest.raises(InvalidInput, match=message):
        passel.quantize(MODEL, X, tmp_path / "q.onnx", scheme=scheme, opset=least - 1)
    assert list(tmp_path.iterdir()) == []


def test_what_the_runtime_would_misread_is_stored_in_float(tmp_path):
    """2-bit codes of a number of columns that is no multiple of 4."""
    model = Mlp(hidden=190).eval()
    report = passel.quantize(model, X, tmp_path / "q.onnx", scheme="w2")
    assert any("weights stored in float after all: 1" in note for note in report.notes)
    proto = onnx.load(tmp_path / "q.onnx")
    feed = {proto.graph.input[0].name: X.numpy()}
    (got,) = ort.InferenceSession(tmp_path / "q.onnx").run(None, feed)
    (plain,) = ReferenceEvaluator(proto).run(None, feed)
    assert snr(got, plain) > 30
    assert not any("in float" in note for note in report_of_even(tmp_path).notes)


def report_of_even(folder):
    return passel.quantize(MODEL, X, folder / "even.onnx", scheme="w2")


def test_parameters_of_the_pass_reach_it(tmp_path):
    data = [torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(k)) for k in range(3)]
    report = passel.quantize(
        MODEL,
        X,
        tmp_path / "q.onnx",
        scheme="int8",
        calibration=data,
        nodes_to_exclude=["up"],
        per_channel=False,
        passes="none",
    )
    (layer,) = report.layers
    assert layer.form == "uint8 static × int8 per tensor"
    (entry,) = [entry for entry in report.passes if entry.name == "quantize"]
    assert entry.reasons == {"named in nodes_to_exclude": 1}
    assert not any("example inputs only" in note for note in report.notes)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"schema": "int8"}, "quantize: expected parameters of scheme, .*; got 'schema'"),
        ({"scheme": "int5"}, "quantize: expected scheme in int8"),
        ({"block_size": 32, "group_size": 64}, "quantize: expected one of block_size and group"),
    ],
)
def test_bad_parameters(tmp_path, given, message):
    with pytest.raises(InvalidInput, match=message):
        passel.quantize(MODEL, X, tmp_path / "q.onnx", **given)


# -- evaluate= -------------------------------------------------------------------------------------


def loss(model):
    """Mean distance from the float outputs on data of its own, called like the original."""
    x = torch.randn(3, 5, WIDTH, generator=torch.Generator().manual_seed(9))[:2]
    got = model(x)
    assert isinstance(got, torch.Tensor)
    with torch.no_grad():
        return {"distance": (got - MODEL(x)).abs().mean(), "size": got.numel()}


PASSES = ["default", Quantize(scheme="w4")]
CALLS = {
    "compile": lambda path: (
        passel.compile(MODEL, X, passes=PASSES, evaluate=loss, measure=False).report
    ),
    "optimize": lambda path: passel.optimize(MODEL, X, passes=PASSES, evaluate=loss).report,
    "export_onnx": lambda path: passel.export_onnx(MODEL, X, path, passes=PASSES, evaluate=loss),
    "quantize": lambda path: passel.quantize(MODEL, X, path, scheme="w4", evaluate=loss),
}


@pytest.mark.parametrize("name", CALLS)
def test_evaluate_sees_the_original_and_the_result(tmp_path, name):
    report = CALLS[name](tmp_path / "q.onnx")
    before, after = report.evaluation["before"], report.evaluation["after"]
    assert before == {"distance": 0.0, "size": 2 * 5 * WIDTH}
    assert after["size"] == before["size"]
    assert 0.001 < after["distance"] < 0.2
    assert "evaluation" in str(report)
    assert report.stages["evaluate"] > 0


def test_evaluate_of_an_onnx_model_in_numpy(tmp_path, float_file):
    def first(model):
        got = model(X.numpy())
        assert isinstance(got, np.ndarray)
        return float(got[0, 0, 0])

    report = passel.quantize(float_file, None, tmp_path / "q.onnx", evaluate=first)
    assert report.evaluation["before"]["value"] == pytest.approx(float(expected()[0, 0, 0]))
    assert report.evaluation["after"]["value"] == pytest.approx(float(expected()[0, 0, 0]), abs=0.1)


@pytest.mark.parametrize("wrong", ["good", None, [1.0], {"a": "b"}])
def test_evaluate_has_to_return_numbers(wrong):
    with pytest.raises(InvalidInput, match="evaluate: expected it to return a number or a dict"):
        passel.optimize(MODEL, X, evaluate=lambda model: wrong)


def test_no_evaluation_without_being_asked():
    assert passel.optimize(MODEL, X).report.evaluation == {}
