"""The transformer block shared by the ViT and the GPT: attention, MLP, norms, residual adds.

References: Vaswani et al. 2017, arXiv:1706.03762 (post-norm); Xiong et al. 2020, arXiv:2002.04745
(pre-norm); Touvron et al. 2021, arXiv:2103.17239 (LayerScale).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .norms import make_norm

NORM_POSITIONS = ("pre", "post")


class Attention(nn.Module):
    """Multi-head self-attention over (batch, tokens, dim); heads are dim / heads wide.

    fused: one Linear of width 3*dim, reshaped to (batch, tokens, 3, heads, width) as in most ViTs;
    otherwise three Linears.
    """

    def __init__(self, dim: int, heads: int, bias: bool = True, fused: bool = True) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"expected heads to divide dim {dim}, got {heads}")
        self.heads = heads
        self.fused = fused
        if fused:
            self.qkv = nn.Linear(dim, 3 * dim, bias=bias)
        else:
            self.query = nn.Linear(dim, dim, bias=bias)
            self.key = nn.Linear(dim, dim, bias=bias)
            self.value = nn.Linear(dim, dim, bias=bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend among all tokens, or where `mask` allows, which is as F.sdpa takes it."""
        query, key, value = self._heads(x)
        y = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.proj(y.transpose(1, 2).reshape(x.shape))

    def _heads(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return query, key and value, each (batch, heads, tokens, width)."""
        if self.fused:
            batch, tokens, dim = x.shape
            qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, dim // self.heads)
            return qkv.permute(2, 0, 3, 1, 4).unbind(0)
        return tuple(self._split_heads(layer(x)) for layer in (self.query, self.key, self.value))

    def _split_heads(self, x: Tensor) -> Tensor:
        """Turn (batch, tokens, dim) into (batch, heads, tokens, width)."""
        batch, tokens, dim = x.shape
        return x.reshape(batch, tokens, self.heads, dim // self.heads).transpose(1, 2)


class CausalAttention(Attention):
    """Attention in which a token sees itself and earlier ones; fused qkv is split, as in GPT-2."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend to the past, or where `mask` allows, which then has to be causal itself."""
        query, key, value = self._heads(x)
        y = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=mask is None
        )
        return self.proj(y.transpose(1, 2).reshape(x.shape))

    def _heads(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return query, key and value, each (batch, heads, tokens, width)."""
        if not self.fused:
            return super()._heads(x)
        return tuple(self._split_heads(part) for part in self.qkv(x).split(x.shape[-1], dim=-1))


class MLP(nn.Module):
    """Linear, GELU, Linear; `gelu` is torch's name of the approximation, "none" or "tanh"."""

    def __init__(self, dim: int, hidden: int, gelu: str = "none") -> None:
        super().__init__()
        self.expand = nn.Linear(dim, hidden)
        self.activation = nn.GELU(approximate=gelu)
        self.contract = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., dim) to (..., dim)."""
        return self.contract(self.activation(self.expand(x)))


class LayerScale(nn.Module):
    """A learned gain per channel at the end of a residual branch."""

    def __init__(self, dim: int, initial: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((dim,), initial))

    def forward(self, x: Tensor) -> Tensor:
        """Scale (..., dim)."""
        return x * self.scale


class Block(nn.Module):
    """Attention and MLP branches: x + f(norm(x)) at "pre", norm(x + f(x)) at "post"."""

    def __init__(
        self,
        dim: int,
        attention: nn.Module,
        mlp: nn.Module,
        norm: str = "layer",
        norm_position: str = "pre",
        norm_groups: int | None = 1,
        layer_scale: float | None = None,
    ) -> None:
        super().__init__()
        if norm_position not in NORM_POSITIONS:
            raise ValueError(f"expected norm_position in {NORM_POSITIONS}, got {norm_position!r}")
        self.norm_position = norm_position
        self.norm1 = make_norm(norm, dim, norm_groups)
        self.attention = attention
        self.scale1 = nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale)
        self.norm2 = make_norm(norm, dim, norm_groups)
        self.mlp = mlp
        self.scale2 = nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (batch, tokens, dim) to the same shape."""
        if self.norm_position == "pre":
            x = x + self.scale1(self.attention(self.norm1(x)))
            return x + self.scale2(self.mlp(self.norm2(x)))
        x = self.norm1(x + self.scale1(self.attention(x)))
        return self.norm2(x + self.scale2(self.mlp(x)))
