"""equalize: the function stays what it was, on both views, and each way to refuse."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from passel.graph.ops import Affine, Linear
from passel.passes import Canonicalize, FoldConstants
from passel.passes.base import Refusal
from passel.passes.driver import run_pass
from passel.passes.quantization.equalize.apply import equalize
from passel.passes.report import count_ops

TOKENS = (torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0)),)
BOUND = 1e-12


class NormThenLinears(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.norm = norm
        self.readers = nn.ModuleList(nn.Linear(8, 3 + k, bias=k > 0) for k in range(3))

    def forward(self, x):
        y = self.norm(x)
        return tuple(reader(y) for reader in self.readers)


class Between(nn.Module):
    """Two Linears with something between them."""

    def __init__(self, layer, bias=True):
        super().__init__()
        self.first, self.layer = nn.Linear(8, 6, bias=bias), layer
        self.last = nn.Linear(6, 4)

    def forward(self, x):
        return self.last(self.layer(self.first(x)))


class SwiGLU(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(8, 12), nn.Linear(8, 12), nn.Linear(12, 8)

    def forward(self, x):
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Attention(nn.Module):
    """Heads of width 4; fewer of keys and values where `groups` says so."""

    def __init__(self, heads=2, groups=2, fused=False, explicit=False):
        super().__init__()
        self.heads, self.groups, self.explicit = heads, groups, explicit
        self.sizes = [4 * heads, 4 * groups, 4 * groups]
        self.fused = nn.Linear(8, sum(self.sizes)) if fused else None
        self.parts = nn.ModuleList(nn.Linear(8, size) for size in self.sizes)
        self.last = nn.Linear(4 * heads, 8)

    def forward(self, x):
        b, n, _ = x.shape
        if self.fused is not None:
            parts = self.fused(x).split(self.sizes, dim=-1)
        else:
            parts = [part(x) for part in self.parts]
        q, k, v = (part.view(b, n, -1, 4).transpose(1, 2) for part in parts)
        if self.groups < self.heads:
            k, v = (self._repeated(part, b, n) for part in (k, v))
        if self.explicit:
            y = (q @ k.transpose(-2, -1) / 2).softmax(-1) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.last(y.transpose(1, 2).reshape(b, n, 4 * self.heads))

    def _repeated(self, part, b, n):
        wide = part[:, :, None].expand(b, self.groups, self.heads // self.groups, n, 4)
        return wide.reshape(b, self.heads, n, 4)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.last = nn.LayerNorm(8), nn.Linear(8, 8)

    def forward(self, x):
        y = self.norm(x)
        return y + self.last(y)


class Returned(Residual):
    def forward(self, x):
        y = self.norm(x)
        return y, self.last(y)


class Twice(nn.Module):
    """A producer that something besides the value's readers needs."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x):
        y = self.first(x)
        return self.last(y.relu()), y.sin()


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.last = nn.LayerNorm(8), nn.Linear(8, 8)

    def forward(self, x):
        return self.last(self.last(self.norm(x)).sin())


def opened(view, module, inputs=TOKENS, **how):
    """A graph in float64 as the standard passes leave it, what runs it, and its last Linear."""
    for index, parameter in enumerate(module.parameters()):
        generator = torch.Generator().manual_seed(index)
        nn.init.normal_(parameter, 0.3, 0.7, generator=generator)
    typed = [x.double() if x.is_floating_point() else x for x in inputs]
    graph, run = view.lift(module.double(), typed, **how)
    for one in (Canonicalize(), FoldConstants(), Canonicalize()):
        run_pass(graph, one)
    return graph, run, list(graph.walk(Linear))[-1]


def scales(width, seed=0):
    return np.exp(np.random.default_rng(seed).standard_normal(width))


def weight_of(linear):
    """[O, I], in either view."""
    array = np.array(linear.weight.array())
    return array if linear.layout == "oi" else array.T


def check(view, module, inputs=TOKENS, *, insert=False, **how):
    """Equalize what the last Linear reads; return the graph, its op counts before and its value."""
    graph, run, last = opened(view, module, inputs, **how)
    value, before, expected, weight = last.x, count_ops(graph), run(), weight_of(last)
    scale = scales(value.shape[-1])
    plan = equalize(graph, value, scale, insert=insert)
    assert not isinstance(plan, Refusal), plan
    for one, other in zip(expected, run(), strict=True):
        np.testing.assert_array_equal(one, other)  # a plan changes nothing
    for edit in plan:
        edit.apply(graph)
    np.testing.assert_allclose(weight_of(last), weight * scale, rtol=1e-15)
    for one, other in zip(expected, run(), strict=True):
        assert np.abs(one - other).max() <= BOUND * np.abs(one).max()
    return graph, before


