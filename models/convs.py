"""Convolutions whose weight is standardised at run time, from parameters alone.

References: Qiao et al. 2019, arXiv:1903.10520 (Weight Standardization); Brock et al. 2021,
arXiv:2101.08692 (scaled weight standardization).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CONV_KINDS = ("plain", "ws", "scaled_ws")
WS_DIALECTS = ("official", "bcn", "tf", "timm")
# 1 / std(relu(z)) for standard normal z: keeps the variance of activations through Conv + ReLU.
RELU_GAIN = math.sqrt(2 / (1 - 1 / math.pi))


class WSConv2d(nn.Conv2d):
    """Conv2d with each filter of weight (out, in/groups, kh, kw) brought to mean 0 and std 1.

    Four releases disagree on where eps goes and on the variance's divisor, k = in/groups * kh * kw:
    "official" std_(k-1) + 1e-5; "bcn" sqrt(var_(k-1) + 1e-5); "tf" std_k + 1e-5;
    "timm" sqrt(var_k + 1e-6), spelled as a training-mode batch norm over the filters, since that
    spelling is what a constant-folding pass has to survive.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        bias: bool = True,
        dialect: str = "official",
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=bias
        )
        if dialect not in WS_DIALECTS:
            raise ValueError(f"expected a dialect in {WS_DIALECTS}, got {dialect!r}")
        self.dialect = dialect

    def forward(self, input: Tensor) -> Tensor:
        """Convolve (batch, in, height, width) with the standardised weight."""
        return self._conv_forward(input, self.standardized_weight(), self.bias)

    def standardized_weight(self) -> Tensor:
        """Return the weight that is convolved with, in the weight's shape."""
        weight = self.weight
        if self.dialect == "timm":
            filters = weight.reshape(1, weight.shape[0], -1)
            return F.batch_norm(filters, None, None, training=True, eps=1e-6).reshape(weight.shape)
        centred = weight - weight.mean(dim=(1, 2, 3), keepdim=True)
        unbiased = self.dialect != "tf"
        variance = weight.var(dim=(1, 2, 3), keepdim=True, unbiased=unbiased)
        if self.dialect == "bcn":
            return centred / torch.sqrt(variance + 1e-5)
        return centred / (variance.sqrt() + 1e-5)


class ScaledWSConv2d(nn.Conv2d):
    """Conv2d with weight gain[out] * RELU_GAIN / sqrt(k) * (w - mean) / sqrt(var_k + eps).

    k = in/groups * kh * kw, and mean and variance are those of a filter.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        bias: bool = True,
        eps: float = 1e-6,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=bias
        )
        self.gain = nn.Parameter(torch.ones(out_channels, 1, 1, 1))
        self.eps = eps

    def forward(self, input: Tensor) -> Tensor:
        """Convolve (batch, in, height, width) with the standardised weight."""
        return self._conv_forward(input, self.standardized_weight(), self.bias)

    def standardized_weight(self) -> Tensor:
        """Return the weight that is convolved with, in the weight's shape."""
        weight = self.weight
        mean = weight.mean(dim=(1, 2, 3), keepdim=True)
        variance = weight.var(dim=(1, 2, 3), keepdim=True, unbiased=False)
        scale = RELU_GAIN / math.sqrt(math.prod(weight.shape[1:]))
        return self.gain * scale * (weight - mean) / torch.sqrt(variance + self.eps)


def make_conv(
    kind: str,
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    stride: int = 1,
    groups: int = 1,
    bias: bool = False,
    dialect: str = "official",
) -> nn.Conv2d:
    """Build a same-padded conv; kind is one of CONV_KINDS, dialect is WSConv2d's."""
    padding = kernel_size // 2
    common = (in_channels, out_channels, kernel_size, stride, padding)
    match kind:
        case "plain":
            return nn.Conv2d(*common, groups=groups, bias=bias)
        case "ws":
            return WSConv2d(*common, groups=groups, bias=bias, dialect=dialect)
        case "scaled_ws":
            return ScaledWSConv2d(*common, groups=groups, bias=bias)
    raise ValueError(f"expected a conv kind in {CONV_KINDS}, got {kind!r}")
