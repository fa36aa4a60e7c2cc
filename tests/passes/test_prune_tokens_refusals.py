"""prune-tokens: every reason to leave a layer alone, bad parameters, and how it is verified."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import passel
from passel.errors import InvalidInput, VerificationError
from passel.graph.text import to_text
from passel.models import (
    GPT,
    GPT_TINY,
    MoDViT,
    Routing,
    ViTConfig,
    accuracy,
    gpt_inputs,
    load_digits_split,
    load_trained,
    vit_inputs,
)
from passel.models.routing import prd_ratios
from passel.models.transformer import Attention as SelfAttention
from passel.passes import Canonicalize, FoldConstants, PruneTokens
from passel.passes.driver import run_pass, run_passes
from passel.passes.prune_tokens import prd_ratio
from tests.conftest import View

BEFORE = (FoldConstants(), Canonicalize())
X = torch.randn(2, 8, 16, generator=torch.Generator().manual_seed(0))
HALF = PruneTokens(ratio=0.5, amplitude=0.0)
VIT = ViTConfig(
    image_size=8, patch_size=2, channels=1, dim=16, depth=4, heads=2, classes=3
)  # 17 tokens


class Stack(nn.Module):
    """Three layers on x [B, 8, 16], as a test spells them."""

    def __init__(self, layer) -> None:
        super().__init__()
        self.attentions = nn.ModuleList(SelfAttention(16, 4) for _ in range(3))
        self.grouped = nn.ModuleList(nn.Linear(16, 8) for _ in range(3))
        self.linears = nn.ModuleList(nn.Linear(16, 16) for _ in range(3))
        self.layer = layer

    def forward(self, x: Tensor, *more: Tensor) -> Tensor:
        for k in range(3):
            x = self.layer(self, k, x, *more)
            x = x + torch.relu(self.linears[k](x))
        return x


def plain(m, k, x, *more):
    return x + m.attentions[k](x, *more)


def by_hand(m, k, x):
    q, key, v = m.attentions[k]._heads(x)
    shares = torch.softmax(torch.sin(q @ key.transpose(2, 3)), dim=-1)
    return x + m.attentions[k].proj((shares @ v).transpose(1, 2).reshape(x.shape))


def cross(m, k, x, memory):
    q = m.attentions[k]._heads(x)[0]
    _, key, v = m.attentions[k]._heads(memory)
    y = F.scaled_dot_product_attention(q, key, v)
    return x + m.attentions[k].proj(y.transpose(1, 2).reshape(x.shape))


def grouped(m, k, x):
    q, _, _ = m.attentions[k]._heads(x)
    key = m.grouped[k](x).reshape(*x.shape[:2], 2, 4).transpose(1, 2)
    y = F.scaled_dot_product_attention(q, key, key, enable_gqa=True)
    return x + m.attentions[k].proj(y.transpose(1, 2).reshape(x.shape))


def strange(m, k, x):
    q, key, v = m.attentions[k]._heads(x)
    y = F.scaled_dot_product_attention(torch.atan(q), key, v)
    return x + m.attentions[k].proj(y.transpose(1, 2).reshape(x.shape))


def windows(m, k, x):
    parts = x.reshape(4, 4, 16)
    return x + m.attentions[k](parts).reshape(x.shape)


def without_residual(m, k, x):
    return m.attentions[k](x)


def mixed(m, k, x):
    return plain(m, k, x) + m.linears[k](x.cumsum(dim=1))


RULES = {
    "attention is not one op": (by_hand, (X,), HALF),
    "its result is not added to what its keys come from": (without_residual, (X,), HALF),
    "its keys are not the tokens of the residual stream": (windows, (X,), HALF),
    "its mask may hide other keys from each query": (plain, (X, X[:, None, :, :8] > 0), HALF),
    "an unknown operator computes its queries or keys": (strange, (X,), HALF),
    "tokens cannot be followed through the layer": (mixed, (X,), HALF),
    "no layer follows": (plain, (X,), HALF),
    "more tokens are always kept than there are": (
        plain,
        (X,),
        PruneTokens(ratio=0.5, amplitude=0.0, always_kept=9),
    ),
    "the schedule keeps every token": (plain, (X,), PruneTokens(ratio=0.9, amplitude=0.0)),
    "the schedule keeps no token to choose": (
        plain,
        (X,),
        PruneTokens(ratio=0.2, amplitude=0.0),
    ),
}


def refused(view, module, inputs, one, **lifting):
    """The reasons for which a pass leaves every layer alone; it must leave the graph as it is."""
    graph, _ = view.lift(module, inputs, opset=23, **lifting)
    run_passes(graph, BEFORE)
    before = to_text(graph)
    report = run_pass(graph, one)
    left = len(report.applied)
    assert left or to_text(graph) == before
    return report.reasons, left


@pytest.mark.parametrize("reason", RULES)
def test_refuses(either_view, reason):
    layer, inputs, one = RULES[reason]
    reasons, applied = refused(either_view, Stack(layer), inputs, one)
    assert reason in reasons
    assert applied == (2 if reason == "no layer follows" else 0)


def test_refuses_cross_attention(either_view):
    reasons, _ = refused(either_view, Stack(cross), (X, X[:, :5] + 1), HALF)
    assert reasons == {"its result is not added to what its keys come from": 3}


def test_refuses_grouped_keys_for_class_attention_only():
    """Through the ONNX view: the other one leaves such an attention as it is."""
    view = View("onnx")
    assert refused(view, Stack(grouped), (X,), HALF) == ({"several heads share a key": 3}, 0)
    one = PruneTokens(ratio=0.5, amplitude=0.0, scores="key-norm")
    assert refused(view, Stack(grouped), (X,), one) == ({"no layer follows": 1}, 2)


def test_refuses_causal_attention(either_view):
    reasons, _ = refused(either_view, GPT(GPT_TINY), gpt_inputs(GPT_TINY), HALF)
    assert reasons == {"attention is causal": GPT_TINY.depth}


def test_refuses_a_causal_mask(fx_view):
    mask = torch.ones(8, 8, dtype=torch.bool).tril()
    reasons, _ = refused(fx_view, Stack(lambda m, k, x: plain(m, k, x, mask)), (X,), HALF)
    assert set(reasons) <= {
        "its mask may hide other keys from each query",
        "attention is causal",
    }


def test_refuses_layers_with_a_router(either_view):
    model, inputs = MoDViT(VIT, Routing(0.5)), vit_inputs(VIT)
    reasons, applied = refused(either_view, model, inputs, HALF)
    assert reasons == {
        "a router chooses its tokens": 2,
        "tokens cannot be followed through the layer": 1,
        "no layer follows": 1,
    }
    assert applied == 0


def test_refuses_an_unknown_number_of_tokens(either_view):
    tokens = torch.export.Dim("tokens", min=2, max=64)
    shapes = ({1: tokens},)
    reasons, _ = refused(either_view, Stack(plain), (X,), HALF, dynamic_shapes=shapes)
    assert reasons == {"the number of tokens is not known": 2, "no layer follows": 1}


BAD = {
    "ratio": (0, -0.1, 1.1, math.nan),
    "minimum": (0, 2.0, 0.9),
    "maximum": (0, 1.5),
    "amplitude": (-0.1, 1.1, math.nan),
    "scores": ("attention", ""),
    "always_kept": (0, -1, 1.5),
}


@pytest.mark.parametrize(("name", "value"), [(k, v) for k, vs in BAD.items() for v in vs])
def test_bad_parameters(name, value):
    with pytest.raises(ValueError, match=f"expected {name}"):
        PruneTokens(**{name: value})


def test_a_bad_spec_is_bad_input():
    with pytest.raises(
        InvalidInput, match=r"cannot read 'prune-tokens\(ratio=2\)': expected ratio"
    ):
        passel.optimize(nn.Linear(2, 2), (torch.ones(1, 2),), passes=["prune-tokens(ratio=2)"])


@given(depth=st.integers(2, 40), minimum=st.floats(0.01, 0.5), maximum=st.floats(0.5, 1))
def test_the_schedule_is_that_of_the_paper(depth, minimum, maximum):
    found = tuple(prd_ratio(k, depth, 0.5, 0.5, minimum, maximum) for k in range(depth))
    assert found == pytest.approx(prd_ratios(depth, maximum, minimum), abs=1e-12)
    assert list(found) == sorted(found, reverse=True)


def test_a_schedule_of_one_layer():
    assert prd_ratio(0, 1, 0.3, 0.5, 0.15, 0.85) == 0.8


# -- in the pipeline -----------------------------------------------------------------------------

ONE = ["default", "prune-tokens"]


@pytest.mark.parametrize("backend", ["onnxruntime", "torch"])
def test_compile_reports_the_error_and_does_not_raise(backend):
    inputs = (load_digits_split().x_test[:2],)
    found = passel.compile(
        load_trained("layer"), inputs, passes=ONE, backend=backend, measure=False
    )
    (error,) = found.report.errors
    assert error.tolerance == math.inf
    assert 1e-3 < error.relative < 1
    assert 0 < error.snr_db < 60
    assert found.report.verified.endswith("not bounded: prune-tokens is lossy")
    assert found(*inputs).shape == (2, 10)


def test_a_bound_of_the_caller_holds():
    inputs = (load_digits_split().x_test[:2],)
    with pytest.raises(VerificationError) as raised:
        passel.optimize(load_trained("layer"), inputs, passes=ONE, rtol=1e-4)
    assert raised.value.guilty == "prune-tokens"
    passel.optimize(load_trained("layer"), inputs, passes=ONE, rtol=1.0)


def test_exclude_keeps_it_off_a_layer():
    inputs = (load_digits_split().x_test[:2],)
    found = passel.optimize(
        load_trained("layer"),
        inputs,
        passes=["default", HALF],
        exclude={"prune-tokens": ["blocks.1.attention"]},
        verify=False,
    )
    report = found.report.passes[-1]
    assert (len(report.applied), len(report.excluded)) == (2, 1)


@pytest.mark.parametrize(("scores", "least"), [("class-attention", 0.95), ("key-norm", 0.945)])
def test_accuracy_on_digits(scores, least):
    images = load_digits_split().x_test
    one = PruneTokens(scores=scores)
    found = passel.optimize(load_trained("layer"), (images,), passes=["default", one], verify=False)
    assert accuracy(found.program.module()) >= least
    before, after = found.report.before.flops, found.report.after.flops
    assert after < 0.72 * before