def refused(view, module, inputs=TOKENS, *, insert=False, **how):
    """The refusal to equalize what the last Linear reads."""
    graph, run, last = opened(view, module, inputs, **how)
    before, expected = count_ops(graph), run()
    plan = equalize(graph, last.x, scales(last.x.shape[-1]), insert=insert)
    assert isinstance(plan, Refusal)
    assert count_ops(graph) == before
    np.testing.assert_array_equal(expected[0], run()[0])
    return plan


def test_norm_to_linears(view):
    graph, before = check(view, NormThenLinears(nn.LayerNorm(8)))
    assert count_ops(graph) == before


@pytest.mark.parametrize(
    "norm", [nn.LayerNorm(8, elementwise_affine=False), nn.LayerNorm(8, bias=False), nn.RMSNorm(8)]
)
def test_norms_without_a_gain_or_a_shift(either_view, norm):
    graph, before = check(either_view, NormThenLinears(norm), opset=23)
    assert count_ops(graph) == before


def test_linear_to_linear_through_relu(view):
    graph, before = check(view, Between(nn.ReLU()))
    assert count_ops(graph) == before


def test_linear_without_a_bias(either_view):
    graph, before = check(either_view, Between(nn.ReLU(), bias=False))
    assert count_ops(graph) == before


def test_up_times_gate_to_down(view):
    graph, before = check(view, SwiGLU())
    assert count_ops(graph) == before


def test_values_to_projection_through_attention(view):
    graph, before = check(view, Attention(), opset=23)
    assert count_ops(graph) == before


@pytest.mark.parametrize(("fused", "explicit"), [(True, False), (True, True), (False, True)])
def test_fused_and_explicit_attention(either_view, fused, explicit):
    graph, before = check(either_view, Attention(fused=fused, explicit=explicit))
    assert count_ops(graph) == before


def test_every_reader_is_scaled(fx_view):
    graph, _, last = opened(fx_view, NormThenLinears(nn.LayerNorm(8)))
    readers, scale = list(graph.walk(Linear)), scales(8)
    before = [weight_of(linear) for linear in readers]
    for edit in equalize(graph, last.x, scale):
        edit.apply(graph)
    for linear, weight in zip(readers, before, strict=True):
        np.testing.assert_allclose(weight_of(linear), weight * scale, rtol=1e-15)


def test_the_value_itself_is_divided(fx_view):
    def value_of(graph, last, run):
        graph.outputs = [last.x]
        return run()[0]

    plain, run_plain, last_plain = opened(fx_view, Between(nn.ReLU()))
    graph, run, last = opened(fx_view, Between(nn.ReLU()))
    scale = scales(6)
    for edit in equalize(graph, last.x, scale):
        edit.apply(graph)
    expected = value_of(plain, last_plain, run_plain) / scale
    np.testing.assert_allclose(value_of(graph, last, run), expected, rtol=1e-12)


def test_powers_of_two_change_no_bit(either_view):
    graph, run, last = opened(either_view, Between(nn.ReLU()))
    expected, scale = run()[0], np.exp2(np.arange(-3.0, 3.0))
    for edit in equalize(graph, last.x, scale):
        edit.apply(graph)
    np.testing.assert_array_equal(run()[0], expected)


@pytest.mark.parametrize("layer", [nn.GELU(), nn.SiLU()])
def test_a_curved_function_lets_nothing_through_but_a_product_may_be_inserted(either_view, layer):
    refusal = refused(either_view, Between(layer))
    assert refusal.reason == "the producer cannot absorb it"
    graph, before = check(either_view, Between(layer), insert=True)
    assert count_ops(graph) == {**before, "Affine": 1}
    (affine,) = graph.walk(Affine)
    assert [op for op in affine.output.readers if isinstance(op, Linear)] == affine.output.readers


