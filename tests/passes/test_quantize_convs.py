"""quantize: convolutions of all kinds, and their results where integer kernels want them."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from passel.backends.onnxruntime import Session
from passel.graph.fx_tensor import to_numpy
from passel.graph.ops import Conv
from passel.graph.ops import Quantize as QuantizeOp
from passel.passes import Canonicalize, FoldConstants, Quantize
from passel.passes.driver import run_passes
from passel.passes.quantization.layer import LayerData
from passel.passes.quantization.rounding import round_weight
from passel.passes.quantization.schemes import scheme_named
from tests.conftest import relative_error
from tests.passes.quantization.fake import scale_of, uint8
from tests.passes.test_quantize import arrays, samples, seeded

CONVS = {
    "plain": (lambda: nn.Conv2d(8, 12, 3, padding=1), (2, 8, 6, 5)),
    "groups": (lambda: nn.Conv2d(8, 12, 3, groups=4, stride=2), (2, 8, 6, 5)),
    "depthwise": (lambda: nn.Conv2d(8, 8, 3, groups=8, bias=False), (2, 8, 6, 5)),
    "1-d": (lambda: nn.Conv1d(8, 12, 3, dilation=2), (2, 8, 9)),
    "pointwise": (lambda: nn.Conv2d(8, 12, 1), (2, 8, 6, 5)),
}


def span(data: list[Tensor]) -> tuple[float, float]:
    return min(float(x.min()) for x in data), max(float(x.max()) for x in data)


def fake_conv(conv: nn.Module, x: Tensor, seen: tuple[float, float]) -> Tensor:
    """One convolution of int8 weights and uint8 activations, in float."""
    x, step = uint8(x, *seen)
    flat = conv.weight.detach().reshape(len(conv.weight), -1)
    scale = scale_of(flat)
    codes = np.rint(flat.double().numpy() / scale[:, None])
    weight = torch.from_numpy((codes * scale[:, None]).astype(np.float32)).reshape(
        conv.weight.shape
    )
    bias = None
    if conv.bias is not None:
        each = scale * step
        held = conv.bias.detach().double().numpy()
        bias = torch.from_numpy((np.rint(held / each) * each).astype(np.float32))
    run = F.conv1d if isinstance(conv, nn.Conv1d) else F.conv2d
    return run(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)


def quantized(view, model, x, **asked):
    graph, run = view.lift(model, (x,), opset=23)
    passes = [FoldConstants(), Canonicalize(), Quantize(**{"placement": "all", **asked})]
    return graph, run, run_passes(graph, passes)[-1]


@pytest.mark.parametrize("case", CONVS)
def test_static(view, case):
    make, shape = CONVS[case]
    conv, data, (x,) = seeded(make()), samples(*shape), samples(*shape, seed=2)[0]
    _, run, report = quantized(view, conv, x, scheme="int8", calibration=arrays(data))
    expected = fake_conv(conv, x, span([each for (each,) in data]))
    assert len(report.applied) == 1
    assert relative_error([to_numpy(expected)], run()) < 2e-6


@pytest.mark.parametrize("scheme", ["w4", "w2", "ternary", "binary", "fp8", "w8"])
@pytest.mark.parametrize("case", ["plain", "groups", "1-d"])
def test_weights_of_other_schemes(either_view, case, scheme):
    """Blocks, tables and factors, made anew in the convolution's shape; activations in float."""
    make, shape = CONVS[case]
    conv, (x,) = seeded(make()), samples(*shape)[0]
    graph, run = either_view.lift(conv, (x,), opset=25)
    (op,) = graph.walk(Conv)
    asked = {"scheme": scheme, "placement": ((op.name, "weight"),)}
    run_passes(graph, [Quantize(**asked)])
    one, form = scheme_named(scheme), scheme_named(scheme).weight
    flat = conv.weight.detach().reshape(len(conv.weight), -1).numpy()
    if form.block > 0:
        form = type(form)(form.grid, 0)
    stages = one.stages or ("rtn",)
    dense = round_weight(LayerData(flat, name="c"), form, stages).dense()
    with torch.no_grad():
        conv.weight.copy_(torch.from_numpy(dense).reshape(conv.weight.shape))
        assert relative_error([to_numpy(conv(x))], run()) < 2e-6


class Block(nn.Module):
    """A residual block: one result behind a relu, one that an addition reads."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(16, 16, 3, padding=1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(x + self.b(F.relu(self.a(x))))
        return self.c(y).mean((2, 3))


def block_by_definition(model: Block, x: Tensor, data: list[Tensor]) -> Tensor:
    with torch.no_grad():
        relu = [F.relu(model.a(each)) for each in data]
        b = [model.b(each) for each in relu]
        y = [F.relu(p + q) for p, q in zip(data, b, strict=True)]
        c = [model.c(each) for each in y]
        first = uint8(F.relu(fake_conv(model.a, x, span(data))), *span(relu))[0]
        second = uint8(fake_conv(model.b, first, span(relu)), *span(b))[0]
        joined = F.relu(x + second)
        return uint8(fake_conv(model.c, joined, span(y)), *span(c))[0].mean((2, 3))


def test_results_are_quantized_too(view):
    """Behind the relu; a reader takes the same codes again."""
    model, data = seeded(Block()), samples(1, 16, 6, 6)
    (x,) = samples(1, 16, 6, 6, seed=2)[0]
    graph, run, report = quantized(view, model, x, scheme="int8", calibration=arrays(data))
    expected = block_by_definition(model, x, [each for (each,) in data])
    assert len(report.applied) == 3
    assert len(list(graph.walk(QuantizeOp))) == 5  # x, relu, b, y, c
    assert relative_error([to_numpy(expected)], run()) < 2e-6


def test_onnx_runtime_multiplies_the_integers(tmp_path):
    """What is left of each convolution in its optimized graph is a QLinearConv."""
    import onnx
    import onnx_ir as ir
    import onnxruntime

    from tests.conftest import View

    model, data = seeded(Block()), samples(1, 16, 6, 6)
    (x,) = samples(1, 16, 6, 6, seed=2)[0]
    graph, _, _ = quantized(View("onnx"), model, x, scheme="int8", calibration=arrays(data))
    lowered = graph.binding.lower(graph)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "o.onnx")
    proto = ir.to_proto(lowered).SerializeToString()
    onnxruntime.InferenceSession(proto, options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node]
    assert kinds.count("QLinearConv") == 3
    assert "Conv" not in kinds
    expected = block_by_definition(model, x, [each for (each,) in data])
    assert relative_error([to_numpy(expected)], Session(lowered).run_arrays([to_numpy(x)])) < 0.02


def test_a_result_that_is_an_output_stays_float(view):
    model, data = seeded(nn.Conv2d(8, 12, 3)), samples(1, 8, 6, 6)
    graph, _, _ = quantized(view, model, data[0][0], scheme="int8", calibration=arrays(data))
    assert len(list(graph.walk(QuantizeOp))) == 1


def test_corrections_of_low_rank_are_for_products_only(either_view):
    model, (x,) = seeded(nn.Conv2d(8, 12, 3)), samples(1, 8, 6, 6)[0]
    graph, run = either_view.lift(model, (x,), opset=23)
    (op,) = graph.walk(Conv)
    asked = {"scheme": "w8", "weights": "rtn+lorc:2", "placement": ((op.name, "weight"),)}
    (report,) = run_passes(graph, [Quantize(**asked)])
    assert [layer.method for layer in report.layers] == ["rtn"]
    with torch.no_grad():
        assert relative_error([to_numpy(model(x))], run()) < 0.02
