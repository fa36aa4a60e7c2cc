"""Whole models: they export, with a dynamic batch, to graphs that compute what eager computes."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, export

from passel.models import (
    DIGITS,
    GPT,
    GPT_TINY,
    VIT_B16,
    VIT_S16,
    ConvNet,
    ConvNetConfig,
    ReparamMLP,
    ViT,
    ViTConfig,
    convnet_inputs,
    gpt_inputs,
    randomize,
    reparam_inputs,
    vit_inputs,
)
from passel.models.norms import NORM_KINDS
from passel.models.reparam import LAYER_KINDS

Inputs = Callable[[int], tuple[Tensor]]

SMALL_VIT = replace(DIGITS, dim=32, depth=1)
VIT_CONFIGS = [
    *(replace(SMALL_VIT, norm=norm) for norm in NORM_KINDS),
    replace(SMALL_VIT, norm="unified", norm_position="post", fused_qkv=False),
    replace(SMALL_VIT, norm="power", norm_groups=4, pool="mean", qkv_bias=False),
    replace(SMALL_VIT, norm="power", norm_groups=None, layer_scale=1e-5),
]
SMALL_GPT = replace(GPT_TINY, depth=1)
GPT_CONFIGS = [
    SMALL_GPT,
    replace(SMALL_GPT, norm="rms", tied=False, fused_qkv=False),
    replace(SMALL_GPT, norm="unified", norm_position="post"),
]
CONVNET_CONFIGS = [
    ConvNetConfig(),
    ConvNetConfig(conv="ws", dialect="timm", norm="bcn", groups=2),
    ConvNetConfig(conv="ws", norm="ibn", head="transposed"),
    ConvNetConfig(conv="scaled_ws", norm="none"),
]
CASES: list[tuple[nn.Module, Inputs]] = [
    *((ViT(c), lambda batch, c=c: vit_inputs(c, batch)) for c in VIT_CONFIGS),
    *((GPT(c), lambda batch, c=c: gpt_inputs(c, batch)) for c in GPT_CONFIGS),
    *((ConvNet(c), lambda batch, c=c: convnet_inputs(c, batch)) for c in CONVNET_CONFIGS),
    *((ReparamMLP(kind), lambda batch: reparam_inputs(batch=batch)) for kind in LAYER_KINDS),
]


@pytest.mark.parametrize(("model", "inputs"), CASES)
def test_export_with_dynamic_batch_equals_eager(model: nn.Module, inputs: Inputs) -> None:
    randomize(model).eval()
    program = export(model, inputs(2), dynamic_shapes=({0: Dim.DYNAMIC},)).module()
    with torch.no_grad():
        for batch in (2, 3):
            assert torch.equal(program(*inputs(batch)), model(*inputs(batch)))


def test_gpt_exports_with_dynamic_tokens() -> None:
    model = randomize(GPT(SMALL_GPT)).eval()
    shapes = ({0: Dim("batch"), 1: Dim("tokens", max=SMALL_GPT.context)},)
    program = export(model, gpt_inputs(SMALL_GPT, 2), dynamic_shapes=shapes).module()
    (ids,) = gpt_inputs(SMALL_GPT, 3, tokens=9)
    assert torch.equal(program(ids), model(ids))


def test_gpt_is_causal() -> None:
    model = randomize(GPT(SMALL_GPT)).eval()
    (ids,) = gpt_inputs(SMALL_GPT, 1, tokens=12)
    changed = ids.clone()
    changed[:, 7] = (changed[:, 7] + 1) % SMALL_GPT.vocab
    difference = (model(ids) - model(changed)).abs().amax(dim=(0, 2))
    assert torch.all(difference[:7] == 0)
    assert torch.all(difference[7:] > 0)


def test_tied_head_shares_the_embedding() -> None:
    tied, untied = GPT(SMALL_GPT), GPT(replace(SMALL_GPT, tied=False))
    assert tied.head.weight is tied.token_embedding.weight
    assert untied.head.weight is not untied.token_embedding.weight


def test_named_configs_have_their_published_sizes() -> None:
    counts = []
    for config in (VIT_S16, VIT_B16):
        with torch.device("meta"):
            counts.append(sum(p.numel() for p in ViT(config).parameters()))
    assert counts == [22_050_664, 86_567_656]


def test_bad_configs_are_refused() -> None:
    with pytest.raises(ValueError, match="expected patch_size to divide image_size 8, got 3"):
        ViTConfig(image_size=8, patch_size=3)
    with pytest.raises(ValueError, match=r"expected pool in .*, got 'max'"):
        ViTConfig(pool="max")
    with pytest.raises(ValueError, match="expected heads to divide dim 32, got 5"):
        ViT(replace(SMALL_VIT, heads=5))
    with pytest.raises(ValueError, match=r"expected norm_position in .*, got 'sandwich'"):
        ViT(replace(SMALL_VIT, norm_position="sandwich"))
    with pytest.raises(ValueError, match="expected at most 32 tokens, got 33"):
        gpt_inputs(SMALL_GPT, tokens=33)
