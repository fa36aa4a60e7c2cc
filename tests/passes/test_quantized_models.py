"""Every default pass goes round what is quantized: the function stays, and so do the codes."""

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import nn

from passel.graph import Graph, bits_of, fx
from passel.graph import ops as o
from passel.graph.cost import cost_of, graph_cost
from passel.graph.quant_ops import is_dequantized, is_stored
from passel.passes import FoldConstants
from passel.passes.axes import carried
from passel.passes.driver import run_pass, run_passes
from passel.passes.registry import resolve
from passel.passes.report import Size
from tests.conftest import relative_error
from tests.graph.quant_cases import dtype_of, round_trip, store

X = torch.randn(2, 7, 16, generator=torch.Generator().manual_seed(0))
F32 = np.dtype(np.float32)


class Block(nn.Module):
    """Pre-norm attention and MLP on a residual stream, then one token of the last norm."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.norms = nn.ModuleList(nn.LayerNorm(16) for _ in range(3))
        self.qkv = nn.ModuleList(nn.Linear(16, 16) for _ in range(3))
        self.out, self.up, self.down = nn.Linear(16, 16), nn.Linear(16, 32), nn.Linear(32, 16)
        self.enter, self.head = nn.Linear(16, 16), nn.Linear(16, 5)

    def forward(self, x):
        x = self.enter(x)
        y = self.norms[0](x)
        q, k, v = (part(y).reshape(2, 7, 4, 4).transpose(1, 2) for part in self.qkv)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        x = x + self.out(mixed.transpose(1, 2).reshape(2, 7, 16))
        x = x + self.down(nn.functional.gelu(self.up(self.norms[1](x))))
        return self.head(self.norms[2](x)[:, 0])


def quantize_weights(graph, name, axis, block):
    for linear in list(graph.walk(o.Linear)):
        along = axis if linear.layout == "oi" or axis is None else 1 - axis
        store(graph, linear, dtype_of(name), along, block)


def quantize_activations(graph):
    for value in {linear.x: None for linear in graph.walk(o.Linear)}:
        round_trip(graph, value, np.dtype(np.int8), 0.05)


@pytest.mark.parametrize("weights", [("int8", 0, 0), ("uint4", 1, 8), ("int2", None, 0)])
@pytest.mark.parametrize("activations", [False, True])
def test_default_passes_keep_the_function_and_the_codes(view, weights, activations):
    graph, run = view.lift(Block(), [X], opset=25 if view.name == "onnx" else 20)
    run_passes(graph, resolve(["canonicalize"]))
    quantize_weights(graph, *weights)
    if activations:
        quantize_activations(graph)
    codes = {v for op in graph.walk(o.Dequantize) for v in (op.x,) if v.constant is not None}
    before = [codes_of.array().astype(int) for codes_of in codes]
    expected = run()
    for one in [*resolve("default"), *resolve(["compress", "merge-linears", "flatten-tokens"])]:
        report = run_pass(graph, one)
        if not report.applied:
            continue
        assert relative_error(expected, run()) < (0.02 if activations else 1e-5), report.spec
    left = {op.x for op in graph.walk(o.Dequantize) if op.x.constant is not None}
    assert sorted(map(total, left)) == sorted(np.abs(array).sum() for array in before)
    assert all(is_dequantized(op.weight) for op in graph.walk(o.Linear))


def total(value):
    return np.abs(value.array().astype(int)).sum()


@pytest.mark.parametrize("name", ["int8", "int4", "float8_e4m3fn"])
def test_fold_constants_leaves_a_stored_weight_stored(view, name):
    graph, run = view.lift(nn.Linear(16, 16, bias=False), [X], opset=25)
    run_passes(graph, resolve(["canonicalize"]))
    quantize_weights(graph, name, None, 0)
    (linear,) = graph.walk(o.Linear)
    expected = run()
    report = run_pass(graph, FoldConstants())
    assert [r.reason for _, r in report.refused] == ["the op unpacks a quantized weight"]
    assert is_stored(linear.weight)
    assert relative_error(expected, run()) == 0


def test_fold_constants_quantizes_a_constant(view):
    """Quantize of a weight is codes: only what unpacks them has to stay."""
    graph, run = view.lift(nn.Linear(16, 16, bias=False), [X])
    run_passes(graph, resolve(["canonicalize"]))
    (linear,) = graph.walk(o.Linear)
    grid = graph.constant(np.array(0.01, np.float32), "scale")
    first = graph.add(
        o.Quantize(inputs=[linear.weight, grid]),
        (linear.weight.shape, np.dtype(np.int8)),
        before=linear,
    )
    second = o.Dequantize(inputs=[first.output, grid])
    graph.add(second, (linear.weight.shape, F32), before=linear)
    graph.set_input(linear, 1, second.output)
    expected = run()
    run_pass(graph, FoldConstants())
    assert list(graph.walk(o.Quantize)) == []
    assert second.x.constant is not None
    assert second.x.dtype == np.int8
    assert relative_error(expected, run()) == 0


def blank():
    return Graph(fx.FxBinding(None))


def dequantize(graph, shape, axis=None, block=0, name="int8", zero=False):
    grid = () if axis is None else (shape[axis],)
    if block:
        grid = tuple(-(-n // block) if k == axis else n for k, n in enumerate(shape))
    inputs = [graph.constant(np.zeros(shape, dtype_of(name))), graph.constant(np.ones(grid, "f4"))]
    if zero:
        inputs.append(graph.constant(np.zeros(grid, dtype_of(name))))
    return graph.add(o.Dequantize(inputs=inputs, axis=axis, block=block), (shape, F32))


def test_which_axes_are_carried():
    graph = blank()
    one = dequantize(graph, (4, 6, 8), zero=True)
    assert [carried(one, 0, axis) for axis in range(3)] == [[(0, 0)], [(0, 1)], [(0, 2)]]
    row = dequantize(graph, (4, 6, 8), 1, zero=True)
    assert [carried(row, 0, axis) for axis in range(3)] == [
        [(0, 0)],
        [(0, 1), (1, 0), (2, 0)],
        [(0, 2)],
    ]
    block = dequantize(graph, (4, 6, 8), 1, 3)
    assert [carried(block, 0, axis) for axis in range(3)] == [
        [(0, 0), (1, 0)],
        None,
        [(0, 2), (1, 2)],
    ]
    dynamic = o.DynamicQuantize(inputs=[one.output])
    graph.add(dynamic, ((4, 6, 8), np.dtype(np.uint8)), ((), F32), ((), np.dtype(np.uint8)))
    assert carried(dynamic, 0, 0) is None


@pytest.mark.parametrize(
    ("name", "nbytes"), [("int8", 35), ("int4", 18), ("uint2", 9), ("float4_e2m1fn", 18)]
)
def test_sizes_count_packed_codes(name, nbytes):
    graph = blank()
    op = dequantize(graph, (5, 7), name=name)
    graph.outputs, graph.output_names = [op.output], ["y"]
    assert op.x.constant.nbytes == nbytes
    assert bits_of(op.x.dtype) * 35 / 8 <= nbytes
    cost = cost_of(op)
    assert (cost.flops, cost.parameter_bytes, cost.activation_bytes) == (35, nbytes + 4, 140)
    assert graph_cost(graph).total.parameter_bytes == nbytes + 4
    assert Size.of(graph).bytes == nbytes + 4


def test_operations_are_counted():
    graph = blank()
    assert cost_of(dequantize(graph, (5, 7), zero=True)).flops == 70
    x = dequantize(graph, (5, 7)).output
    quantize, _ = o.Quantize(inputs=[x, graph.constant(np.ones((), "f4"))]), None
    graph.add(quantize, ((5, 7), np.dtype(ml_dtypes.int4)))
    cost = cost_of(quantize)
    assert (cost.flops, cost.activation_bytes) == (70, 18)
