"""Quantized linears through the TVM backend, against the graph itself and against numpy."""

import numpy as np
import pytest
import torch
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from tvm import relax

from passel.backends.tvm.emit import emit
from passel.backends.tvm.emit.integer import integer_linear
from passel.backends.tvm.emit.integer_codes import by_row, per_tensor
from passel.backends.tvm.emit.integer_weights import packed
from passel.backends.tvm.machine import machine_of
from passel.backends.tvm.pipeline import build
from passel.graph import ops as o
from passel.passes.driver import run_passes
from passel.passes.quantize import Quantize
from tests.backends.tvm.emission import VIEWS, graph_of
from tests.graph.quant_cases import round_trip, store

BOUND = 1e-5
"""On the same sums scaled and added in float32 in another order, relative to the largest result."""


def rng(seed=0):
    return np.random.default_rng(seed)


def run(graph, inputs, machine):
    """Results, and the rule that took each kernel."""
    emitted = emit(graph, machine)
    executable, scheduled = build(emitted.module, machine, check=True)
    assert not scheduled.serial
    assert not scheduled.rejected
    vm = relax.VirtualMachine(executable, tvm.cpu())
    constants = [tvm.runtime.tensor(array) for array in emitted.constants]
    results = vm["main"](*map(tvm.runtime.tensor, inputs), constants)
    return [result.numpy() for result in results], scheduled.rules


def agrees(found, wanted, bound=BOUND):
    np.testing.assert_allclose(found, wanted, rtol=0, atol=bound * np.abs(wanted).max())


