"""quantize: what it leaves alone and why, and what it does not take for an argument."""

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from passel.errors import InvalidInput
from passel.graph import onnx as onnx_view
from passel.graph.onnx_io import read
from passel.passes import Canonicalize, FoldConstants, Quantize
from passel.passes.driver import run_pass, run_passes
from tests.conftest import View
from tests.passes.test_quantize import arrays, samples, seeded


def refusals(view, model, inputs, *, dtype=None, **asked):
    """Reasons by count, and details; the graph is unchanged where all of it is refused."""
    graph, run = view.lift(model, inputs, opset=23)
    run_passes(graph, [FoldConstants(), Canonicalize()])
    before = run()
    report = run_pass(graph, Quantize(**asked))
    if not report.applied:
        assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(before, run(), strict=True))
    return report.reasons, [str(refusal) for _, refusal in report.refused]


X = samples(4, 256)[0][0]


def linear(inputs: int = 256, outputs: int = 64) -> nn.Module:
    return seeded(nn.Linear(inputs, outputs))


def test_computed_weight(view):
    class Computed(nn.Module):
        def forward(self, x: Tensor, weight: Tensor) -> Tensor:
            return nn.functional.linear(x, weight)

    weight = samples(64, 256)[0][0]
    reasons, _ = refusals(view, Computed(), (X, weight))
    assert len(reasons) == 1
    assert "at run time" in next(iter(reasons))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_types_that_no_kernel_takes(view, dtype):
    reasons, details = refusals(view, linear().to(dtype), (X.to(dtype),))
    assert reasons == {"the weight is neither float32 nor float16": 1}
    assert str(dtype).removeprefix("torch.") in details[0]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (float("nan"), "the weight holds NaN or infinity"),
        (float("inf"), "the weight holds NaN or infinity"),
    ],
)
def test_a_weight_that_is_not_finite(view, value, reason):
    model = linear()
    with torch.no_grad():
        model.weight[3, 5] = value
    assert refusals(view, model, (X,))[0] == {reason: 1}


def test_a_weight_of_zeros(view):
    model = linear()
    with torch.no_grad():
        model.weight.zero_()
    assert refusals(view, model, (X,))[0] == {"the weight is zero throughout": 1}


def test_too_small(view):
    reasons, details = refusals(view, linear(256, 8), (X,))
    assert reasons == {"the weight is too small to gain by it": 1}
    assert "2048 elements" in details[0]


def test_placed_in_float(view):
    graph, _ = view.lift(linear(), (X,), opset=23)
    run_passes(graph, [FoldConstants(), Canonicalize()])
    name = next(op.name for op in graph.ops if op.kind == "Linear")
    placement = ((name, "float"),)
    assert run_pass(graph, Quantize(placement=placement)).reasons == {"placed in float": 1}


def test_an_embedding_placed_in_float(view):
    model, ids = seeded(nn.Embedding(50, 32)), torch.tensor([3, 4])
    asked = {"op_types_to_quantize": "Embedding", "placement": (("Gather", "float"),)}
    assert refusals(view, model, (ids,), **asked)[0] == {"placed in float": 1}


def test_excluded(view):
    reasons, _ = refusals(view, linear(), (X,), nodes_to_exclude="Linear")
    assert reasons == {"named in nodes_to_exclude": 1}


def test_attention_stays_float(view):
    class Scores(nn.Module):
        def forward(self, q: Tensor, k: Tensor) -> Tensor:
            return q @ k.transpose(1, 2)

    q = samples(2, 128, 128)[0][0]
    reasons, _ = refusals(view, Scores(), (q, q))
    assert reasons == {"both operands are computed at run time (attention stays float)": 1}


@pytest.mark.parametrize(
    ("scheme", "channels", "groups", "reason"),
    [
        ("int8", 3, 1, "a convolution of few channels is faster in float"),
        ("int8-dynamic", 64, 1, "a dynamically quantized convolution is slower than a float one"),
        ("w4", 64, 1, "no kernel multiplies a convolution's weight in this format"),
    ],
)
def test_convolutions_by_scheme(view, scheme, channels, groups, reason):
    model = seeded(nn.Conv2d(channels, 640, 3, groups=groups))
    data = samples(1, channels, 4, 4)
    assert refusals(view, model, tuple(data[0]), scheme=scheme, calibration=arrays(data))[0] == {
        reason: 1
    }


