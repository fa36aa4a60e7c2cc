"""canonicalize: every spelling that a rule knows, in both views, and near misses it must leave."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from passel.graph import ops
from passel.passes import Canonicalize, FoldConstants

X = (torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0)),)


class Call(nn.Module):
    """A function of the input as a module, with a few parameters."""

    def __init__(self, rule):
        super().__init__()
        self.w, self.b = nn.Parameter(torch.randn(8, 6)), nn.Parameter(torch.randn(6))
        self.square = nn.Parameter(torch.randn(8, 8))
        self.rule = rule

    def forward(self, x):
        return self.rule(self, x)


def run(view, rule, *more, inputs=X, **how):
    return view.apply(Call(rule), inputs, Canonicalize(), *more, random=False, **how)


def mean(x, **how):
    return x.mean(-1, keepdim=True, **how)


LAYER = {
    "pow, sqrt, div": lambda m, x: (x - mean(x)) / (mean((x - mean(x)).pow(2)) + 1e-5).sqrt(),
    "product, rsqrt, mul": lambda m, x: (c := x - mean(x)) * torch.rsqrt(mean(c * c) + 1e-5),
    "rsqrt on the left": lambda m, x: torch.rsqrt(mean((c := x - mean(x)) * c) + 1e-5) * c,
    "reciprocal of the root": lambda m, x: (
        (c := x - mean(x)) * torch.reciprocal((mean(c**2) + 1e-5).sqrt())
    ),
    "one over the root": lambda m, x: (c := x - mean(x)) * (1 / (1e-5 + mean(c**2)).sqrt()),
    "power of minus a half": lambda m, x: (c := x - mean(x)) * (mean(c**2) + 1e-5) ** -0.5,
    "variance": lambda m, x: (x - mean(x)) / (x.var(-1, keepdim=True, correction=0) + 1e-5).sqrt(),
    "two axes": lambda m, x: (
        (c := x - x.mean((1, 2), keepdim=True))
        / (c.pow(2).mean((2, 1), keepdim=True) + 1e-5).sqrt()
    ),
}
RMS = {
    "pow, rsqrt": lambda m, x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6),
    "product, sqrt, div": lambda m, x: x / torch.sqrt(mean(x * x) + 1e-6),
    "square()": lambda m, x: torch.rsqrt(mean(x.square()) + 1e-6) * x,
}
ACTIVATIONS = {
    "gelu": (lambda m, x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))), "gelu"),
    "gelu, halves late": (lambda m, x: x * (torch.erf(x * 0.5**0.5) + 1) * 0.5, "gelu"),
    "gelu, halves in the gate": (lambda m, x: x * (0.5 * (1 + torch.erf(x / 2**0.5))), "gelu"),
    "gelu of a sum": (lambda m, x: (y := x + 1) * 0.5 * (1.0 + torch.erf(y / 2**0.5)), "gelu"),
    "gelu of a product": (
        lambda m, x: (y := x * torch.cos(x)) * 0.5 * (1.0 + torch.erf(y / 2**0.5)),
        "gelu",
    ),
    "tanh gelu": (
        lambda m, x: 0.5 * x * (1 + torch.tanh((2 / math.pi) ** 0.5 * (x + 0.044715 * x**3))),
        "gelu_tanh",
    ),
    "tanh gelu, cube as product": (
        lambda m, x: x * (1 + torch.tanh(0.7978845608 * (0.044715 * x * x * x + x))) / 2,
        "gelu_tanh",
    ),
    "silu": (lambda m, x: x * torch.sigmoid(x), "silu"),
    "silu, gate first": (lambda m, x: torch.sigmoid(x) * x, "silu"),
    "silu of a product": (lambda m, x: (y := x * 0.5) * torch.sigmoid(y), "silu"),
}
LINEAR = {
    "matmul": lambda m, x: x @ m.w,
    "matmul and bias": lambda m, x: x @ m.w + m.b,
    "bias first": lambda m, x: m.b + torch.matmul(x, m.w),
    "transposed": lambda m, x: x @ m.square.T + m.square[0],
    "transposed linear": lambda m, x: F.linear(x, m.w.t(), m.b),
    "linear": lambda m, x: F.linear(x, m.square, m.square[1]),
}
MOVES = {
    "transposes that cancel": lambda m, x: torch.exp(x.permute(2, 0, 1).permute(1, 2, 0)),
    "reshape back": lambda m, x: torch.exp(x.reshape(10, 8).reshape(2, 5, 8)),
    "unsqueeze and squeeze": lambda m, x: torch.exp(x.unsqueeze(1).squeeze(1)),
    "flatten and unflatten": lambda m, x: torch.exp(x.flatten(1).unflatten(1, (5, 8))),
    "times one": lambda m, x: torch.exp((x * 1.0 / 1.0) + 0.0 - 0.0),
    "dropout and contiguous": lambda m, x: torch.exp(F.dropout(x, 0.5, False).contiguous()),
    "the same type": lambda m, x: torch.exp(x.double()),
    "whole slice": lambda m, x: torch.exp(x[:, 0:, :100]),
    "expand to the same": lambda m, x: torch.exp(x.expand(2, 5, 8)),
    "concat of one": lambda m, x: torch.exp(torch.cat([x], 1)),
}


@pytest.mark.parametrize("case", LAYER)
def test_layer_norm(either_view, case):
    outcome = run(either_view, LAYER[case], FoldConstants(), Canonicalize())
    assert outcome.after == {"LayerNorm": 1}
    norm = next(outcome.graph.walk(ops.Norm))
    assert norm.eps == pytest.approx(1e-5)
    assert norm.ndim == (2 if case == "two axes" else 1)


@pytest.mark.parametrize("case", RMS)
def test_rms_norm(view, case):
    assert run(view, RMS[case]).after == {"RMSNorm": 1}


@pytest.mark.parametrize("case", ACTIVATIONS)
def test_activation(either_view, case):
    rule, fn = ACTIVATIONS[case]
    # torch.onnx writes √2 and √(2/π) as float32 numbers, whatever the tensors are.
    outcome = run(either_view, rule, bound=1e-7 if either_view.name == "onnx" else None)
    assert outcome.count(fn) == 1
    assert outcome.count("erf", "tanh", "sigmoid", "pow") == 0
    assert sum(outcome.after.values()) <= 3


@pytest.mark.parametrize("case", LINEAR)
def test_linear(view, case):
    assert run(view, LINEAR[case], FoldConstants(), Canonicalize()).after == {"Linear": 1}


@pytest.mark.parametrize("case", MOVES)
def test_moves(either_view, case):
    assert run(either_view, MOVES[case]).after == {"exp": 1}


def test_moves_that_merge(view):
    outcome = run(view, lambda m, x: torch.exp(x.transpose(1, 2).permute(2, 1, 0)))
    assert outcome.count("Transpose") == 1
    outcome = run(view, lambda m, x: torch.exp(x.reshape(5, 16).unsqueeze(0).reshape(16, 5)))
    assert outcome.count("Reshape", "Unsqueeze") == 1
    outcome = run(view, lambda m, x: torch.exp(x[:, :1].transpose(0, 1)))
    assert outcome.count("Transpose") == 0


def test_moves_with_a_dynamic_batch(view):
    def rule(m, x):
        return torch.exp(
            x.permute(0, 2, 1).unsqueeze(-1).reshape(x.shape[0], 8, 5).permute(0, 2, 1)
        )

    outcome = run(view, rule, dynamic_shapes=({0: "batch"},))
    assert {kind for kind in outcome.after if kind != "ShapeOf"} == {"exp"}


def test_llama_norms(view):
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=32,
        vocab_size=20,
    )

    class Tensors(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = transformers.LlamaModel(config)

        def forward(self, ids):
            return self.model(input_ids=ids, use_cache=False).last_hidden_state

    inputs = (torch.tensor([[3, 4, 5, 6]]),)
    outcome = view.apply(Tensors(), inputs, Canonicalize(), dtype=torch.float32)
    assert outcome.count("RMSNorm") == 3
    assert outcome.count("silu") == 1


NEAR = {
    "unbiased variance": (
        lambda m, x: (x - mean(x)) / (x.var(-1, keepdim=True) + 1e-5).sqrt(),
        "LayerNorm",
    ),
    "another axis": (
        lambda m, x: (
            (c := x - x.mean(1, keepdim=True)) / (c.pow(2).mean(1, keepdim=True) + 1e-5).sqrt()
        ),
        "LayerNorm",
    ),
    "mean over another axis": (
        lambda m, x: (c := x - x.mean(1, keepdim=True)) / (mean(c.pow(2)) + 1e-5).sqrt(),
        "LayerNorm",
    ),
    "variance of something else": (
        lambda m, x: (x - mean(x)) / (mean((x + 1).pow(2)) + 1e-5).sqrt(),
        "LayerNorm",
    ),
    "uncentred second moment": (
        lambda m, x: (x - mean(x)) / (mean(x.pow(2)) + 1e-5).sqrt(),
        "LayerNorm",
    ),
    "no epsilon": (lambda m, x: (c := x - mean(x)) / mean(c.pow(2)).sqrt(), "LayerNorm"),
    "negative epsilon": (lambda m, x: x / (mean(x.pow(2)) - 1e-5).sqrt(), "RMSNorm"),
    "epsilon per feature": (
        lambda m, x: x / (mean(x.pow(2)) + m.square[0].abs()).sqrt(),
        "RMSNorm",
    ),
    "epsilon outside the root": (lambda m, x: x / (mean(x.pow(2)).sqrt() + 1e-5), "RMSNorm"),
    "sum, not mean": (
        lambda m, x: x / (x.pow(2).sum(-1, keepdim=True) + 1e-5).sqrt(),
        "RMSNorm",
    ),
    "cube": (lambda m, x: x / (mean(x.pow(3)) + 9.0).sqrt(), "RMSNorm"),
    "another numerator": (lambda m, x: (x + 1) / (mean(x.pow(2)) + 1e-5).sqrt(), "RMSNorm"),
    "gelu by another root": (lambda m, x: 0.5 * x * (1 + torch.erf(x / 1.5)), "gelu"),
    "gelu without its half": (lambda m, x: x * (1 + torch.erf(x / 2**0.5)), "gelu"),
    "gelu minus one": (lambda m, x: 0.5 * x * (torch.erf(x / 2**0.5) - 1), "gelu"),
    "gelu of something else": (
        lambda m, x: 0.5 * (x + 1) * (1 + torch.erf(x / 2**0.5)),
        "gelu",
    ),
    "tanh gelu by another coefficient": (
        lambda m, x: 0.5 * x * (1 + torch.tanh((2 / math.pi) ** 0.5 * (x + 0.0447 * x**3))),
        "gelu_tanh",
    ),
    "tanh gelu of a square": (
        lambda m, x: 0.5 * x * (1 + torch.tanh((2 / math.pi) ** 0.5 * (x + 0.044715 * x**2))),
        "gelu_tanh",
    ),
    "sigmoid of something else": (lambda m, x: x * torch.sigmoid(1.702 * x), "silu"),
    "silu twice": (lambda m, x: 2 * x * torch.sigmoid(x + 0.1), "silu"),
    "product of two values": (lambda m, x: x @ x.mT, "Linear"),
    "batch of weights": (lambda m, x: x @ m.square.expand(2, 8, 8).exp(), "Linear"),
    "bias per token": (lambda m, x: (x @ m.w) + m.b[:5, None], "nothing"),
}


@pytest.mark.parametrize("case", NEAR)
def test_near_misses(either_view, case):
    rule, kind = NEAR[case]
    assert run(either_view, rule).count(kind) == 0


KEPT = {
    "identity": lambda m, x: x.contiguous(),
    "times one": lambda m, x: x * 1.0,
    "transposes that cancel": lambda m, x: x.mT.mT,
    "reshape back": lambda m, x: x.reshape(10, 8).reshape(2, 5, 8),
    "two outputs": lambda m, x: ((y := torch.exp(x)), y * 1.0, y.mT.mT),
}


@pytest.mark.parametrize("case", KEPT)
def test_an_output_never_becomes_an_input_or_another_output(either_view, case):
    graph = run(either_view, KEPT[case]).graph
    assert len(set(graph.outputs)) == len(graph.outputs)
    exported, _ = either_view.lift(Call(KEPT[case]).double(), [X[0].double()])
    if not set(exported.outputs) & set(exported.inputs):  # unless the exporter did so itself
        assert not set(graph.outputs) & set(graph.inputs)


def test_what_something_else_reads_is_kept(view):
    outcome = run(view, lambda m, x: ((c := x - mean(x)) / (mean(c**2) + 1e-5).sqrt(), c.exp()))
    assert outcome.after == {"LayerNorm": 1, "Reduce": 1, "sub": 1, "exp": 1}


def test_a_bias_is_not_attached_when_the_product_has_another_reader(view):
    outcome = run(view, lambda m, x: ((y := x @ m.w) + m.b, y.exp()))
    assert next(outcome.graph.walk(ops.Linear)).bias is None


PINNED = """
    <ir_version: 9, opset_import: ["" : 18]>
    agraph (double[2,3] x, bool c) => (double[2,3] y)
    {
        s = Sigmoid(x)
        v = Mul(x, s)
        y = If (c) <
            then_branch = g1 () => (double[2,3] t) { t = Identity(v) },
            else_branch = g2 () => (double[2,3] e) { e = Neg(v) }
        >
    }"""


def test_refuses_what_a_control_flow_body_reads(onnx_text, run_on):
    graph, evaluate = onnx_text(PINNED, np.ones((2, 3)), np.array(False))
    outcome = run_on(graph, evaluate, Canonicalize())
    assert outcome.refused("a control-flow body reads the value")
    assert outcome.after == outcome.before
    assert outcome.error == 0


@pytest.mark.parametrize("case", ["decomposed layer norm", "tanh gelu", "linear"])
def test_golden(fx_view, golden, case):
    rule = {
        "decomposed layer norm": LAYER["pow, sqrt, div"],
        "tanh gelu": ACTIVATIONS["tanh gelu"][0],
        "linear": LINEAR["matmul and bias"],
    }[case]
    graph, _ = fx_view.lift(Call(rule), X)
    name = f"canonicalize/{case.replace(' ', '_')}"
    golden(f"{name}.before", graph)
    golden(f"{name}.after", run(fx_view, rule, dtype=torch.float32).graph)


def through_a_matrix(m, x, rows=(10,), back=(2, 5), bias=True):
    return F.linear(x.reshape(*rows, 8), m.w.t(), m.b if bias else None).reshape(*back, 6)


BETWEEN = {
    "with a bias": through_a_matrix,
    "without a bias": lambda m, x: through_a_matrix(m, x, bias=False),
    "a product": lambda m, x: (x.reshape(10, 8) @ m.w).reshape(2, 5, 6),
    "a count left open": lambda m, x: through_a_matrix(m, x, (-1,), (x.shape[0], -1)),
    "three axes between": lambda m, x: through_a_matrix(m, x, (5, 2)),
}


@pytest.mark.parametrize("case", BETWEEN)
def test_a_linear_between_reshapes_keeps_the_axes_apart(view, case):
    outcome = run(view, BETWEEN[case], FoldConstants(), Canonicalize())
    (linear,) = outcome.graph.walk(ops.Linear)
    assert linear.x is outcome.graph.inputs[0]
    assert outcome.after == {"Linear": 1}


@pytest.mark.parametrize("axis", [0, 1])
def test_a_linear_between_reshapes_of_a_dynamic_extent(view, axis):
    def rule(m, x):
        return F.linear(x.reshape(-1, 8), m.square, m.square[0]).reshape(x.shape) + x

    shapes = {"dynamic_shapes": {"x": {axis: "extent"}}}
    outcome = run(view, rule, FoldConstants(), Canonicalize(), **shapes)
    (linear,) = outcome.graph.walk(ops.Linear)
    assert linear.x is outcome.graph.inputs[0]
    assert isinstance(linear.output.shape[axis], str)
    assert not outcome.count("Reshape")
    larger = torch.cat([*X, *X], axis).numpy().astype(np.float64)
    expected = larger + larger @ (square := linear.weight.array().T) + linear.bias.array()
    assert square.shape == (8, 8)
    np.testing.assert_allclose(outcome.graph.run([larger])[0], expected, atol=1e-11)


APART = {
    "read between": lambda m, x: (
        (y := F.linear(x.reshape(10, 8), m.square)).reshape(2, 5, 8) + y.exp().sum()
    ),
    "another shape after": lambda m, x: through_a_matrix(m, x, back=(5, 2)),
    "features split before": lambda m, x: F.linear(x.reshape(20, 4), m.w[:4].t()).reshape(2, 5, 12),
    "features split after": lambda m, x: F.linear(x.reshape(10, 8), m.w.t()).reshape(2, 5, 2, 3),
    "rows moved before": lambda m, x: F.linear(x.mT.reshape(10, 8), m.w.t()).reshape(2, 5, 6),
}


@pytest.mark.parametrize("case", APART)
def test_a_linear_between_other_reshapes_is_left(view, case):
    outcome = run(view, APART[case], FoldConstants(), Canonicalize())
    (linear,) = outcome.graph.walk(ops.Linear)
    assert isinstance(linear.x.producer, ops.Reshape)
