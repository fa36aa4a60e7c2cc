"""Token norms over the last axis: Unified Norm, PowerNorm and BatchNorm over tokens.

All three take float tokens of shape (batch, tokens, dim) or (tokens, dim) and keep the shape. Their
evaluation is what passes see in exported graphs; training is the plainest version that learns.

References: Yang et al. 2022, arXiv:2208.01313 (Unified Norm); Shen et al. 2020, arXiv:2003.07845
(PowerNorm).
"""

from collections import deque

import torch
from torch import Tensor, nn

NORM_KINDS = ("layer", "rms", "unified", "power", "batch")
# Keeps log() finite for a channel that is exactly zero over a whole batch.
_SMALLEST_MOMENT = 1e-12


class UnifiedNorm(nn.Module):
    """y = weight * x / sqrt(running_var + eps) + bias, with no mean subtracted.

    Evaluation follows the released UN1d step by step: move channels to axis 1, reshape to
    (batch, dim, tokens, 1), divide, scale, shift, and go back, so exported graphs look alike.
    `running_var` [dim] keeps the released name although it holds a running mean of x^2.

    Training divides by the geometric mean of the last `window` batch moments E[x^2] and averages
    it into `running_var` with decay 0.9. The gradient is plain autograd through the *current*
    batch moment; the rest of the window is a constant. Warm-up, outlier filtration and the
    smoothed gradient statistics of the paper are left out.
    """

    running_var: Tensor

    def __init__(self, dim: int, eps: float = 1e-5, decay: float = 0.9, window: int = 4) -> None:
        super().__init__()
        self.eps = eps
        self.decay = decay
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))
        self.register_buffer("running_var", torch.ones(dim))
        # A plain deque: as a buffer it would be exported as an input that nothing reads.
        self._moments: deque[Tensor] = deque(maxlen=window)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise tokens (batch, tokens, dim) or (tokens, dim)."""
        if x.dim() == 2:
            return self.forward(x.unsqueeze(0)).squeeze(0)
        moment = self._windowed_moment(x) if self.training else self.running_var
        channels_first = x.permute(0, 2, 1).contiguous()
        y = channels_first.reshape(x.shape[0], x.shape[2], -1).unsqueeze(-1)
        y = y / (moment.view(1, -1, 1, 1) + self.eps).sqrt()
        y = self.weight.view(1, -1, 1, 1) * y + self.bias.view(1, -1, 1, 1)
        return y.reshape(channels_first.shape).permute(0, 2, 1).contiguous()

    def _windowed_moment(self, x: Tensor) -> Tensor:
        """Return the window's geometric mean of E[x^2], shape (dim,), and record it."""
        moment = x.square().mean(dim=(0, 1)).clamp_min(_SMALLEST_MOMENT)
        self._moments.append(moment.detach())
        windowed = torch.stack(tuple(self._moments)).log().mean(0).exp()
        self.running_var.lerp_(windowed, 1 - self.decay)
        # Value of the window, relative gradient of the current batch: with the gradient divided
        # by the window's length instead, gradients stay radial and training drifts.
        return windowed * (moment / moment.detach())


class PowerNorm(nn.Module):
    """y = weight * u / sqrt(running_phi + eps) + bias, with u scaled per token and group.

    u = x / sqrt(mean of x^2 over the token's channel group + eps), computed from the input even in
    evaluation: with one group the layer equals RMSNorm(weight / sqrt(running_phi + eps)) + bias.
    `groups` splits dim (the release uses the number of heads); `groups=None` leaves u = x, a
    static layer. `running_phi` [dim] is a running mean of u^2.

    Training uses the batch moment with plain autograd (PN-V in the paper), without the smoothed
    gradient statistics.
    """

    running_phi: Tensor

    def __init__(
        self, dim: int, groups: int | None = 1, eps: float = 1e-5, decay: float = 0.9
    ) -> None:
        super().__init__()
        if groups is not None and (groups < 1 or dim % groups):
            raise ValueError(f"expected groups to divide dim {dim}, got {groups}")
        self.groups = groups
        self.eps = eps
        self.decay = decay
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))
        self.register_buffer("running_phi", torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise tokens (..., dim)."""
        u = self._scale_groups(x)
        phi = self._batch_moment(u) if self.training else self.running_phi
        return self.weight * (u / (phi + self.eps).sqrt()) + self.bias

    def _scale_groups(self, x: Tensor) -> Tensor:
        """Divide each token's channel group by its root mean square."""
        if self.groups is None:
            return x
        grouped = x.reshape(*x.shape[:-1], self.groups, x.shape[-1] // self.groups)
        moment = (grouped * grouped).mean(dim=-1, keepdim=True)
        return (grouped / torch.sqrt(moment + self.eps)).reshape(x.shape)

    def _batch_moment(self, u: Tensor) -> Tensor:
        """Return E[u^2] over all tokens, shape (dim,), and average it into running_phi."""
        moment = u.square().flatten(0, -2).mean(0)
        self.running_phi.lerp_(moment.detach(), 1 - self.decay)
        return moment


class TokenBatchNorm(nn.Module):
    """BatchNorm1d whose batch is all tokens of (batch, tokens, dim), or of (tokens, dim)."""

    def __init__(self, dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(dim, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each channel with statistics over batch and tokens."""
        if x.dim() == 2:
            return self.norm(x)
        return self.norm(x.transpose(1, 2)).transpose(1, 2)


def make_norm(kind: str, dim: int, groups: int | None = 1) -> nn.Module:
    """Build a token norm of `dim` channels; kind is one of NORM_KINDS, groups is PowerNorm's."""
    match kind:
        case "layer":
            return nn.LayerNorm(dim, eps=1e-6)
        case "rms":
            return nn.RMSNorm(dim, eps=1e-6)
        case "unified":
            return UnifiedNorm(dim)
        case "power":
            return PowerNorm(dim, groups)
        case "batch":
            return TokenBatchNorm(dim)
    raise ValueError(f"expected a norm kind in {NORM_KINDS}, got {kind!r}")
