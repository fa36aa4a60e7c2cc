"""fold-affine on tokens: Unified Norm, BatchNorm, PowerNorm, LayerScale, gates, softmax scales."""

import pytest
import torch
from torch import nn

from passel.models import (
    FeatureSelectionGate,
    GatedLinear,
    PowerNorm,
    TokenBatchNorm,
    UnifiedNorm,
    ViT,
    ViTConfig,
    vit_inputs,
)
from passel.passes import Canonicalize, FoldAffine, FoldConstants

TOKENS = (torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0)),)
FOLD = (Canonicalize(), FoldConstants(), Canonicalize(), FoldAffine(), Canonicalize())
ARITHMETIC = ("mul", "div", "add", "sub", "sqrt", "reciprocal", "Affine", "BatchNorm")
MOVES = ("Transpose", "Reshape", "Unsqueeze", "Squeeze", "Identity")
SMALL = {"image_size": 8, "patch_size": 4, "channels": 1, "dim": 12, "heads": 2, "classes": 3}


class Between(nn.Module):
    """A layer between two Linears."""

    def __init__(self, layer, dim=8):
        super().__init__()
        self.first, self.layer, self.second = nn.Linear(dim, dim), layer, nn.Linear(dim, 3)

    def forward(self, x):
        return self.second(self.layer(self.first(x)))


class Before(nn.Module):
    """A layer on the input, then one Linear or several."""

    def __init__(self, layer, readers=1, dim=8, bias=True):
        super().__init__()
        self.layer = layer
        self.readers = nn.ModuleList(nn.Linear(dim, 4, bias=bias) for _ in range(readers))

    def forward(self, x):
        y = self.layer(x)
        return tuple(reader(y) for reader in self.readers)


@pytest.mark.parametrize("shape", [(2, 5, 8), (5, 8)])
def test_unified_norm_leaves_nothing(view, shape):
    x = torch.linspace(-2, 2, 80)[: torch.Size(shape).numel()].reshape(shape)
    outcome = view.apply(Between(UnifiedNorm(8)), (x,), *FOLD)
    assert outcome.after == {"Linear": 2}


def test_unified_norm_goes_forward_when_nothing_precedes_it(view):
    outcome = view.apply(Before(UnifiedNorm(8), readers=3, bias=False), TOKENS, *FOLD)
    assert outcome.after == {"Linear": 3}


@pytest.mark.parametrize("position", ["pre", "post"])
@pytest.mark.parametrize("pool", ["cls", pytest.param("mean", marks=pytest.mark.slow)])
def test_unified_norm_vit_has_no_norm_left(view, position, pool):
    config = ViTConfig(**SMALL, depth=4, norm="unified", norm_position=position, pool=pool)
    outcome = view.apply(ViT(config), vit_inputs(config, batch=2), *FOLD, opset=23)
    assert outcome.count("mul", "div", "sub", "sqrt", "Affine") == 0
    # The residual adds, and the position table; nothing else.
    assert outcome.count("add") == 2 * config.depth + 1
    assert outcome.count("Unsqueeze") == 0


@pytest.mark.parametrize("position", ["pre", "post"])
def test_unified_norm_vit_in_float32_and_with_a_dynamic_batch(view, position):
    config = ViTConfig(**SMALL, depth=2, norm="unified", norm_position=position, qkv_bias=False)
    outcome = view.apply(
        ViT(config),
        vit_inputs(config, batch=3),
        *FOLD,
        dtype=torch.float32,
        dynamic_shapes=({0: "batch"},),
        opset=23,
    )
    assert outcome.count("mul", "div", "Affine") == 0
    assert outcome.count("add") == 2 * config.depth + 1


def test_batch_norm_over_tokens(view):
    outcome = view.apply(Between(TokenBatchNorm(8)), TOKENS, *FOLD)
    assert outcome.after == {"Linear": 2}


@pytest.mark.parametrize("groups", [1, 2, None])
def test_power_norm_keeps_its_moment_only(view, groups):
    outcome = view.apply(Before(PowerNorm(8, groups)), TOKENS, *FOLD)
    assert outcome.count("mul", "add", "Affine") == 0
    # A group moment is per token: it stays, as an RMS norm.
    assert outcome.count("RMSNorm") == (groups is not None)
    assert outcome.count("Reduce", "div") == 0


def test_layer_scale_goes_into_the_branch(view):
    config = ViTConfig(**SMALL, depth=2, layer_scale=0.1)
    outcome = view.apply(ViT(config), vit_inputs(config), *FOLD, opset=23)
    assert outcome.count("mul", "Affine") == 0


def test_gate_after_a_linear_and_after_relu(view):
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.gate = nn.Linear(8, 6), FeatureSelectionGate(6)

        def forward(self, x):
            return self.gate(torch.relu(self.linear(x))).exp()

    assert view.apply(GatedLinear(8, 6), TOKENS, *FOLD).after == {"Linear": 1}
    assert view.apply(Gated(), TOKENS, *FOLD).after == {"Linear": 1, "relu": 1, "exp": 1}


