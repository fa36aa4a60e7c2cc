"""fold-affine on images: batch norms around convolutions of every kind, IBN, gates."""

import pytest
import torch
from torch import nn

from passel.models import ConvNet, ConvNetConfig, FeatureSelectionGate, convnet_inputs
from passel.passes import Canonicalize, FoldAffine, FoldConstants

FOLD = (Canonicalize(), FoldConstants(), Canonicalize(), FoldAffine(), Canonicalize())
CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
ARITHMETIC = ("mul", "div", "add", "sub", "sqrt", "rsqrt", "Affine", "BatchNorm")


def image(channels=8, spatial=2, size=6):
    return (
        torch.randn(2, channels, *[size] * spatial, generator=torch.Generator().manual_seed(0)),
    )


class FrozenBatchNorm(nn.Module):
    """torchvision's: four buffers, and arithmetic on them at every call."""

    def __init__(self, channels):
        super().__init__()
        for name in ("weight", "running_var"):
            self.register_buffer(name, torch.rand(channels) + 0.5)
        for name in ("bias", "running_mean"):
            self.register_buffer(name, torch.randn(channels))

    def forward(self, x):
        w, b = self.weight.reshape(1, -1, 1, 1), self.bias.reshape(1, -1, 1, 1)
        var = self.running_var.reshape(1, -1, 1, 1)
        scale = w * (var + 1e-5).rsqrt()
        return x * scale + (b - self.running_mean.reshape(1, -1, 1, 1) * scale)


@pytest.mark.parametrize("spatial", [1, 2, 3])
@pytest.mark.parametrize("bias", [False, True])
def test_batch_norm_after_a_conv(view, spatial, bias):
    conv = CONVS[spatial](8, 6, 3, padding=1, bias=bias)
    model = nn.Sequential(conv, NORMS[spatial](6), nn.ReLU())
    assert view.apply(model, image(spatial=spatial), *FOLD).after == {"Conv": 1, "relu": 1}


@pytest.mark.parametrize("groups", [2, 8])
def test_batch_norm_after_a_grouped_conv(view, groups):
    conv = nn.Conv2d(8, 16, 3, padding=1, groups=groups)
    outcome = view.apply(nn.Sequential(conv, nn.BatchNorm2d(16)), image(), *FOLD)
    assert outcome.after == {"Conv": 1}


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("spatial", [1, 2])
def test_batch_norm_after_a_transposed_conv(view, groups, spatial):
    conv = TRANSPOSED[spatial](8, 12, 3, stride=2, padding=1, output_padding=1, groups=groups)
    model = nn.Sequential(conv, NORMS[spatial](12))
    assert view.apply(model, image(spatial=spatial), *FOLD).after == {"Conv": 1}


@pytest.mark.parametrize("groups", [1, 4])
def test_batch_norm_before_a_transposed_conv_leaves_its_shift(view, groups):
    model = nn.Sequential(nn.BatchNorm2d(8), nn.ConvTranspose2d(8, 12, 3, groups=groups))
    outcome = view.apply(model, image(), *FOLD)
    assert outcome.after == {"Affine": 1, "Conv": 1}
    assert outcome.refused("a shift does not pass the zero padding of a convolution")


@pytest.mark.parametrize("groups", [1, 2, 8])
@pytest.mark.parametrize("padding", [0, 1, "same"])
def test_batch_norm_before_a_conv(either_view, padding, groups):
    conv = nn.Conv2d(8, 16, 3, padding=padding, groups=groups)
    outcome = either_view.apply(nn.Sequential(nn.BatchNorm2d(8), conv), image(), *FOLD)
    assert outcome.count("BatchNorm") == 0
    assert outcome.count("Affine") == (padding != 0)
    for affine in outcome.graph.ops:
        if affine.kind == "Affine":
            assert affine.scale is None
            assert affine.shift is not None


def test_batch_norm_before_a_linear(view):
    model = nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 4), nn.BatchNorm1d(4))
    assert view.apply(model, (torch.randn(3, 8),), *FOLD).after == {"Linear": 1}


