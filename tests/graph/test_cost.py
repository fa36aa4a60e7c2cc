"""Operations and bytes: exact on both views, symbolic extents, and what cannot be counted."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from passel.graph import Graph, Op, Value
from passel.graph.cost import Cost, cost_of, graph_cost
from passel.graph.cost_extents import Extents
from passel.graph.ops import Elementwise, Linear, MatMul, Norm, Opaque, Reshape, TopK, Transpose
from passel.models import VIT_S16, ViT, vit_inputs
from passel.passes import Canonicalize
from passel.passes.driver import run_pass

F32 = np.dtype(np.float32)


def total(view, module, *inputs, **how):
    graph, _ = view.lift(module, inputs, **how)
    return graph_cost(graph).total


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


def test_linear(view):
    flops = 2 * 3 * 5 * 8 * 6
    x = torch.zeros(3, 5, 8)
    assert total(view, nn.Linear(8, 6, bias=False), x) == Cost(flops, 4 * 48, 4 * 3 * 5 * 6)
    biased = total(view, nn.Linear(8, 6), x)
    assert biased.flops == flops + 3 * 5 * 6
    assert biased.parameter_bytes == 4 * (48 + 6)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("bias", [False, True])
def test_conv(view, groups, bias):
    conv = nn.Conv2d(4, 6, (3, 2), stride=2, groups=groups, bias=bias)
    taps, places = 4 // groups * 3 * 2, 2 * 6 * 4 * 5
    cost = total(view, conv, torch.zeros(2, 4, 9, 10))
    assert cost.flops == 2 * places * taps + bias * places
    assert cost.activation_bytes == 4 * places


@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_conv(view, groups):
    conv = nn.ConvTranspose1d(4, 6, 3, stride=2, groups=groups)
    cost = total(view, conv, torch.zeros(2, 4, 5))
    assert cost.flops == 2 * (2 * 4 * 5) * (6 // groups * 3) + 2 * 6 * 11


def test_matmul_with_broadcasting(view):
    cost = total(view, Function(torch.matmul), torch.zeros(7, 1, 3, 4), torch.zeros(2, 4, 5))
    assert cost == Cost(2 * 7 * 2 * 3 * 5 * 4, 0, 4 * 7 * 2 * 3 * 5)


def attended(q, k, v, mask=None):
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def spelled(q, k, v, mask=None):
    scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
    return torch.softmax(scores if mask is None else scores + mask, -1) @ v


Q, K, V = torch.zeros(2, 3, 5, 4), torch.zeros(2, 3, 7, 4), torch.zeros(2, 3, 7, 6)
SCORES = 2 * 3 * 5 * 7


@pytest.mark.parametrize("masked", [False, True])
def test_attention_costs_what_it_costs_spelled_out(view, masked):
    inputs = (Q, K, V, *([torch.zeros(5, 7)] if masked else []))
    expected = 2 * SCORES * (4 + 6) + (6 + masked) * SCORES
    for function in (attended, spelled):
        assert total(view, Function(function), *inputs, opset=23).flops == expected


def test_a_causal_mask_counts_as_a_mask(view):
    def causal(q, k, v):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    cost = total(view, Function(causal), Q, K, V, opset=23)
    assert cost.flops == 2 * SCORES * (4 + 6) + 7 * SCORES


@pytest.mark.parametrize(
    ("module", "each"),
    [
        (nn.LayerNorm(8), 7),
        (nn.Softmax(-1), 5),
        (nn.GELU(), 5),
        (nn.GELU(approximate="tanh"), 8),
        (nn.SiLU(), 2),
        (nn.ReLU(), 1),
        (Function(lambda x: x.mean(-1)), 1),
        (Function(lambda x: x.transpose(0, 1)), 0),
        (Function(lambda x: x > 1), 1),
    ],
    ids=str,
)
def test_each_element(view, module, each):
    graph, _ = view.lift(module, [torch.zeros(3, 8)])
    run_pass(graph, Canonicalize())
    assert graph_cost(graph).total.flops == each * 24


@pytest.mark.parametrize(("norm", "each"), [("layer", 5), ("rms", 3), ("crms", 4)])
def test_norms_count_their_gains(norm, each):
    x, g = Value("x", (3, 8), F32), Value("g", (8,), F32)
    for gains in ([], [g], [g, g]):
        op = Norm(inputs=[x, *gains], outputs=[Value("y", (3, 8), F32)], norm=norm)
        assert cost_of(op).flops == (each + len(gains)) * 24


def test_movement_costs_bytes_only_where_it_writes():
    x = Value("x", (3, 8), F32)
    for kind, attributes, written in (
        (Transpose, {"perm": (1, 0)}, 4 * 24),
        (Reshape, {"dims": (8, 3)}, 0),
    ):
        out = Value("y", (8, 3), F32)
        op = kind(inputs=[x], outputs=[out], **attributes)
        assert cost_of(op) == Cost(0, 0, written)


def test_integers_are_no_floating_point():
    n = Value("n", (9,), np.dtype(np.int64))
    op = Elementwise(inputs=[n, n], outputs=[Value("m", (9,), n.dtype)], fn="add")
    assert cost_of(op) == Cost(0, 0, 72)


def test_a_shared_weight_is_read_once_in_all(view):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.f = nn.Linear(8, 8, bias=False)

        def forward(self, x):
            return self.f(torch.relu(self.f(x)))

    graph, _ = view.lift(Tied(), [torch.zeros(2, 8)])
    cost = graph_cost(graph)
    assert cost.total.parameter_bytes in (4 * 64, 4 * 64 + 8)
    assert sum(one.parameter_bytes for one in cost.ops.values()) >= 2 * 4 * 64
    assert next(iter(cost.kinds)) in ("Linear", "MatMul")


@pytest.mark.parametrize("opset", [20, 23])
def test_vit_s16_has_the_flops_of_the_textbook(view, opset):
    """4.6 GMACs at depth 12 (timm's table): each block 12·N·d² + 2·N²·d, and both ends."""
    depth, n, d = 2, 197, 384
    config = type(VIT_S16)(depth=depth)
    macs = depth * (12 * n * d * d + 2 * n * n * d) + 196 * 768 * d + d * 1000
    cost = total(view, ViT(config), *vit_inputs(config), opset=opset)
    assert cost.flops == pytest.approx(2 * macs, rel=0.02)
    whole = macs + 10 * (12 * n * d * d + 2 * n * n * d)
    assert whole == pytest.approx(4.61e9, rel=0.01)


def test_symbolic_extents(view):
    how = {"dynamic_shapes": {"input": {0: "batch"}}}
    graph, _ = view.lift(nn.Linear(8, 6), [torch.zeros(3, 8)], **how)
    cost = graph_cost(graph)
    assert cost.total.flops == 2 * 48 + 6
    (name,) = cost.symbols
    many = graph_cost(graph, {name: 10})
    assert many.symbols == ()
    assert many.total.flops == 10 * cost.total.flops
    assert many.total.parameter_bytes == cost.total.parameter_bytes
    (op,) = (op for op in graph.ops if isinstance(op, Linear | MatMul))
    assert cost_of(op, {name: 10}) == many.ops[op]


@pytest.mark.parametrize(
    ("text", "number", "free"),
    [
        ("b", 1, ["b"]),
        ("n*17", 51, []),
        ("n//2 + 1", 2, []),
        ("n*b", 3, ["b"]),
        ("b - 5", 1, ["b"]),
        ("?", 1, ["?"]),
        ("max(n, 2)", 1, ["max(n, 2)"]),
        ("9**9**9", 1, ["9**9**9"]),
        ("n//(n - 3)", 1, ["n//(n - 3)"]),
        ("(" * 150 + "n", 1, ["(" * 150 + "n"]),
        ("n+" * 200 + "n", 1, ["n+" * 200 + "n"]),
    ],
)
def test_expressions(text, number, free):
    extents = Extents({"n": 3})
    assert extents(text) == number
    assert list(extents.free) == free


def reshaped(*shapes):
    """A graph of a transpose, reshapes, and a transpose."""
    graph = Graph(binding=None)
    x = Value("x", shapes[0], F32)
    graph.inputs.append(x)
    for shape in shapes[1:]:
        x = graph.add(Reshape(inputs=[x]), (shape, F32)).output
    op = graph.add(Transpose(inputs=[x], perm=()), (x.shape, F32))
    graph.outputs = [op.output]
    return graph


def test_a_name_that_a_reshape_invents_is_what_it_must_be():
    graph = reshaped(("b", 4, 5), ("unk__0", 5))
    assert graph_cost(graph).symbols == ("b",)
    assert graph_cost(graph, {"b": 3}).total.activation_bytes == 4 * 60
    assert graph_cost(reshaped((6, 4), ("m", "m"))).symbols == ("m",)


def test_what_is_not_counted_is_listed():
    graph = Graph(binding=None)
    x = Value("x", (3, 8), F32)
    graph.inputs.append(x)
    graph.add(Opaque(inputs=[x], target="FFT"), ((3, 8), F32))
    graph.add(Opaque(inputs=[x], target="assert", impure=True))
    graph.add(Elementwise(inputs=[x], fn="relu"), (None, F32))
    graph.add(TopK(inputs=[x], k=2), ((3, 2), F32), ((3, 2), np.dtype(np.int64)))
    cost = graph_cost(graph)
    assert cost.unknown == {"FFT": 1, "relu": 1}
    assert cost.total == Cost(0, 0, 4 * 24 + 3 * 2 * (4 + 8))


def test_an_op_of_a_later_vocabulary_costs_its_result():
    class Later(Op):
        pass

    op = Later(inputs=[Value("x", (3,), F32)], outputs=[Value("y", (3,), F32)])
    assert cost_of(op) == Cost(0, 0, 12)
    assert cost_of(op) + cost_of(op) == Cost(0, 0, 24)
