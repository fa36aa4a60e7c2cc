"""fold-constants: no expression of parameters alone survives, and what must not fold does not."""

from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

from passel.graph import ops
from passel.models import (
    ConvNet,
    ConvNetConfig,
    OptimalWeightedConv2d,
    ReparamMLP,
    convnet_inputs,
    make_conv,
    reparam_inputs,
)
from passel.models.convs import WS_DIALECTS
from passel.models.reparam import LAYER_KINDS
from passel.passes import Canonicalize, FoldAffine, FoldConstants, fold_constants

IMAGE = (torch.randn(2, 4, 7, 7, generator=torch.Generator().manual_seed(0)),)
X = (torch.randn(3, 8, generator=torch.Generator().manual_seed(1)),)


def parameter_only(graph):
    """Ops whose operands are all constants."""
    return [op for op in graph.ops if all(v is None or v.constant is not None for v in op.inputs)]


def folded(view, module, inputs, *more, **how):
    outcome = view.apply(module, inputs, FoldConstants(), *more, **how)
    assert parameter_only(outcome.graph) == []
    return outcome


@pytest.mark.parametrize("kind", LAYER_KINDS)
def test_reparametrised_layers(either_view, kind):
    outcome = folded(
        either_view, ReparamMLP(kind), reparam_inputs(batch=2), Canonicalize(), FoldAffine()
    )
    assert outcome.after == {"Linear": 2, "gelu": 1}


@pytest.mark.parametrize("dialect", [*WS_DIALECTS, "scaled"])
def test_weight_standardisation(either_view, dialect):
    kind, name = ("scaled_ws", "official") if dialect == "scaled" else ("ws", dialect)
    conv = make_conv(kind, 4, 6, 3, groups=2, bias=True, dialect=name)
    assert folded(either_view, conv, IMAGE).after == {"Conv": 1}


def test_dialects_of_weight_standardisation_differ(fx_view):
    """So that folding one for another would be seen."""
    found = []
    for dialect in WS_DIALECTS:
        torch.manual_seed(0)
        conv = make_conv("ws", 4, 6, 3, bias=True, dialect=dialect)
        with torch.no_grad():
            conv.weight.mul_(1e-2)
        outcome = folded(fx_view, conv, IMAGE, random=False)
        found.append(next(outcome.graph.walk(ops.Conv)).weight.array())
    peak = np.abs(found[0]).max()
    for one, other in pairwise(found):
        assert np.abs(one - other).max() > 1e-4 * peak


@pytest.mark.parametrize("groups", [1, 4])
def test_optimal_weighted_conv(view, groups):
    outcome = folded(view, OptimalWeightedConv2d(4, 8, 5, groups), IMAGE)
    assert outcome.after == {"Conv": 1}


@pytest.mark.parametrize("conv", ["ws", "scaled_ws"])
def test_standardised_conv_net_with_batch_norm(either_view, conv):
    config = ConvNetConfig(image_size=8, widths=(8,), conv=conv, dialect="timm", bias=True)
    outcome = folded(
        either_view, ConvNet(config), convnet_inputs(config), Canonicalize(), FoldAffine()
    )
    assert outcome.count("BatchNorm", "Affine", "mul", "div", "sub", "sqrt") == 0
    assert outcome.count("Reduce") <= 1  # the pooling


def orthogonal():
    return parametrizations.orthogonal(nn.Linear(8, 8))


PARAMETRISED = {
    "weight norm": lambda: parametrizations.weight_norm(nn.Linear(8, 6)),
    "weight norm of a conv": lambda: parametrizations.weight_norm(nn.Conv2d(4, 6, 3)),
    "spectral norm": lambda: parametrizations.spectral_norm(nn.Linear(8, 6)),
    "orthogonal": orthogonal,
}


@pytest.mark.parametrize("case", PARAMETRISED)
def test_parametrised_modules(fx_view, case):
    module = PARAMETRISED[case]()
    inputs = IMAGE if "conv" in case else X
    outcome = folded(fx_view, module, inputs, random=False)
    assert sum(outcome.after.values()) == 1


def test_weight_norm_in_onnx(view):
    module = nn.Sequential(parametrizations.weight_norm(nn.Linear(8, 6)), nn.ReLU())
    outcome = folded(view, module, X, Canonicalize(), random=False)
    assert outcome.after == {"Linear": 1, "relu": 1}