def test_insertion_before_a_graph_input_serves_all_its_readers(either_view):
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(8, 3), nn.Linear(8, 4)

        def forward(self, x):
            return self.one(x), self.two(x)

    assert refused(either_view, Heads()).reason == "the value is a graph input"
    graph, before = check(either_view, Heads(), insert=True)
    assert count_ops(graph) == {**before, "Affine": 1}


@pytest.mark.parametrize("module", [Residual, Returned])
def test_an_inserted_product_leaves_other_readers_alone(either_view, module):
    graph, before = check(either_view, module(), insert=True)
    assert count_ops(graph) == {**before, "Affine": 1}


def test_refused_residual_reader(either_view):
    assert refused(either_view, Residual()).reason == "a reader is not a Linear"


def test_refused_graph_output(either_view):
    assert refused(either_view, Returned()).reason == "the value is a graph output"


def test_refused_producer_with_another_reader(either_view):
    assert refused(either_view, Twice()).reason == "the producer's result has another reader"


def test_refused_shared_weight(either_view):
    assert refused(either_view, Shared(), insert=True).reason == "the weight has another reader"


@pytest.mark.parametrize("explicit", [True, False])
def test_refused_grouped_heads_that_are_repeated(either_view, explicit):
    refusal = refused(either_view, Attention(4, 2, explicit=explicit))
    assert refusal.reason == "the channel axis is mixed with another"


GROUPED = """<ir_version: 10, opset_import: ["": 23]>
grouped (double[1,3,2] x) => (double[1,3,2] y)
<double[2,2] wq = {1,2,3,4}, double[2,1] wk = {1,2}, double[2,1] wv = {3,4},
 double[2,2] wo = {1,0,2,1}, int64[4] split = {1,3,-1,1}, int64[3] joined = {1,3,2}>
{
  ql = MatMul(x, wq)
  qr = Reshape(ql, split)
  q = Transpose<perm=[0,2,1,3]>(qr)
  kl = MatMul(x, wk)
  kr = Reshape(kl, split)
  k = Transpose<perm=[0,2,1,3]>(kr)
  vl = MatMul(x, wv)
  vr = Reshape(vl, split)
  v = Transpose<perm=[0,2,1,3]>(vr)
  a = Attention(q, k, v)
  t = Transpose<perm=[0,2,1,3]>(a)
  r = Reshape(t, joined)
  y = MatMul(r, wo)
}"""


def test_refused_grouped_heads_in_the_kernel(onnx_text):
    graph, _ = onnx_text(GROUPED)
    run_pass(graph, Canonicalize())
    plan = equalize(graph, list(graph.walk(Linear))[-1].x, np.array([0.5, 2.0]))
    assert isinstance(plan, Refusal)
    assert plan.reason == "query heads share their values"
    assert plan.detail == "2 and 1"


def test_refused_scale_that_cannot_be_inverted(fx_view):
    graph, _, last = opened(fx_view, SwiGLU())
    plan = equalize(graph, last.x, np.geomspace(1, 1e4, 12))
    assert isinstance(plan, Refusal)
    assert plan.reason == "the scale is too small or too large to invert"


def test_refused_constant_and_unread_value(fx_view):
    graph, _, last = opened(fx_view, SwiGLU())
    assert equalize(graph, last.weight, np.ones(12)).reason == "the value is a constant"
    unread = graph.constant(np.ones(12))
    unread.constant = None
    assert equalize(graph, unread, np.ones(12)).reason == "nothing reads the value"
    unread.shape = None
    assert equalize(graph, unread, np.ones(12)).reason == "a shape is unknown"


def test_scales_of_one_need_no_edit(fx_view):
    graph, _, last = opened(fx_view, SwiGLU())
    assert equalize(graph, last.x, np.ones(12)) == []


@pytest.mark.parametrize("scale", [np.ones(5), np.full(12, np.nan), -np.ones(12), np.zeros(12)])
def test_scales_that_are_none(fx_view, scale):
    graph, _, last = opened(fx_view, SwiGLU())
    with pytest.raises(ValueError, match=r"expected (positive finite )?scales"):
        equalize(graph, last.x, scale)


@pytest.mark.parametrize("broken", ["_scale_columns_only", "_scale_axis"])
def test_a_broken_edit_is_caught(fx_view, monkeypatch, broken):
    monkeypatch.setattr(f"passel.passes.weights.{broken}", lambda *args: None)
    with pytest.raises(AssertionError):
        check(fx_view, Between(nn.ReLU()))
