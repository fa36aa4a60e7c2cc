"""A small residual conv net whose convs, norms and head are chosen by name.

Reference: He et al. 2016, arXiv:1512.03385 (basic block); the options are in `convs` and
`conv_norms`.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .conv_norms import make_conv_norm
from .convs import make_conv

HEADS = ("linear", "transposed")


@dataclass(frozen=True)
class ConvNetConfig:
    """Shape of a ConvNet: one block per width, each block after the first halving the image.

    conv: "plain", "ws" (with `dialect`) or "scaled_ws"; norm: "batch", "bcn" (with `norm_groups`),
    "ibn" or "none". `groups` is that of the 3x3 convs within blocks. head "linear" gives logits of
    the image; "transposed" gives logits per pixel, upsampled twofold by a transposed conv.
    """

    image_size: int = 16
    channels: int = 3
    widths: tuple[int, ...] = (16, 32)
    classes: int = 10
    conv: str = "plain"
    dialect: str = "official"
    norm: str = "batch"
    norm_groups: int = 4
    groups: int = 1
    bias: bool = False
    head: str = "linear"

    def __post_init__(self) -> None:
        """Check what no layer checks."""
        if self.head not in HEADS:
            raise ValueError(f"expected head in {HEADS}, got {self.head!r}")


class ResidualBlock(nn.Module):
    """conv, norm, ReLU, conv, norm, plus the input (projected if its shape changes), ReLU."""

    def __init__(self, config: ConvNetConfig, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        # IBN-Net puts the split norm first only: the sum's branch keeps plain batch statistics.
        last_norm = "batch" if config.norm == "ibn" else config.norm
        self.conv1 = _conv(config, inputs, outputs, 3, stride, config.groups)
        self.norm1 = make_conv_norm(config.norm, outputs, config.norm_groups)
        self.conv2 = _conv(config, outputs, outputs, 3, 1, config.groups)
        self.norm2 = make_conv_norm(last_norm, outputs, config.norm_groups)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                _conv(config, inputs, outputs, 1, stride),
                make_conv_norm(last_norm, outputs, config.norm_groups),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, inputs, h, w) to (batch, outputs, h/stride, w/stride)."""
        y = F.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        return F.relu(y + self.shortcut(x))


class PixelHead(nn.Module):
    """Transposed conv, BatchNorm, ReLU, 1x1 conv: logits per pixel at twice the size."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.upsample = nn.ConvTranspose2d(width, width, 2, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.classify = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, width, h, w) to (batch, classes, 2h, 2w)."""
        return self.classify(F.relu(self.norm(self.upsample(x))))


class ConvNet(nn.Module):
    """Images (batch, channels, size, size) to logits of images, or of pixels."""

    def __init__(self, config: ConvNetConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.widths
        stem_norm = "batch" if config.norm == "ibn" else config.norm
        self.stem = _conv(config, config.channels, widths[0], 3)
        self.stem_norm = make_conv_norm(stem_norm, widths[0], config.norm_groups)
        sizes = zip((widths[0], *widths), widths, (1, *[2] * len(widths)), strict=False)
        self.blocks = nn.Sequential(*(ResidualBlock(config, *size) for size in sizes))
        self.head: nn.Module
        if config.head == "transposed":
            self.head = PixelHead(widths[-1], config.classes)
        else:
            self.head = nn.Sequential(
                nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(widths[-1], config.classes)
            )

    def forward(self, images: Tensor) -> Tensor:
        """Classify images or their pixels."""
        return self.head(self.blocks(F.relu(self.stem_norm(self.stem(images)))))


def _conv(
    config: ConvNetConfig, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1
) -> nn.Conv2d:
    """Build a conv of the configured kind."""
    # A conv that no norm follows needs its bias.
    bias = config.bias or config.norm == "none"
    return make_conv(config.conv, inputs, outputs, kernel, stride, groups, bias, config.dialect)


def example_inputs(config: ConvNetConfig, batch: int = 1, seed: int = 0) -> tuple[Tensor]:
    """Return one float32 standard-normal image batch, as ConvNet.forward's arguments."""
    generator = torch.Generator().manual_seed(seed)
    size = config.image_size
    return (torch.randn(batch, config.channels, size, size, generator=generator),)