class StraightThrough(nn.Module):
    """Weights quantised in training, with the gradient trick left in."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 6)

    def forward(self, x):
        w = self.linear.weight
        rounded = torch.round(w * 8) / 8
        return F.linear(x, (rounded - w).detach() + w, self.linear.bias)


def test_straight_through_estimator(view):
    outcome = folded(view, StraightThrough(), X, Canonicalize())
    assert outcome.after == {"Linear": 1}
    weight = next(outcome.graph.walk(ops.Linear)).weight.array()
    np.testing.assert_allclose(weight * 8, np.round(weight * 8), atol=1e-12)


class Hyper(nn.Module):
    """A self-tuning layer with its hyperparameters frozen, and an op without operands."""

    def __init__(self):
        super().__init__()
        self.base, self.response = nn.Linear(8, 4), nn.Linear(8, 4)
        self.to_scale = nn.Linear(2, 8)
        self.register_buffer("hyper", torch.tensor([0.3, -1.0]))

    def forward(self, x):
        scale, shift = self.to_scale(self.hyper).chunk(2)
        weight = self.base.weight + scale[:, None] * self.response.weight
        mask = torch.cat((torch.ones(4, 6, dtype=x.dtype), torch.zeros(4, 2, dtype=x.dtype)), 1)
        return F.linear(x, weight * mask, self.base.bias + shift * self.response.bias)


def test_hyper_network_with_constant_operands(view):
    assert folded(view, Hyper(), X, Canonicalize()).after == {"Linear": 1}


def test_weights_are_computed_in_float64_and_rounded_once(fx_view):
    torch.manual_seed(0)
    module = ReparamMLP("compander").double()
    single = ReparamMLP("compander")
    single.load_state_dict({k: v.float() for k, v in module.state_dict().items()})
    inputs = reparam_inputs()
    outcome = fx_view.apply(single, inputs, FoldConstants(), dtype=torch.float32, random=False)
    layer = single.expand
    with torch.no_grad():
        wide = layer.amplitude.double() * torch.arctan(layer.weight.double() / layer.width.double())
    stored = next(outcome.graph.walk(ops.Linear)).weight.array()
    np.testing.assert_array_equal(stored, wide.float().numpy())


class Refused(nn.Module):
    def __init__(self, rule):
        super().__init__()
        self.w, self.big = nn.Parameter(torch.randn(8)), nn.Parameter(torch.randn(1, 512))
        self.rule = rule

    def forward(self, x):
        return self.rule(self, x)


REFUSED = {
    "the op is random or has an effect": lambda m, x: x + torch.rand_like(m.w) * 0,
    "the value is a graph output": lambda m, x: (x, m.w * 2),
    "the result is larger than what it is made from": lambda m, x: (
        x + m.big.expand(512, 512).contiguous().sum() + m.big.repeat(512, 1)[:3, :8]
    ),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_refuses(fx_view, reason):
    outcome = fx_view.apply(Refused(REFUSED[reason]), X, FoldConstants(), random=False)
    assert outcome.refused(reason), outcome.reasons


def test_a_weight_may_grow(view):
    class Tiled(nn.Module):
        def __init__(self):
            super().__init__()
            self.row = nn.Parameter(torch.randn(1, 8))

        def forward(self, x):
            return F.linear(x, torch.sigmoid(self.row.repeat(3000, 1)))

    assert folded(view, Tiled(), X, Canonicalize()).after == {"Linear": 1}


QUANTIZED = """
    <ir_version: 10, opset_import: ["" : 21]>
    agraph (float[2,4] x) => (float[2,3] y)
    <int8[4,3] q = {1,2,3,4,5,6,7,8,9,10,11,12}, float s = {0.5}, int8 z = {1}, float b = {2.0}>
    {
        scale = Mul(s, b)
        w = DequantizeLinear(q, scale, z)
        y = MatMul(x, w)
    }"""


def test_a_quantized_weight_stays_packed(onnx_text, run_on):
    graph, run = onnx_text(QUANTIZED, np.ones((2, 4), np.float32))
    outcome = run_on(graph, run, FoldConstants())
    assert outcome.refused("the op unpacks a quantized weight")
    assert outcome.after == {"Dequantize": 1, "MatMul": 1}
    assert outcome.error == 0


UNKNOWN = """
    <ir_version: 9, opset_import: ["" : 18, "elsewhere" : 1]>
    agraph (float[2] x) => (float[2] y)
    <float[2] w = {1.0, 2.0}>
    { v = elsewhere.Thing(w) y = Add(x, v) }"""


def test_an_op_that_nothing_here_can_run(onnx_text):
    from passel.passes.driver import run_pass

    graph, _ = onnx_text(UNKNOWN)
    report = run_pass(graph, FoldConstants())
    assert report.reasons == {"the op cannot be evaluated": 1}
    assert report.ops_after == report.ops_before


def test_a_shared_operand_frees_nothing(fx_view, monkeypatch):
    """A transposed copy of a tied table would double it."""
    monkeypatch.setattr(fold_constants, "SLACK_BYTES", 64)

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(10, 8)

        def forward(self, ids):
            return torch.tanh(self.table(ids)) + self.table.weight.flip(0)[:3]

    outcome = fx_view.apply(Tied(), (torch.tensor([1, 2, 3]),), FoldConstants(), random=False)
    assert outcome.refused("the result is larger than what it is made from")


def test_a_tied_table_is_not_doubled(view):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(1000, 16)

        def forward(self, ids):
            return torch.tanh(self.table(ids)) @ self.table.weight.T

    inputs = (torch.tensor([1, 2, 3]),)
    outcome = view.apply(Tied(), inputs, FoldConstants(), Canonicalize(), random=False)
    assert outcome.refused("a product can read the shared weight as it is")
    assert outcome.after == {"Gather": 1, "tanh": 1, "Linear": 1}
    assert len(outcome.graph.constants()) == 1


def test_every_reason_is_tested():
    import ast
    import inspect

    tree = ast.parse(inspect.getsource(fold_constants))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    found = {c.args[0].value for c in calls if getattr(c.func, "id", "") == "Refusal"}
    more = {
        "the op unpacks a quantized weight",
        "the op cannot be evaluated",
        "a product can read the shared weight as it is",
    }
    assert found == {*REFUSED, *more}