@pytest.mark.parametrize("place", ["query", "scores", "key"])
@pytest.mark.parametrize("cut", ["unbind", "select", "chunk", "split"])
def test_softmax_scale_goes_into_a_fused_projection(either_view, place, cut):
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv = nn.Linear(8, 24)

        def forward(self, x):
            b, n, d = x.shape
            if cut in ("unbind", "select"):
                qkv = self.qkv(x).reshape(b, n, 3, 2, d // 2).permute(2, 0, 3, 1, 4)
                q, k, v = qkv.unbind(0) if cut == "unbind" else (qkv[0], qkv[1], qkv[2])
            else:
                parts = self.qkv(x)
                parts = parts.chunk(3, dim=-1) if cut == "chunk" else parts.split(d, dim=-1)
                q, k, v = (part.view(b, n, 2, d // 2).transpose(1, 2) for part in parts)
            if place == "query":
                q = q * (d // 2) ** -0.5
            if place == "key":
                k = k / (d // 2) ** 0.5
            scores = q @ k.transpose(-2, -1)
            scores = scores / (d // 2) ** 0.5 if place == "scores" else scores
            return scores.softmax(-1) @ v

    outcome = either_view.apply(Attention(), TOKENS, FoldConstants(), FoldAffine())
    assert outcome.count("mul", "div", "Affine") == 0
    assert outcome.count("Softmax") == 1


def test_chain_of_affines_becomes_one_fold(view):
    class Chain(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Parameter(torch.rand(8) + 0.5), nn.Parameter(torch.randn(8))
            self.linear = nn.Linear(8, 3)

        def forward(self, x):
            y = -(1.0 - (x * self.a + self.b) / 3) * 2 - self.b
            return self.linear(self.a / 2 * y)

    assert view.apply(Chain(), TOKENS, *FOLD).after == {"Linear": 1}


def test_affine_chain_that_no_linear_reads_becomes_one_affine(view):
    class Chain(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Parameter(torch.rand(8) + 0.5), nn.Parameter(torch.randn(8))

        def forward(self, x):
            return (((x * self.a + self.b) * self.a - self.b) / self.a).exp()

    outcome = view.apply(Chain(), TOKENS, *FOLD)
    assert outcome.after == {"Affine": 1, "exp": 1}


def test_zero_gains_are_folded_and_never_divided_by(view):
    class Post(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm = nn.Linear(8, 8), UnifiedNorm(8)
            self.branch, self.head = nn.Linear(8, 8), nn.Linear(8, 2)
            self.gain = nn.Parameter(torch.randn(8))

        def forward(self, x):
            y = self.norm(self.first(x))
            return self.head(y + self.branch(y)), (x * self.gain + self.branch(x)).exp()

    module = Post()
    with torch.no_grad():
        module.norm.weight[:3] = 0
        module.norm.bias.normal_()
        module.gain[2:4] = 0
    outcome = view.apply(module, TOKENS, *FOLD, random=False)
    # The norm goes back into `first`; the gain on the skip would have to be inverted.
    assert outcome.count("mul", "div", "Affine") == 1
    assert outcome.refused("the scale is too small or too large to invert")


def test_gain_of_a_norm_takes_what_no_weight_can(view):
    class Gain(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.LayerNorm(8)
            self.a, self.b = nn.Parameter(torch.rand(8)), nn.Parameter(torch.randn(8))

        def forward(self, x):
            return torch.tanh(self.norm(x) * self.a + self.b)

    assert view.apply(Gain(), TOKENS, *FOLD).after == {"LayerNorm": 1, "tanh": 1}


def test_zero_gain_clears_a_norms_own_shift(view):
    class Zero(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.a = nn.LayerNorm(8), nn.Parameter(torch.zeros(8))

        def forward(self, x):
            return torch.cos(self.norm(x) * self.a)

    module = Zero()
    torch.nn.init.normal_(module.norm.bias)
    outcome = view.apply(module, TOKENS, *FOLD, random=False)
    assert outcome.count("mul", "Affine") == 0


def test_embedding_table_takes_its_scale(view):
    class Embedded(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.norm = nn.Embedding(10, 8), UnifiedNorm(8)

        def forward(self, ids):
            return self.norm(self.table(ids) * 8**0.5).exp()

    outcome = view.apply(Embedded(), (torch.tensor([[1, 2, 9]]),), *FOLD)
    assert outcome.after == {"Gather": 1, "exp": 1}


FORGET = {
    "shift": ("passel.passes.weights.columns_dot", lambda op, shift: 0 * shift[:1]),
    "scale": ("passel.passes.weights._scale_columns_only", lambda graph, op, scale: None),
    "order": ("passel.passes.affine.Diagonal.then", lambda inner, outer: outer),
}


@pytest.mark.parametrize("what", FORGET)
def test_a_broken_rewrite_is_caught(view, monkeypatch, what):
    monkeypatch.setattr(*FORGET[what])
    with pytest.raises(AssertionError, match="relative error"):
        view.apply(Before(UnifiedNorm(8)), TOKENS, *FOLD)


def test_taking_the_moment_for_a_variance_is_caught(view):
    class Centred(UnifiedNorm):
        def forward(self, x):
            return super().forward(x - x.mean(dim=(0, 1)))

    _, run = view.lift(Before(UnifiedNorm(8)).double(), [x.double() for x in TOKENS])
    _, wrong = view.lift(Before(Centred(8)).double(), [x.double() for x in TOKENS])
    right = run()
    assert abs(right[0] - wrong()[0]).max() > 1e-3 * abs(right[0]).max()


@pytest.mark.parametrize("case", ["unified_norm", "residual_shift_stays"])
def test_golden(fx_view, golden, case):
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.branch, self.conv = UnifiedNorm(8), nn.Linear(8, 8), nn.Conv1d(8, 4, 3)
            self.conv.padding = (1,)

        def forward(self, x):
            y = self.norm(x)
            return self.conv((y + self.branch(y)).transpose(1, 2))

    module = Between(UnifiedNorm(8)) if case == "unified_norm" else Residual()
    graph, _ = fx_view.lift(module, TOKENS)
    golden(f"fold_affine/{case}.before", graph)
    outcome = fx_view.apply(module, TOKENS, *FOLD, dtype=torch.float32)
    golden(f"fold_affine/{case}.after", outcome.graph)
