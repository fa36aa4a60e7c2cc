"""Standardised weights and image norms against numpy, in float64."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from passel.models import (
    BatchChannelNorm,
    ConvNet,
    ConvNetConfig,
    InstanceBatchNorm,
    ScaledWSConv2d,
    WSConv2d,
    make_conv,
    make_conv_norm,
    randomize,
)
from passel.models.convs import WS_DIALECTS

BOUND = 1e-12


def image(channels: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, channels, 5, 4, generator=generator, dtype=torch.float64) + 0.5


def standardized(filters: np.ndarray, dialect: str) -> np.ndarray:
    """Standardise one filter after another, as each release writes it."""
    rows = []
    for row in filters:
        centred = row - row.mean()
        divisor = {
            "official": row.std(ddof=1) + 1e-5,
            "bcn": math.sqrt(row.var(ddof=1) + 1e-5),
            "tf": row.std() + 1e-5,
            "timm": math.sqrt(row.var() + 1e-6),
        }[dialect]
        rows.append(centred / divisor)
    return np.stack(rows)


@pytest.mark.parametrize("dialect", WS_DIALECTS)
@pytest.mark.parametrize("groups", [1, 2])
def test_weight_standardization(dialect: str, groups: int) -> None:
    conv = WSConv2d(4, 6, 3, groups=groups, dialect=dialect).double()
    conv.weight.data *= 0.01  # small weights are where the dialects part
    expected = standardized(conv.weight.detach().numpy(), dialect)
    np.testing.assert_allclose(conv.standardized_weight().detach().numpy(), expected, atol=BOUND)
    plain = torch.nn.functional.conv2d(
        image(4), torch.from_numpy(expected), conv.bias, groups=groups
    )
    torch.testing.assert_close(conv(image(4)), plain, rtol=0, atol=1e-10)


def test_weight_standardization_dialects_differ() -> None:
    weight = 1e-3 * np.random.default_rng(0).standard_normal((2, 1, 3, 3))
    norms = [np.linalg.norm(standardized(weight, dialect)) for dialect in WS_DIALECTS]
    assert min(abs(a - b) for i, a in enumerate(norms) for b in norms[:i]) > 1e-3


def test_scaled_weight_standardization() -> None:
    conv = randomize(ScaledWSConv2d(4, 6, 3).double())
    weight, gain = conv.weight.detach().numpy(), conv.gain.detach().numpy()
    scale = math.sqrt(2 / (1 - 1 / math.pi)) / math.sqrt(4 * 3 * 3)
    expected = gain * scale * standardized(weight, "timm")
    np.testing.assert_allclose(conv.standardized_weight().detach().numpy(), expected, atol=BOUND)


def test_batch_channel_norm() -> None:
    norm = randomize(BatchChannelNorm(6, groups=2).double()).eval()
    x, batch = image(6), norm.batch_norm
    mean, var, gain, shift = (
        t.detach().numpy().reshape(1, -1, 1, 1)
        for t in (batch.running_mean, batch.running_var, batch.weight, batch.bias)
    )
    y = gain * (x.numpy() - mean) / np.sqrt(var + 1e-5) + shift
    expected = np.empty_like(y)
    for n in range(2):
        for g in range(2):
            part = y[n, 3 * g : 3 * g + 3]
            part = (part - part.mean()) / np.sqrt(part.var() + 1e-5)
            expected[n, 3 * g : 3 * g + 3] = (
                part * norm.weight[0, g].item() + norm.bias[0, g].item()
            )
    np.testing.assert_allclose(norm(x).detach().numpy(), expected, atol=BOUND)


def test_instance_batch_norm_splits_channels() -> None:
    norm = randomize(InstanceBatchNorm(5, split=3).double()).eval()
    x = image(5).numpy()
    head, tail = x[:, :3], x[:, 3:]
    head = (head - head.mean((2, 3), keepdims=True)) / np.sqrt(
        head.var((2, 3), keepdims=True) + 1e-5
    )
    instance, batch = norm.instance_norm, norm.batch_norm
    mean, var, gain, shift = (
        np.concatenate([a, b.detach().numpy()]).reshape(1, -1, 1, 1)
        for a, b in (
            (np.zeros(3), batch.running_mean),
            (np.full(3, 1 - 1e-5), batch.running_var),
            (instance.weight.detach().numpy(), batch.weight),
            (instance.bias.detach().numpy(), batch.bias),
        )
    )
    expected = gain * (np.concatenate([head, tail], 1) - mean) / np.sqrt(var + 1e-5) + shift
    np.testing.assert_allclose(norm(torch.from_numpy(x)).detach().numpy(), expected, atol=BOUND)


def test_instance_batch_norm_refuses_a_split_below_half() -> None:
    with pytest.raises(ValueError, match="expected 8/2 <= split < 8, got 3"):
        InstanceBatchNorm(8, split=3)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected a conv kind in .*, got 'sparse'"):
        make_conv("sparse", 4, 4, 3)
    with pytest.raises(ValueError, match=r"expected a conv norm kind in .*, got 'layer'"):
        make_conv_norm("layer", 4)
    with pytest.raises(ValueError, match=r"expected a dialect in .*, got 'haiku'"):
        WSConv2d(4, 4, 3, dialect="haiku")
    with pytest.raises(ValueError, match=r"expected head in .*, got 'none'"):
        ConvNetConfig(head="none")


def test_transposed_head_scores_pixels() -> None:
    config = ConvNetConfig(widths=(8, 16), head="transposed", classes=3)
    assert ConvNet(config).eval()(torch.zeros(2, 3, 16, 16)).shape == (2, 3, 16, 16)
