"""Reparametrised layers against their definitions in activation form, in float64."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear

from passel.models import (
    BoneLinear,
    GatedLinear,
    LoRALinear,
    OptimalWeightedConv2d,
    TemplateMixtureLinear,
    WeightCompanderLinear,
    make_layer,
    randomize,
)

BOUND = 1e-12


def rows(dim: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(5, dim, generator=generator, dtype=torch.float64)


def ready(layer: nn.Module) -> nn.Module:
    return randomize(layer.double()).eval()


def assert_close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=BOUND)


def test_lora_adds_a_low_rank_branch() -> None:
    layer = ready(LoRALinear(8, 12, rank=2, scale=3.0))
    x = rows()
    base = linear(x, layer.weight, layer.bias)
    assert_close(layer(x), base + 3.0 * linear(linear(x, layer.down), layer.up))
    assert (layer(x) - base).abs().max() > 0.1


def test_bone_disha_sums_chunks_of_the_input() -> None:
    layer = ready(BoneLinear(8, 12, rank=4, dialect="disha"))
    x = rows()
    update = x.reshape(5, 2, 4).sum(1) @ layer.bone
    assert_close(layer(x), linear(x, layer.weight, layer.bias) + update)


def test_bone_bat_updates_block_by_block() -> None:
    layer = ready(BoneLinear(8, 12, rank=4, dialect="bat"))
    weight = layer.weight.detach().clone()
    for i in range(3):
        for j in range(2):
            block = weight[4 * i : 4 * i + 4, 4 * j : 4 * j + 4]
            block += block.clone() @ layer.bone[i].detach() + layer.bone[i].detach()
    assert_close(layer(rows()), linear(rows(), weight, layer.bias))


def test_weight_compander_bounds_the_weight() -> None:
    layer = ready(WeightCompanderLinear(8, 12))
    weight = torch.tensor(
        [
            [layer.amplitude.item() * math.atan(w / layer.width.item()) for w in row]
            for row in layer.weight.tolist()
        ],
        dtype=torch.float64,
    )
    assert weight.abs().max() < layer.amplitude.item() * math.pi / 2
    assert_close(layer(rows()), linear(rows(), weight, layer.bias))


def test_template_mixture_sums_template_outputs() -> None:
    layer = ready(TemplateMixtureLinear(8, 12))
    outputs = [
        c * linear(rows(), t) for c, t in zip(layer.coefficients, layer.templates, strict=True)
    ]
    assert_close(layer(rows()), torch.stack(outputs).sum(0) + layer.bias)


def test_gate_scales_outputs() -> None:
    layer = ready(GatedLinear(8, 12))
    expected = layer.linear(rows()) / (1 + torch.exp(-layer.gate.gate))
    assert_close(layer(rows()), expected)


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_optimal_weighted_conv_weights_its_taps(kernel_size: int) -> None:
    layer = ready(OptimalWeightedConv2d(2, 4, kernel_size))
    half = kernel_size // 2
    taps = [*layer.density.tolist(), 1.0, *reversed(layer.density.tolist())]
    weight = layer.weight.detach().clone()
    for row in range(kernel_size):
        for column in range(kernel_size):
            weight[:, :, row, column] *= taps[row] * taps[column]
    x = rows(2 * 6 * 6).reshape(5, 2, 6, 6)
    assert_close(layer(x), conv2d(x, weight, layer.bias, padding=half))


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="expected rank to divide 8 and 10, got 4"):
        BoneLinear(8, 10)
    with pytest.raises(ValueError, match=r"expected a dialect in .*, got 'peft'"):
        BoneLinear(8, 8, dialect="peft")
    with pytest.raises(ValueError, match="expected an odd kernel_size, got 4"):
        OptimalWeightedConv2d(2, 4, 4)
    with pytest.raises(ValueError, match=r"expected a layer kind in .*, got 'dora'"):
        make_layer("dora", 8, 8)
