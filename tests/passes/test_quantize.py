"""quantize: the graph computes what a model with rounded weights and activations computes."""

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from passel.graph.fx_tensor import to_numpy
from passel.graph.ops import Dequantize, DynamicQuantize, Linear
from passel.graph.ops import Quantize as QuantizeOp
from passel.passes import Canonicalize, FoldConstants, Quantize
from passel.passes.driver import run_pass, run_passes
from passel.passes.quantization.schemes import SCHEMES, scheme_named
from tests.conftest import relative_error
from tests.passes.quantization.fake import dense, dynamic, fake, uint8

BEFORE = (FoldConstants(), Canonicalize())


class Net(nn.Module):
    """Three products of one value, a move before one, a residual stream; x [B, 6, 32]."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(32, 16) for _ in range(3))
        self.out, self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 70), nn.Linear(70, 32)

    def forward(self, x: Tensor) -> Tensor:
        mixed = torch.sigmoid(self.q(x)) * self.k(x) + self.v(x)
        moved = mixed.reshape(-1, 6, 4, 4).transpose(2, 3).reshape(-1, 6, 16)
        x = x + self.out(moved)
        return x + self.down(F.relu(self.up(x)))


def seeded(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.eval()


def samples(*shape: int, count: int = 3, seed: int = 1) -> list[list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randn(shape, generator=generator)] for _ in range(count)]


DATA, X = samples(2, 6, 32), samples(2, 6, 32, count=1, seed=2)[0][0]


def arrays(data: list[list[Tensor]]) -> list[list[np.ndarray]]:
    return [[to_numpy(x) for x in sample] for sample in data]


@functools.cache
def exported(view):
    return view.export(seeded(Net()), (X,), opset=25)


def quantized(graph, run, **asked):
    """What runs a graph after the pass, and the report."""
    report = run_passes(graph, [*BEFORE, Quantize(**{"placement": "all", **asked})])[-1]
    return run, report


def expected_of(model: nn.Module, *inputs: Tensor) -> list[np.ndarray]:
    with torch.no_grad():
        return [to_numpy(model(*inputs))]


@pytest.mark.parametrize("scheme", sorted(set(SCHEMES) - {"int8-mixed"}))
def test_computes_what_a_rounded_model_computes(view, scheme):
    wanted, asked = scheme_named(scheme), {"scheme": scheme}
    if wanted.is_static:
        asked["calibration"] = arrays(DATA)
    if not wanted.fixed:  # what else chooses scales would know the samples
        asked["weights"], wanted = "rtn", replace(wanted, stages=("rtn",))
    run, report = quantized(*view.open(exported(view), (X,)), **asked)
    model = seeded(Net())
    assert len(report.applied) == 6
    assert relative_error(expected_of(fake(model, wanted, DATA), X), run()) < 5e-6
    assert relative_error(expected_of(model, X), run()) > 1e-3


@pytest.mark.parametrize("block", [7, 48, 16, 128, -1, 0])
def test_blocks_of_any_size(either_view, block):
    scheme = scheme_named("w4")
    wanted = replace(scheme, weight=replace(scheme.weight, block=block), stages=("rtn",))
    asked = {"scheme": "w4", "weights": "rtn", "block_size": block}
    run, _ = quantized(*either_view.open(exported(either_view), (X,)), **asked)
    assert relative_error(expected_of(fake(seeded(Net()), wanted, DATA), X), run()) < 5e-6


def test_golden(fx_view, golden):
    graph, _ = fx_view.open(exported(fx_view), (X,))
    run_passes(graph, BEFORE)
    golden("quantize/before", graph)
    run_pass(graph, Quantize("int8", calibration=arrays(DATA), placement="all"))
    golden("quantize/after", graph)


def test_one_quantize_serves_all_readers_of_a_value(view):
    graph, run = view.open(exported(view), (X,))
    quantized(graph, run, scheme="int8", calibration=arrays(DATA))
    assert len(list(graph.walk(QuantizeOp))) == 4  # of x, above the moves, of the stream, of relu
    graph, run = view.open(exported(view), (X,))
    quantized(graph, run, scheme="int8-dynamic")
    assert len(list(graph.walk(DynamicQuantize))) == 4


def test_a_quantize_goes_above_moves(view):
    graph, run = view.open(exported(view), (X,))
    quantized(graph, run, scheme="int8", calibration=arrays(DATA))
    moved = [op for op in graph.ops if op.kind == "Reshape" and op.output.dtype == np.uint8]
    assert len(moved) == 2


def test_mixed_quantizes_what_follows_a_nonlinearity_at_run_time(view):
    graph, run = view.open(exported(view), (X,))
    _, report = quantized(graph, run, scheme="int8-mixed", calibration=arrays(DATA))
    forms = [layer.form for layer in report.layers]
    assert [form for form in forms if "dynamic" in form] == ["uint8 dynamic × int8 per channel"]
    assert len(forms) == 6


def test_forms_of_readers_of_one_value_may_differ(view):
    """One static, one dynamic, one in float."""

    class Three(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = (nn.Linear(32, 16, bias=False) for _ in range(3))

        def forward(self, x):
            x = x + 1
            return self.a(x), self.b(x), self.c(x)

    model, data = seeded(Three()), samples(2, 32)
    (x,) = samples(2, 32, seed=2)[0]
    graph, run = view.lift(model, (x,), opset=23)
    run_passes(graph, BEFORE)
    names = [op.name for op in graph.walk(Linear)]
    forms = tuple(zip(names, ("static", "dynamic", "float"), strict=True))
    report = run_pass(graph, Quantize("int8-mixed", placement=forms, calibration=arrays(data)))
    low = min(float(s.min()) for (s,) in data) + 1
    high = max(float(s.max()) for (s,) in data) + 1
    weights = [
        torch.from_numpy(dense(each.weight, scheme_named("int8"), ("rtn",))).float()
        for each in (model.a, model.b)
    ]
    with torch.no_grad():
        expected = [uint8(x + 1, low, high)[0] @ weights[0].T, dynamic(x + 1) @ weights[1].T]
        expected.append(model.c(x + 1))
    assert relative_error([to_numpy(y) for y in expected], run()) < 1e-6
    assert report.reasons == {"placed in float": 1}


def test_a_correction_of_low_rank_is_added(view):
    graph, run = view.open(exported(view), (X,))
    _, report = quantized(graph, run, scheme="w2", weights="rtn+lorc:4")
    plain_graph, plain = view.open(exported(view), (X,))
    quantized(plain_graph, plain, scheme="w2", weights="rtn")
    expected = expected_of(seeded(Net()), X)
    assert len(list(graph.walk(Linear))) == 18
    assert relative_error(expected, run()) < 0.8 * relative_error(expected, plain())
    assert all(layer.method == "rtn+lorc" for layer in report.layers)


def test_tied_embedding_and_head(either_view):
    """Both are quantized, each for itself; the table that they share is left behind."""

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(50, 32)
            self.head = nn.Linear(32, 50, bias=False)
            self.head.weight = self.table.weight

        def forward(self, ids):
            return self.head(self.table(ids))

    model, ids = seeded(Tied()), torch.tensor([[3, 49, 0], [7, 7, 1]])
    graph, run = either_view.lift(model, (ids,), opset=23)
    kinds = ("Linear", "Embedding")
    quantized(graph, run, scheme="w8", op_types_to_quantize=kinds, block_size=0)
    table = dense(model.table.weight, scheme_named("int8"), ("rtn",))
    expected = (table[ids.numpy()] @ table.T).astype(np.float32)
    assert relative_error([expected], run()) < 1e-6
    assert not [v for v in graph.constants() if v.shape == (50, 32) and v.is_float]


def test_dynamic_batch(either_view):
    shapes = ({0: torch.export.Dim("batch", min=2, max=64)},)
    lifted = either_view.lift(seeded(Net()), (X,), dynamic_shapes=shapes, opset=23)
    run, report = quantized(*lifted, scheme="int8", calibration=arrays(samples(5, 6, 32)))
    expected = fake(seeded(Net()), scheme_named("int8"), samples(5, 6, 32))
    assert relative_error(expected_of(expected, X), run()) < 5e-6
    assert len(report.applied) == 6


def test_float16(view):
    model, x = seeded(Net()).half(), X.half()
    graph, run = view.lift(model, (x,), opset=23)
    data = [[a.astype(np.float16) for a in sample] for sample in arrays(DATA)]
    _, report = quantized(graph, run, scheme="int8", calibration=data)
    (found,) = run()
    assert found.dtype == np.float16
    assert len(report.applied) == 6
    assert len(list(graph.walk(QuantizeOp))) == 4  # scales in float16 are recognised
    assert relative_error(expected_of(model, x), [found]) < 0.05


@pytest.mark.parametrize("scheme", ["int8", "int8-dynamic", "fp8"])
@pytest.mark.parametrize("data", ["zeros", "ones", "positive"])
def test_degenerate_ranges(either_view, scheme, data):
    fill = {"zeros": torch.zeros, "ones": torch.ones, "positive": lambda *s: X.abs() + 3}[data]
    x = fill(2, 6, 32)
    model, wanted = seeded(Net()), scheme_named(scheme)
    run, _ = quantized(
        *either_view.open(exported(either_view), (x,)),
        scheme=scheme,
        calibration=arrays([[x]]),
        weights="rtn",
    )
    expected = expected_of(fake(model, wanted, [[x]]), x)
    assert relative_error(expected, run()) < 5e-6


def test_a_product_that_is_an_output_and_an_input_that_is_one(either_view):
    class Ends(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(32, 32), nn.Linear(32, 8)

        def forward(self, x):
            y = self.a(x)
            return y, self.b(y), x * 1.0

    model, data = seeded(Ends()), samples(3, 32)
    (x,) = samples(3, 32, seed=2)[0]
    run, _ = quantized(
        *either_view.lift(model, (x,), opset=23), scheme="int8", calibration=arrays(data)
    )
    with torch.no_grad():
        expected = [to_numpy(y) for y in fake(model, scheme_named("int8"), data)(x)]
    assert relative_error(expected, run()) < 5e-6


def test_a_bias_that_int32_cannot_hold_stays_float(view):
    model = seeded(nn.Linear(32, 16))
    with torch.no_grad():
        model.bias[0] = 1e9
    (x,) = samples(2, 32)[0]
    graph, run = view.lift(model, (x,), opset=23)
    quantized(graph, run, scheme="int8", calibration=arrays(samples(2, 32)))
    assert not [op for op in graph.walk(Dequantize) if op.x.dtype == np.int32]
    assert relative_error(expected_of(model, x), run()) < 1e-5


def test_without_a_kernel_the_report_says_so(view):
    _, report = quantized(*view.open(exported(view), (X,)), scheme="binary")
    assert all("no kernel" in layer.notes[-1] for layer in report.layers)


def test_twice_is_once(view):
    graph, run = view.open(exported(view), (X,))
    quantized(graph, run, scheme="int8", calibration=arrays(DATA))
    report = run_pass(graph, Quantize("w4"))
    assert not report.applied
    assert report.reasons == {"the model is quantized already": 1}
