"""Token norms against their formulas, in float64."""

import pytest
import torch
from torch import Tensor, nn

from passel.models import PowerNorm, TokenBatchNorm, UnifiedNorm, make_norm, randomize

SHAPES = [(3, 5, 8), (6, 8)]
# A handful of float64 operations on values of order 1.
BOUND = 1e-13


def tokens(shape: tuple[int, ...], seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64) + 0.5


def frozen(norm: nn.Module) -> nn.Module:
    return randomize(norm.double()).eval()


def assert_close(actual: Tensor, expected: Tensor) -> None:
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= BOUND * expected.abs().max()


@pytest.mark.parametrize("shape", SHAPES)
def test_unified_norm_is_a_static_affine_without_mean(shape: tuple[int, ...]) -> None:
    norm = frozen(UnifiedNorm(8))
    x = tokens(shape)
    expected = norm.weight * x / torch.sqrt(norm.running_var + 1e-5) + norm.bias
    assert_close(norm(x), expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_power_norm_of_one_group_is_rms_norm_with_affine(shape: tuple[int, ...]) -> None:
    norm = frozen(PowerNorm(8))
    x = tokens(shape)
    gain = norm.weight / torch.sqrt(norm.running_phi + 1e-5)
    expected = nn.functional.rms_norm(x, (8,), gain, eps=1e-5) + norm.bias
    assert_close(norm(x), expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_power_norm_scales_each_group_by_itself(shape: tuple[int, ...]) -> None:
    norm = frozen(PowerNorm(8, groups=2))
    x = tokens(shape)
    halves = [h / torch.sqrt((h**2).mean(-1, keepdim=True) + 1e-5) for h in x.split(4, dim=-1)]
    expected = norm.weight * torch.cat(halves, -1) / torch.sqrt(norm.running_phi + 1e-5) + norm.bias
    assert_close(norm(x), expected)


def test_power_norm_without_groups_is_static() -> None:
    norm = frozen(PowerNorm(8, groups=None))
    x = tokens((2, 3, 8))
    shift = norm(torch.zeros_like(x))
    assert_close(norm(7 * x) - shift, 7 * (norm(x) - shift))


@pytest.mark.parametrize("shape", SHAPES)
def test_token_batch_norm_uses_its_running_statistics(shape: tuple[int, ...]) -> None:
    norm = frozen(TokenBatchNorm(8))
    inner = norm.norm
    x = tokens(shape)
    normalised = (x - inner.running_mean) / torch.sqrt(inner.running_var + 1e-5)
    assert_close(norm(x), inner.weight * normalised + inner.bias)


def test_unified_norm_trains_on_the_windows_geometric_mean() -> None:
    norm = UnifiedNorm(4, window=2).double().train()
    first, second = tokens((2, 3, 4), seed=1), tokens((2, 3, 4), seed=2)
    norm(first)
    y = norm(second)
    moments = [x.square().mean(dim=(0, 1)) for x in (first, second)]
    windowed = (moments[0] * moments[1]).sqrt()
    assert_close(y, second / torch.sqrt(windowed + 1e-5))
    assert_close(norm.running_var, 0.9 * (0.9 + 0.1 * moments[0]) + 0.1 * windowed)


def test_unified_norm_gradient_has_no_radial_part() -> None:
    norm = UnifiedNorm(4, eps=0.0).double().train()
    norm(tokens((2, 3, 4), seed=1))
    x = tokens((2, 3, 4), seed=2).requires_grad_()
    norm(x).mul(tokens((2, 3, 4), seed=3)).sum().backward()
    assert x.grad is not None
    # The loss does not change when the whole batch is scaled.
    assert (x.grad * x).sum(dim=(0, 1)).abs().max() < 1e-12


def test_power_norm_trains_its_running_moment() -> None:
    norm = PowerNorm(4, groups=None).double().train()
    x = tokens((2, 3, 4))
    moment = x.square().mean(dim=(0, 1))
    assert_close(norm(x), x / torch.sqrt(moment + 1e-5))
    assert_close(norm.running_phi, 0.9 + 0.1 * moment)


def test_make_norm_refuses_an_unknown_kind() -> None:
    with pytest.raises(ValueError, match=r"expected a norm kind in .*, got 'group'"):
        make_norm("group", 8)


def test_power_norm_refuses_groups_that_do_not_divide() -> None:
    with pytest.raises(ValueError, match="expected groups to divide dim 8, got 3"):
        PowerNorm(8, groups=3)
