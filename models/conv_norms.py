"""Norms over images (batch, channels, height, width): Batch-Channel Norm and the IBN-a split.

References: Qiao et al. 2019, arXiv:1911.09738 (Batch-Channel Normalization); Pan et al. 2018,
arXiv:1807.09441 (IBN-Net).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CONV_NORM_KINDS = ("batch", "bcn", "ibn", "none")


class BatchChannelNorm(nn.Module):
    """BatchNorm, then GroupNorm without affine, then a gain and a shift per *group*.

    `weight` and `bias` have shape (1, groups, 1), as released.
    """

    def __init__(self, channels: int, groups: int, eps: float = 1e-5) -> None:
        super().__init__()
        if channels % groups:
            raise ValueError(f"expected groups to divide channels {channels}, got {groups}")
        self.groups = groups
        self.eps = eps
        self.batch_norm = nn.BatchNorm2d(channels, eps=eps)
        self.weight = nn.Parameter(torch.ones(1, groups, 1))
        self.bias = nn.Parameter(torch.zeros(1, groups, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise over the batch, then over each image's channel groups."""
        y = F.group_norm(self.batch_norm(x), self.groups, eps=self.eps)
        y = self.weight * y.reshape(x.shape[0], self.groups, -1) + self.bias
        return y.reshape(x.shape)


class InstanceBatchNorm(nn.Module):
    """IBN-a: affine InstanceNorm on the first `split` channels, BatchNorm on the others.

    The release cuts with a *chunk size* of `split` and uses two chunks, so 2 * split < channels
    would silently drop channels there. Requiring 2 * split >= channels keeps this layer equal to
    the release wherever the release is right.
    """

    def __init__(self, channels: int, split: int | None = None) -> None:
        super().__init__()
        split = channels - channels // 2 if split is None else split
        if not 2 * split >= channels > split:
            raise ValueError(f"expected {channels}/2 <= split < {channels}, got {split}")
        self.split = split
        self.instance_norm = nn.InstanceNorm2d(split, affine=True)
        self.batch_norm = nn.BatchNorm2d(channels - split)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the two channel ranges and join them."""
        head, tail = x.split((self.split, x.shape[1] - self.split), dim=1)
        return torch.cat((self.instance_norm(head), self.batch_norm(tail)), dim=1)


def make_conv_norm(kind: str, channels: int, groups: int = 4) -> nn.Module:
    """Build an image norm; kind is one of CONV_NORM_KINDS, groups is BatchChannelNorm's."""
    match kind:
        case "batch":
            return nn.BatchNorm2d(channels)
        case "bcn":
            return BatchChannelNorm(channels, groups)
        case "ibn":
            return InstanceBatchNorm(channels)
        case "none":
            return nn.Identity()
    raise ValueError(f"expected a conv norm kind in {CONV_NORM_KINDS}, got {kind!r}")
