"""prune-tokens: the tokens that the scores keep are computed, and no others; what it refuses."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from passel.graph.fx_tensor import to_numpy
from passel.graph.ops import Attention, Linear
from passel.models import (
    ViT,
    ViTConfig,
    randomize,
    vit_inputs,
)
from passel.models.routing import gather_tokens, scatter_tokens
from passel.models.transformer import MLP
from passel.models.transformer import Attention as SelfAttention
from passel.passes import Canonicalize, FoldConstants, PruneTokens, PushTokens
from tests.conftest import relative_error

VIT = {"image_size": 8, "patch_size": 2, "channels": 1, "dim": 16, "depth": 4, "heads": 2}
CONFIG = ViTConfig(**VIT, classes=3)  # 17 tokens
BEFORE = (FoldConstants(), Canonicalize())
HALF = {"ratio": 0.5, "amplitude": 0.0}


def seeded(module: nn.Module) -> nn.Module:
    return randomize(module).double().eval()


def chosen(attention: SelfAttention, x: Tensor, count: int, one: PruneTokens) -> Tensor:
    """The kept tokens by the definition of the scores, int64 (batch, count)."""
    query, key, _ = attention._heads(x)
    if one.scores == "key-norm":
        scores = key.norm(dim=-1).mean(dim=1)
    else:
        logits = query[:, :, :1] @ key.transpose(2, 3) / key.shape[-1] ** 0.5
        scores = logits.softmax(dim=-1).mean(dim=1)[:, 0]
    first = one.always_kept
    top = scores[:, first:].topk(count - first, dim=1).indices + first
    always = torch.arange(first).expand(len(x), first)
    return torch.cat((always, top), dim=1).sort(dim=1).values


def oracle(model: ViT, images: Tensor, kept: Sequence[int | None], one: PruneTokens) -> Tensor:
    """The model with whole blocks run on the kept tokens, written apart from the pass."""
    x = model.embed(images)
    for block, count in zip(model.blocks, kept, strict=True):
        if count is None:
            x = block(x)
            continue
        seen = block.norm1(x) if model.config.norm_position == "pre" else x
        index = chosen(block.attention, seen, count, one)
        x = scatter_tokens(x, index, block(gather_tokens(x, index)))
    return model.classify(x)


CASES = {
    "class attention": ({}, {}, (None, 12, 4, None)),
    "key norm": ({}, {"scores": "key-norm"}, (None, 12, 4, None)),
    "post-norm": ({"norm_position": "post"}, {}, (None, 12, 4, None)),
    "separate projections": ({"fused_qkv": False}, HALF, (8, 8, 8, None)),
    "no class token": (
        {"pool": "mean"},
        {"scores": "key-norm", "always_kept": 0, "ratio": 0.3},
        (12, 8, 2, None),
    ),
    "three always kept": ({"layer_scale": 0.5}, {"always_kept": 3, **HALF}, (8, 8, 8, None)),
}


@pytest.mark.parametrize("case", CASES)
def test_computes_what_whole_blocks_on_kept_tokens_compute(view, run_on, case):
    compare(view, run_on, case, batch=2)


def test_one_image(either_view, run_on):
    """There is no batch axis along which the choice differs."""
    compare(either_view, run_on, "three always kept", batch=1)


def compare(view, run_on, case, batch):
    config, parameters, kept = CASES[case]
    model = seeded(ViT(ViTConfig(**VIT, classes=3, **config)))
    (images,) = (x.double() for x in vit_inputs(model.config, batch=batch))
    one = PruneTokens(**parameters)
    outcome = run_on(*view.lift(model, (images,), opset=23), *BEFORE, PushTokens(), one)
    with torch.no_grad():
        expected = to_numpy(oracle(model, images, kept, one))
    assert relative_error([expected], outcome.found) < 1e-11
    assert outcome.error > 1e-3
    assert len(outcome.reports[-1].applied) == sum(count is not None for count in kept)
    attended = [op.require(1).shape[2] for op in outcome.graph.walk(Attention)]
    assert attended == [
        count or model.config.patches + (config.get("pool") != "mean") for count in kept
    ]


def test_a_broken_choice_is_noticed(fx_view, run_on):
    """The oracle with another choice differs."""
    model, (images,) = seeded(ViT(CONFIG)), vit_inputs(CONFIG, batch=2)
    one, other = PruneTokens(), PruneTokens(scores="key-norm")
    outcome = run_on(*fx_view.lift(model, (images.double(),)), *BEFORE, one)
    with torch.no_grad():
        expected = to_numpy(oracle(model, images.double(), (None, 12, 4, None), other))
    assert relative_error([expected], outcome.found) > 1e-3


def test_everything_but_the_keys_is_computed_for_kept_tokens(view, run_on):
    model, inputs = seeded(ViT(CONFIG)), [x.double() for x in vit_inputs(CONFIG)]
    outcome = run_on(*view.lift(model, inputs, opset=23), *BEFORE, PruneTokens(**HALF))
    shapes = [op.output.shape[1:] for op in outcome.graph.walk(Linear) if len(op.output.shape) == 3]
    layer = [(1, 16), (17, 16), (8, 32), (8, 16), (8, 64), (8, 16)]
    assert sorted(shapes[:6]) == sorted(layer)


def test_dynamic_batch(either_view, run_on):
    model, (images,) = seeded(ViT(CONFIG)), vit_inputs(CONFIG, batch=3)
    shapes = ({0: torch.export.Dim("batch", min=2, max=64)},)
    lifted = either_view.lift(model, (images.double(),), dynamic_shapes=shapes, opset=23)
    outcome = run_on(*lifted, *BEFORE, PushTokens(), PruneTokens())
    with torch.no_grad():
        expected = to_numpy(oracle(model, images.double(), (None, 12, 4, None), PruneTokens()))
    assert relative_error([expected], outcome.found) < 1e-11


# -- attention with a mask of its own ------------------------------------------------------------


class Stack(nn.Module):
    """Pre-norm layers on x [B, 8, 16]; `attend` and `rest` are what a test changes."""

    def __init__(self, attend=None, rest=None, depth: int = 2) -> None:
        super().__init__()
        self.attentions = nn.ModuleList(SelfAttention(16, 2) for _ in range(depth))
        self.mlps = nn.ModuleList(MLP(16, 32) for _ in range(depth))
        self.norms = nn.ModuleList(nn.LayerNorm(16) for _ in range(2 * depth))
        self.attend = attend or (lambda attention, x, *mask: x + attention(x, *mask))
        self.rest = rest or (lambda mlp, x: x + mlp(x))

    def forward(self, x: Tensor, *more: Tensor) -> Tensor:
        for attention, mlp, norm in zip(self.attentions, self.mlps, self.norms, strict=False):
            x = self.rest(mlp, norm(self.attend(attention, x, *more)))
        return x


TOKENS = torch.randn(2, 8, 16, generator=torch.Generator().manual_seed(0)).double()
PADDING = torch.tensor([[True] * 5 + [False] * 3, [True] * 7 + [False]])[:, None, None, :]
BIAS = torch.randn(1, 2, 8, 8, generator=torch.Generator().manual_seed(1)).double()


def masked_oracle(model: Stack, x: Tensor, mask: Tensor | None, one: PruneTokens) -> Tensor:
    """All tokens are computed; dropped ones are no keys and keep their value."""
    attention, additive = model.attentions[0], mask
    if mask is None or mask.dtype is torch.bool:
        additive = torch.zeros(1, 1, 1, 8).double()
        additive = additive if mask is None else additive.masked_fill(~mask, -torch.inf)
    query, key, _ = attention._heads(x)
    if one.scores == "key-norm":
        scores = key.norm(dim=-1).mean(dim=1)
        scores = scores.masked_fill((additive <= -1e4)[:, 0, 0], -torch.inf)
    else:
        logits = query[:, :, :1] @ key.transpose(2, 3) / key.shape[-1] ** 0.5
        scores = (logits + additive[:, :, :1]).softmax(dim=-1).mean(dim=1)[:, 0]
    scores[:, : one.always_kept] = torch.inf
    kept = torch.zeros(len(x), 8, dtype=torch.bool).scatter(1, scores.topk(4).indices, True)
    hidden = additive.masked_fill(~kept[:, None, None, :], -torch.inf)
    attended = model.norms[0](x + attention(x, hidden.expand(len(x), -1, -1, -1)))
    after = attended + model.mlps[0](attended)
    x = torch.where(kept[..., None], after, x)
    x = model.norms[1](x + model.attentions[1](x, mask))
    return x + model.mlps[1](x)


def test_golden(fx_view, run_on, golden):
    graph, run = fx_view.lift(Stack(), (TOKENS.float(),))
    golden("prune_tokens/before", run_on(graph, run, *BEFORE).graph)
    golden("prune_tokens/after", run_on(graph, run, PruneTokens(**HALF)).graph)


MASKS = {
    "none": None,
    "padding": PADDING,
    "additive padding": torch.where(PADDING, 0.0, -1e9).double(),
    "padding for every query": PADDING.expand(2, 1, 8, 8),
}


@pytest.mark.parametrize("scores", ["class-attention", "key-norm"])
@pytest.mark.parametrize("case", MASKS)
def test_masks_at_run_time(either_view, run_on, case, scores):
    class Masked(Stack):
        def forward(self, x, *more):
            wide = [m.expand(2, 1, 8, 8) if case.endswith("query") else m for m in more]
            return super().forward(x, *wide)

    model, one = seeded(Masked()), PruneTokens(scores=scores, **HALF)
    mask = MASKS[case]
    given = () if mask is None else (mask[:, :, :1],)
    outcome = run_on(*either_view.lift(model, (TOKENS, *given), opset=23), *BEFORE, one)
    with torch.no_grad():
        expected = to_numpy(masked_oracle(model, TOKENS, mask, one))
    assert len(outcome.reports[-1].applied) == 1
    assert relative_error([expected], outcome.found) < 1e-11


@pytest.mark.parametrize("scores", ["class-attention", "key-norm"])
def test_a_constant_bias(either_view, run_on, scores):
    bias = BIAS.masked_fill(torch.arange(8) == 5, -torch.inf)
    model = seeded(Stack(lambda attention, x: x + attention(x, bias)))
    one = PruneTokens(scores=scores, **HALF)
    outcome = run_on(*either_view.lift(model, (TOKENS,), opset=23), *BEFORE, one)
    with torch.no_grad():
        expected = to_numpy(masked_oracle(model, TOKENS, bias, one))
    assert len(outcome.reports[-1].applied) == 1
    assert relative_error([expected], outcome.found) < 1e-11
