"""The decoder block of Llama: RMSNorm, rotary positions, causal attention, SwiGLU; no biases.

References: Touvron et al. 2023, arXiv:2302.13971 (LLaMA); Su et al. 2021, arXiv:2104.09864 (RoPE);
Shazeer 2020, arXiv:2002.05202 (SwiGLU).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .norms import make_norm

_ROPE_BASE = 10000.0


def rope_tables(tokens: int, width: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return cos and sin (tokens, width) of positions 0, 1, ... in the type and place of `like`."""
    halves = torch.arange(0, width, 2, dtype=like.dtype, device=like.device)
    positions = torch.arange(tokens, dtype=like.dtype, device=like.device)
    angles = positions[:, None] * _ROPE_BASE ** (-halves / width)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn x (batch, heads, tokens, width) by tables (tokens, width) or (batch, tokens, width)."""
    first, second = x.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return x * cos.unsqueeze(-3) + turned * sin.unsqueeze(-3)


class RotaryAttention(nn.Module):
    """Causal multi-head self-attention over (batch, tokens, dim) with rotary positions."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        if dim % (2 * heads):
            raise ValueError(f"expected 2 * heads to divide dim {dim}, got heads {heads}")
        self.heads = heads
        self.query = nn.Linear(dim, dim, bias=False)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim, bias=False)
        self.proj = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend to the past, or where `mask` allows, which then has to be causal itself."""
        query = rotate(self._split_heads(self.query(x)), cos, sin)
        key = rotate(self._split_heads(self.key(x)), cos, sin)
        value = self._split_heads(self.value(x))
        y = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=mask is None
        )
        return self.proj(y.transpose(1, 2).reshape(x.shape))

    def _split_heads(self, x: Tensor) -> Tensor:
        """Turn (batch, tokens, dim) into (batch, heads, tokens, width)."""
        batch, tokens, dim = x.shape
        return x.reshape(batch, tokens, self.heads, dim // self.heads).transpose(1, 2)


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)), over (..., dim)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.gate = nn.Linear(dim, hidden, bias=False)
        self.up = nn.Linear(dim, hidden, bias=False)
        self.down = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., dim) to (..., dim)."""
        return self.down(F.silu(self.gate(x)) * self.up(x))


class LlamaBlock(nn.Module):
    """h = x + attention(norm1(x)), then h + mlp(norm2(h)), over (batch, tokens, dim)."""

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = make_norm("rms", dim)
        self.attention = RotaryAttention(dim, heads)
        self.norm2 = make_norm("rms", dim)
        self.mlp = SwiGLU(dim, hidden)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Map tokens to the same shape, each seeing itself and earlier ones."""
        h = x + self.attention(self.norm1(x), cos, sin)
        return h + self.mlp(self.norm2(h))
