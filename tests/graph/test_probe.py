"""Graph.probe: any values from any cut, on both views, without touching the graph."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import nn

from passel.backends.onnxruntime import Session
from passel.execution import engine
from passel.execution import lift as lift_for_job
from passel.graph import fx
from passel.graph import onnx as onnx_view
from passel.graph import ops as o
from passel.graph.text import to_text
from tests.graph.quant_cases import round_trip

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.first = nn.Parameter(torch.randn(8, 6, generator=generator))
        self.second = nn.Parameter(torch.randn(3, 8, generator=generator))

    def forward(self, x, y):
        hidden = torch.relu(nn.functional.linear(x, self.first))
        left, right = torch.split(nn.functional.linear(hidden, self.second) * y, [1, 2], 1)
        return left + right, torch.softmax(right, -1)


Y = torch.linspace(-1, 1, 4).reshape(4, 1)
ARRAYS = [X.numpy(), Y.numpy()]


@pytest.fixture(params=["reference", "onnxruntime", "torch"], scope="module")
def lifted(request, view_of_net):
    return view_of_net(request.param)


@pytest.fixture(scope="module")
def view_of_net():
    from passel.capture import export_program, to_onnx

    program = export_program(Net().eval(), ((X, Y), {}), None, "Net")
    made = to_onnx(program, 18)
    return {
        "torch": lambda: fx.lift(program),
        "reference": lambda: onnx_view.lift(made),
        "onnxruntime": lambda: lift_for_job(made, 1),
    }.__getitem__


def value_of(graph, kind, fn=None):
    ops = [op for op in graph.walk(kind) if fn is None or op.fn == fn]
    return ops[0].output


def oracle():
    x, y = (array.astype(np.float64) for array in ARRAYS)
    net = Net()
    hidden = np.maximum(x @ net.first.detach().numpy().T, 0)
    scaled = hidden @ net.second.detach().numpy().T * y
    exp = np.exp(scaled[:, 1:] - scaled[:, 1:].max(1, keepdims=True))
    return hidden, scaled, scaled[:, :1] + scaled[:, 1:], exp / exp.sum(1, keepdims=True)


def close(found, wanted):
    assert len(found) == len(wanted)
    for got, want in zip(found, wanted, strict=True):
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, want, atol=1e-5)


def test_the_whole_graph(lifted):
    graph = lifted()
    close(graph.probe(graph.outputs)(ARRAYS), oracle()[2:])


def test_values_within_the_graph(lifted):
    graph = lifted()
    before = to_text(graph)
    wanted = [value_of(graph, o.Elementwise, "mul"), value_of(graph, o.Elementwise, "relu")]
    run = graph.probe(wanted)
    hidden, scaled, *_ = oracle()
    for _ in range(2):
        close(run(ARRAYS), [scaled, hidden])
    assert to_text(graph) == before


def test_from_a_cut(lifted):
    graph = lifted()
    relu = value_of(graph, o.Elementwise, "relu")
    _, y = graph.inputs
    hidden, scaled, *outputs = oracle()
    run = graph.probe(graph.outputs, [relu, y])
    close(run([hidden.astype(np.float32), ARRAYS[1]]), outputs)
    close(run([2 * hidden.astype(np.float32), ARRAYS[1] / 2]), outputs)
    product = value_of(graph, o.Elementwise, "mul")
    close(graph.probe([product], [product])([scaled.astype(np.float32)]), [scaled])


def test_an_input_that_nothing_reads_is_taken_and_ignored(lifted):
    graph = lifted()
    relu = value_of(graph, o.Elementwise, "relu")
    close(graph.probe([relu])(ARRAYS), oracle()[:1])


def test_a_missing_input_is_named(lifted):
    graph = lifted()
    relu, y = value_of(graph, o.Elementwise, "relu"), graph.inputs[1]
    with pytest.raises(ValueError, match=f"depends on input '{y.name}', which is not given"):
        graph.probe(graph.outputs, [relu])
    with pytest.raises(ValueError, match="depends on input 'x'"):
        graph.probe([relu], [y])


def test_the_number_of_arrays_is_checked(lifted):
    graph = lifted()
    with pytest.raises(ValueError, match=r"expected 2 arrays \['x', 'y'\], got 1"):
        graph.probe(graph.outputs)(ARRAYS[:1])


def test_constants_inputs_and_repeats_may_be_asked_for(lifted):
    graph = lifted()
    relu = value_of(graph, o.Elementwise, "relu")
    constant = max(graph.constants(), key=lambda value: value.constant.nbytes)
    asked = [constant, relu, graph.inputs[0], relu]
    found = graph.probe(asked)(ARRAYS)
    close(found, [constant.array(), oracle()[0], ARRAYS[0], oracle()[0]])
    close(graph.probe([constant], [])([]), [constant.array()])


def test_a_value_of_another_graph_is_refused(lifted):
    graph = lifted()
    relu = value_of(graph, o.Elementwise, "relu")
    twin = graph.add(o.Elementwise(fn="neg", inputs=[relu]), (relu.shape, relu.dtype))
    graph.erase(twin)
    with pytest.raises(ValueError, match="expected values of this graph"):
        graph.probe([twin.output])


def test_what_a_pass_has_made_is_computed_too(lifted):
    graph = lifted()
    relu = value_of(graph, o.Elementwise, "relu")
    first, second = round_trip(graph, relu, np.dtype(np.uint8), 0.05, 2)
    hidden = oracle()[0]
    codes, back = graph.probe([first.output, second.output])(ARRAYS)
    want = np.clip(np.rint(hidden / np.float32(0.05)) + 2, 0, 255)
    assert codes.dtype == np.uint8
    assert np.abs(codes.astype(int) - want).max() <= 1
    np.testing.assert_allclose(back, (codes.astype(float) - 2) * 0.05, atol=1e-6)
    (again,) = graph.probe([second.output], [first.output])([codes])
    np.testing.assert_array_equal(again, back)
    assert "probe" not in to_text(graph, names=True)


def test_weights_are_not_copied_for_torch(view_of_net):
    graph = view_of_net("torch")()
    weight = next(graph.walk(o.Linear)).weight
    kept = graph.binding.program.state_dict
    (tensor,) = [t for t in kept.values() if tuple(t.shape) == weight.shape]
    relu = value_of(graph, o.Elementwise, "relu")
    run = graph.probe([relu])
    with torch.no_grad():
        before = tensor.clone()
        tensor.zero_()  # seen by the probe: it reads the program's own memory
        try:
            assert not run(ARRAYS)[0].any()
        finally:
            tensor.copy_(before)


def test_the_engine_gets_one_model_and_runs_it_often():
    proto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 18]> g (float[4,6] x) => (float[4,6] y) '
        "{ a = Neg (x) b = Relu (a) y = Exp (b) }"
    )
    models = []

    def spy(model):
        models.append([node.op_type for node in model.graph])
        return Session(model).run_arrays

    graph = onnx_view.lift(ir.from_proto(proto), engine=spy)
    neg, relu, _ = graph.ops
    run = graph.probe([relu.output], [neg.output])
    for _ in range(3):
        np.testing.assert_array_equal(run([X.numpy()])[0], np.maximum(X.numpy(), 0))
    assert models == [["Relu"]]


def test_the_job_s_engine_falls_back_where_onnx_runtime_lacks_a_kernel():
    proto = onnx.parser.parse_model(
        '<ir_version: 11, opset_import: ["": 23]> '
        "g (float[2] x, float s) => (float[2] y) { q = QuantizeLinear <output_dtype = 23> (x, s) "
        "y = DequantizeLinear (q, s) }"
    )
    with pytest.raises(Exception, match=r"FLOAT4|float4|kernel|implementation|load"):
        Session(ir.from_proto(proto))
    run = engine(ir.from_proto(proto))
    (got,) = run([np.array([0.9, 7], np.float32), np.array(0.5, np.float32)])
    assert got.tolist() == [1, 3]


IF = """<ir_version: 10, opset_import: ["": 18]>
g (float[2] x, bool c) => (float[2] y) <float[2] w = {1, 2}> {
  t = Neg (x)
  y = If (c) <
    then_branch = th () => (float[2] p) { p = Add (t, w) },
    else_branch = el () => (float[2] q) { q = Mul (t, w) }
  >
}"""


def test_bodies_of_control_flow_read_the_cut():
    graph = onnx_view.lift(ir.from_proto(onnx.parser.parse_model(IF)))
    neg = next(graph.walk(o.Elementwise))
    run = graph.probe(graph.outputs, [neg.output, graph.inputs[1]])
    t = np.array([5, 7], np.float32)
    assert run([t, np.array(True)])[0].tolist() == [6, 9]
    assert run([t, np.array(False)])[0].tolist() == [5, 14]


def test_an_initializer_that_callers_may_override_has_its_default():
    text = """<ir_version: 10, opset_import: ["": 18]>
    g (float[2] x, float[2] w) => (float[2] y) <float[2] w = {1, 2}> { y = Add (x, w) }"""
    graph = onnx_view.lift(ir.from_proto(onnx.parser.parse_model(text)))
    run = graph.probe(graph.outputs)
    assert run([np.zeros(2, np.float32)])[0].tolist() == [1, 2]


def test_dynamic_sizes_and_numbers_as_values():
    class Dynamic(nn.Module):
        def forward(self, x):
            return x.reshape(x.shape[0] * 2, -1) + x.shape[0]

    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(Dynamic(), (X,), dynamic_shapes=({0: batch},))
    graph = fx.lift(program)
    run = graph.probe(graph.outputs)
    for size in (3, 5):
        x = np.ones((size, 6), np.float32)
        np.testing.assert_array_equal(run([x])[0], x.reshape(size * 2, 3) + size)


def test_buffers_that_the_program_writes_to():
    class Counter(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("count", torch.ones(6))

        def forward(self, x):
            self.count.add_(1)
            return x * self.count

    graph = fx.lift(torch.export.export(Counter(), (X,)))
    run = graph.probe(graph.outputs)
    for _ in range(2):
        np.testing.assert_array_equal(run([X.numpy()])[0], 2 * X.numpy())