def test_transposed_convolutions(view):
    model, data = seeded(nn.ConvTranspose2d(64, 64, 3)), samples(1, 64, 4, 4)
    reasons, _ = refusals(view, model, tuple(data[0]), scheme="int8", calibration=arrays(data))
    assert reasons == {"transposed convolutions are not quantized": 1}


@pytest.mark.parametrize("how", ["static", "dynamic"])
def test_quantized_by_onnx_runtime_already(tmp_path, how):
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        quantize_dynamic,
        quantize_static,
    )

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter([{"x": X.numpy()}])

        def get_next(self):
            return next(self.left, None)

    plain, done = tmp_path / "plain.onnx", tmp_path / "done.onnx"
    weight = samples(256, 64)[0][0].numpy()
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"])
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [node],
        "g",
        [value("x", 1, [4, 256])],
        [value("y", 1, [4, 64])],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    opset = [onnx.helper.make_opsetid("", 21)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=10), plain)
    if how == "dynamic":
        quantize_dynamic(plain, done)
    else:
        quantize_static(plain, done, Reader(), quant_format=QuantFormat.QDQ)
    lifted = onnx_view.lift(read(done))
    report = run_pass(lifted, Quantize())
    assert report.reasons == {"the model is quantized already": 1}


def test_data_is_asked_for():
    graph, _ = View("fx").lift(linear(), (X,))
    with pytest.raises(InvalidInput, match=r"calibration: expected data"):
        run_pass(graph, Quantize("int8"))


def test_stages_that_a_format_does_not_go_with():
    graph, _ = View("fx").lift(linear(), (X,))
    with pytest.raises(InvalidInput, match=r"weights='codebook'.*integer format"):
        run_pass(graph, Quantize("fp8", weights="codebook", calibration=arrays([[X]])))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"nodes_to_exclude": "nowhere"}, "nodes_to_exclude: 'nowhere' matches no op name"),
        ({"placement": {"nowhere": "float"}}, "placement: 'nowhere' matches no op name"),
    ],
)
def test_patterns_that_match_nothing(asked, message):
    graph, _ = View("fx").lift(linear(), (X,))
    with pytest.raises(InvalidInput, match=message):
        run_pass(graph, Quantize(**asked))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"scheme": "int9"}, "expected scheme in int8, .*; got 'int9'"),
        ({"weights": "rtx"}, "expected weights in .*'gptq'.*, got 'rtx'"),
        ({"weights": "lorc:x"}, "expected a whole number after the colon"),
        ({"op_types_to_quantize": ("Linear", "LSTM")}, "Linear, Conv, .*LSTM"),
        ({"placement": "everywhere"}, "expected placement 'auto', 'all', 'measured' or pairs"),
        ({"placement": (("a", "sideways"),)}, "expected .pattern, one of .*sideways"),
        ({"calibrate_method": "guess"}, "guess"),
        ({"block_size": 32, "group_size": 64}, "one of block_size and group_size, got 32 and 64"),
        ({"block_size": -3}, "expected a block_size of at least 1"),
        ({"block_size": 32, "per_channel": True}, "expected block_size or per_channel"),
        ({"scheme": "w4", "reduce_range": True}, "expected int8 weights for reduce_range"),
        ({"scheme": "w4-fp", "per_channel": False}, "expected a block size or a scale per channel"),
        ({"nodes_to_exclude": "re:("}, "no regular expression"),
    ],
)
def test_arguments(asked, message):
    with pytest.raises(ValueError, match=message):
        Quantize(**asked)


def test_other_names():
    assert Quantize("W8A8").resolved == Quantize("int8-dynamic").resolved
    assert Quantize("w4a16", group_size=64) == Quantize("w4a16", block_size=64)
    one = Quantize(op_types_to_quantize=("MatMul", "Gemm", "Gather"))
    assert one.op_types_to_quantize == ("Linear", "Embedding")