@pytest.mark.parametrize("start", [1, 2])
def test_batch_norm_before_a_flattened_linear(view, start):
    # The channel axis ends up repeated inside the features of the Linear.
    model = nn.Sequential(
        nn.BatchNorm2d(8), nn.Flatten(start), nn.Linear(8 * 9 if start == 1 else 9, 4)
    )
    outcome = view.apply(model, image(size=3), *FOLD)
    assert outcome.count("BatchNorm", "Affine") == (start == 2)
    if start == 2:
        assert outcome.refused("the map does not vary along the channel axis")


def test_frozen_batch_norm(view):
    model = nn.Sequential(nn.Conv2d(8, 8, 3, bias=False), FrozenBatchNorm(8), nn.ReLU())
    assert view.apply(model, image(), *FOLD).after == {"Conv": 1, "relu": 1}


@pytest.mark.parametrize("norm", ["batch", "ibn", "bcn"])
@pytest.mark.parametrize("groups", [1, 4])
def test_conv_nets(either_view, norm, groups):
    config = ConvNetConfig(image_size=8, widths=(8, 16), norm=norm, groups=groups)
    outcome = either_view.apply(ConvNet(config), convnet_inputs(config), *FOLD)
    assert outcome.count("BatchNorm") == 0
    if norm == "batch":
        assert outcome.count("Affine", "mul") == 0


def test_transposed_head(either_view):
    config = ConvNetConfig(image_size=8, widths=(8,), head="transposed")
    outcome = either_view.apply(ConvNet(config), convnet_inputs(config), *FOLD)
    assert outcome.count("BatchNorm", "Affine") == 0


def test_batch_norm_after_the_sum_of_two_convs(view):
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(8, 6, 3), nn.Conv2d(8, 6, 3, bias=False)
            self.norm = nn.BatchNorm2d(6)

        def forward(self, x):
            return self.norm(self.a(x) - self.b(x))

    assert view.apply(Sum(), image(), *FOLD).after == {"Conv": 2, "sub": 1}


def test_batch_norm_of_a_concatenation(view):
    class Joined(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(8, 6, 1), nn.Conv2d(8, 4, 1)
            self.norm, self.last = nn.BatchNorm2d(10), nn.Conv2d(10, 2, 1)

        def forward(self, x):
            return self.norm(torch.cat((self.a(x), self.b(x)), 1)).relu()

    assert view.apply(Joined(), image(), *FOLD).after == {"Conv": 2, "Concat": 1, "relu": 1}


def test_dense_net_reads_one_map_through_concatenations(view):
    class Dense(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.grow = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 4, 1)
            self.gain = nn.Parameter(torch.rand(1, 4, 1, 1) + 0.5)
            self.last = nn.Conv2d(8, 2, 1)

        def forward(self, x):
            y = torch.sigmoid(self.stem(x)) * self.gain
            return self.last(torch.cat((y, self.grow(y)), 1))

    outcome = view.apply(Dense(), image(), *FOLD)
    assert outcome.after == {"Conv": 3, "sigmoid": 1, "Concat": 1}


def test_pixel_shuffled_and_pooled_channels(view):
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.head = nn.BatchNorm2d(8), nn.Linear(8, 3)

        def forward(self, x):
            return self.head(self.norm(x.exp()).mean(dim=(2, 3)))

    outcome = view.apply(Pooled(), image(), *FOLD)
    assert outcome.count("BatchNorm", "Affine") == 0


def test_gate_on_channels_of_a_residual_block(view):
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.gate = nn.Conv2d(8, 8, 3, padding=1), FeatureSelectionGate(8)

        def forward(self, x):
            y = self.gate(torch.relu(self.conv(x)).permute(0, 2, 3, 1))
            return x + y.permute(0, 3, 1, 2)

    outcome = view.apply(Gated(), image(), *FOLD)
    assert outcome.after == {"Conv": 1, "relu": 1, "add": 1}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_low_precision(fx_view, dtype):
    model = nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))
    outcome = fx_view.apply(model, image(), *FOLD, dtype=dtype)
    assert outcome.after == {"Conv": 2, "relu": 1}
