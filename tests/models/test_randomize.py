"""randomize changes what it says, and nothing else."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import nn

from passel.models import DIGITS, GPT, GPT_TINY, ConvNet, ConvNetConfig, ReparamMLP, ViT, randomize
from passel.models.norms import NORM_KINDS

MODELS = {
    **{norm: ViT(replace(DIGITS, depth=1, norm=norm, layer_scale=1e-5)) for norm in NORM_KINDS},
    "gpt": GPT(replace(GPT_TINY, depth=1)),
    "bcn": ConvNet(ConvNetConfig(conv="scaled_ws", norm="bcn")),
    "ibn": ConvNet(ConvNetConfig(norm="ibn")),
    "gated": ReparamMLP("gated"),
    "lora": ReparamMLP("lora"),
}


@pytest.mark.parametrize("name", MODELS)
def test_every_small_tensor_changes_and_no_matrix_does(name: str) -> None:
    before = MODELS[name]
    after = randomize(deepcopy(before))
    for key, old in before.state_dict().items():
        new = after.state_dict()[key]
        if key.endswith("num_batches_tracked"):
            continue
        constant = bool((old == old.flatten()[0]).all())
        if old.dim() <= 1 or constant:
            assert not (new == old).any(), key
        else:
            assert torch.equal(new, old), key


def test_second_moments_stay_positive() -> None:
    for name in ("unified", "power", "batch"):
        for key, value in randomize(deepcopy(MODELS[name])).state_dict().items():
            if key.endswith(("running_var", "running_phi")):
                assert value.min() >= 0.3, key
                assert value.max() <= 2, key


def test_a_seed_fixes_the_values() -> None:
    first, again, other = (
        randomize(deepcopy(MODELS["unified"]), seed).state_dict() for seed in (3, 3, 4)
    )
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["norm.weight"], other["norm.weight"])


@pytest.mark.parametrize("name", [*NORM_KINDS, "gpt", "bcn", "ibn"])
def test_zero_gains_hit_every_norm(name: str) -> None:
    model = randomize(deepcopy(MODELS[name]), zero_gains=True)
    gains = [
        module.weight
        for module in model.modules()
        if "Norm" in type(module).__name__
        and isinstance(getattr(module, "weight", None), nn.Parameter)
    ]
    assert gains
    for gain in gains:
        assert 0 < int((gain == 0).sum()) <= gain.numel() // 2