class Mlp(nn.Module):
    """A norm, two linears with a GELU between them, and the residual."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.norm = nn.LayerNorm(72)
        self.up, self.down = nn.Linear(72, 150), nn.Linear(150, 72)

    def forward(self, x):
        return x + self.down(nn.functional.gelu(self.up(self.norm(x))))


MLP = Mlp().eval()
X = torch.randn(1, 19, 72, generator=torch.Generator().manual_seed(1))


def quantized(scheme, view, x=X, model=MLP):
    graph = graph_of(model, (x,), view, opset=21)
    sample = (x,) if view == "fx" else {graph.inputs[0].name: x.numpy()}
    run_passes(graph, [Quantize(scheme=scheme, placement="all", calibration=[sample])])
    return graph


def of_rule(rules, rule):
    return sorted(name for name, taken in rules.items() if taken == rule)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("scheme", ["int8", "int8-dynamic", "int8-per-token"])
def test_a_quantized_model_computes_what_its_graph_says(machine, view, scheme):
    graph = quantized(scheme, view)
    (found,), rules = run(graph, [X.numpy()], machine)
    agrees(found, graph.run([X.numpy()])[0])
    up, down = sorted(of_rule(rules, "integer_product"), key=lambda name: "gelu" not in name)
    assert "gelu" in up
    assert "add" in down
    assert ("codes" in up) == (scheme == "int8")  # a known scale: codes come out of the product


@pytest.mark.parametrize("scheme", ["int8", "int8-dynamic", "int8-per-token"])
def test_a_cpu_without_the_instruction_computes_the_same(scheme):
    graph = quantized(scheme, "fx")
    (found,), rules = run(graph, [X.numpy()], machine_of("haswell", 2))
    agrees(found, graph.run([X.numpy()])[0])
    assert len(of_rule(rules, "integer_product")) == 2


def one_linear(depth, columns, *, bias=True, lead=(2, 3)):
    torch.manual_seed(depth)
    x = torch.randn(*lead, depth)
    graph = graph_of(nn.Linear(depth, columns, bias=bias), (x,), "fx")
    return graph, x.numpy()


@pytest.mark.parametrize("weight", ["int8", "uint8"])
@pytest.mark.parametrize("activation", ["int8", "uint8"])
@pytest.mark.parametrize(("depth", "columns", "axis"), [(24, 40, 0), (7, 3, None), (33, 17, 0)])
def test_signs_zero_points_and_odd_shapes(machine, weight, activation, depth, columns, axis):
    graph, x = one_linear(depth, columns, bias=columns != 40)
    (linear,) = graph.walk(o.Linear)
    dense = store(graph, linear, np.dtype(weight), axis)
    zero = 3 if activation == "int8" else 131
    round_trip(graph, linear.x, np.dtype(activation), 0.03, zero)
    (found,), rules = run(graph, [x], machine)
    assert len(of_rule(rules, "integer_product")) == 1
    agrees(found, graph.run([x])[0])
    low = -128 if activation == "int8" else 0
    codes = np.clip(np.rint(x / np.float32(0.03)) + zero, low, low + 255) - zero
    bias = 0 if linear.bias is None else linear.bias.array()
    agrees(found, (codes * np.float32(0.03)) @ dense.T + bias)


@pytest.mark.parametrize(
    "change", ["weight by depth", "codes by column", "weight in 4 bits", "bias found at run time"]
)
def test_what_cannot_be_multiplied_as_bytes_is_not(machine, change):
    graph, x = one_linear(24, 40)
    (linear,) = graph.walk(o.Linear)
    dtype = np.dtype("int8")
    if change == "weight in 4 bits":
        import ml_dtypes

        dtype = np.dtype(ml_dtypes.int4)
    store(graph, linear, dtype, 1 if change == "weight by depth" else 0)
    by_column = change == "codes by column"
    scale = np.full(24, 0.03) if by_column else 0.03
    round_trip(graph, linear.x, np.dtype("int8"), scale, axis=2 if by_column else None)
    if change == "bias found at run time":
        bias = o.Elementwise(fn="neg", inputs=[linear.bias])
        graph.add(bias, ((40,), np.dtype(np.float32)), before=linear)
        graph.set_input(linear, 2, bias.output)
    assert integer_linear(linear, machine) is None
    (found,), rules = run(graph, [x], machine)
    assert not of_rule(rules, "integer_product")
    agrees(found, graph.run([x])[0])


def quantizer(x):
    """A graph whose outputs are the codes, the scale and the zero point of x."""
    graph = graph_of(lambda module, x: torch.relu(x), (torch.from_numpy(x),), "fx")
    (relu,) = graph.ops
    op = o.DynamicQuantize(inputs=[graph.inputs[0]])
    f32, u8 = np.dtype(np.float32), np.dtype(np.uint8)
    graph.add(op, (x.shape, u8), ((), f32), ((), u8), before=relu)
    graph.outputs = list(op.outputs)
    return graph


def expected(x):
    low, high = min(x.min(), 0), max(x.max(), 0)
    scale = (np.float32(high) - np.float32(low)) / np.float32(255) or np.float32(1) / np.float32(
        255
    )
    zero = np.clip(np.rint(-np.float32(low) / scale), 0, 255)
    return np.clip(np.rint(x / scale) + zero, 0, 255), scale, zero


@pytest.mark.parametrize("kind", ["normal", "positive", "negative", "zeros", "ties", "one row"])
def test_codes_at_run_time_are_exact(machine, kind):
    x = rng(3).normal(size=(1, 37, 50)).astype(np.float32)
    x = {
        "normal": x,
        "positive": np.abs(x) + 1,
        "negative": -np.abs(x) - 1,
        "zeros": 0 * x,
        "ties": np.resize(np.arange(-127, 128.5, 0.5, dtype=np.float32), x.shape),
        "one row": x[:, :1],
    }[kind]
    graph = quantizer(x)
    (op,) = graph.walk(o.DynamicQuantize)
    assert per_tensor(op, machine) is not None
    found, _ = run(graph, [x], machine)
    for one, wanted in zip(found, expected(x), strict=True):
        np.testing.assert_array_equal(one, wanted)


@pytest.mark.parametrize("view", VIEWS)
def test_codes_by_row_are_one_kernel_with_the_norm_in_front(machine, view):
    graph = quantized("int8-per-token", view)
    (found,), rules = run(graph, [X.numpy()], machine)
    assert sum("codes_by_row" in name for name in rules) == 2
    assert len(of_rule(rules, "integer_product")) == 2
    assert not [name for name in rules if "norm" in name or "min" in name or "where" in name]
    with torch.no_grad():
        dense = MLP(X).numpy()
    per_tensor_ = quantized("int8-dynamic", view).run([X.numpy()])[0]
    assert np.abs(found - dense).mean() < np.abs(per_tensor_ - dense).mean()


def test_a_scale_that_is_read_before_the_codes_is_made_apart(machine):
    graph = quantized("int8-per-token", "onnx")
    (wanted,) = graph.run([X.numpy()])
    first = next(op for op in graph.walk(o.Quantize) if by_row(op, machine) is not None)
    relu = o.Elementwise(fn="relu", inputs=[first.scale])
    graph.add(relu, (first.scale.shape, first.scale.dtype), before=first)
    assert by_row(first, machine) is None
    graph.outputs = [*graph.outputs, relu.output]
    (found, scales), _ = run(graph, [X.numpy()], machine)
    agrees(found, wanted)
    assert scales.shape == (1, 19, 1)


@pytest.mark.parametrize("rows", [1, 5])
def test_known_scales_by_row(machine, rows):
    """A scale for each position of a token, as calibration may give it."""
    graph, x = one_linear(24, 40, lead=(rows,))
    (linear,) = graph.walk(o.Linear)
    store(graph, linear, np.dtype(np.int8), 0)
    scale = np.linspace(0.01, 0.05, rows).reshape(rows, 1)
    zero = np.arange(120, 120 + rows).reshape(rows, 1)
    round_trip(graph, linear.x, np.dtype(np.uint8), scale, zero, axis=1, block=24)
    (found,), rules = run(graph, [x], machine)
    assert len(of_rule(rules, "integer_product")) == 1
    agrees(found, graph.run([x])[0])


@settings(max_examples=50, deadline=None)
@given(
    depth=st.integers(1, 21),
    lanes=st.sampled_from([8, 16]),
    more=st.integers(0, 40),
    seed=st.integers(0, 99),
)
def test_a_packed_weight_holds_every_column(depth, lanes, more, seed):
    columns = lanes + more
    codes = rng(seed).integers(-128, 128, (depth, columns), np.int8)
    panels = packed(codes, lanes)
    for n in range(columns):
        panel = n // lanes
        lane = n % lanes
        column = panels[panel, :, lane].reshape(-1)
        np.testing.assert_array_equal(column[:depth], codes[:, n])
        assert not column[depth:].any()
