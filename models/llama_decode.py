"""One step of a Llama-shaped decoder: a token and what is kept of those before, to logits.

Keys and values come in and go out, one position longer, so that any runtime can run the loop; the
number of past positions is dynamic. Weights are random.

References: Touvron et al. 2023, arXiv:2302.13971 (LLaMA); Ainslie et al. 2023, arXiv:2305.13245
(grouped-query attention).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .llama import SwiGLU, rotate
from .norms import make_norm

_ROPE_BASE = 10000.0


@dataclass(frozen=True)
class LlamaDecodeConfig:
    """Shape of the decoder; `heads` queries share `kv_heads` keys and values."""

    vocab: int = 32000
    dim: int = 768
    depth: int = 16
    heads: int = 12
    kv_heads: int = 4
    hidden: int = 2048

    def __post_init__(self) -> None:
        """Check what no layer checks."""
        if self.dim % (2 * self.heads):
            raise ValueError(f"expected 2 * heads to divide dim {self.dim}, got heads {self.heads}")
        if self.heads % self.kv_heads:
            raise ValueError(f"expected kv_heads to divide heads {self.heads}, got {self.kv_heads}")

    @property
    def width(self) -> int:
        """Channels of one head."""
        return self.dim // self.heads


LLAMA_150M = LlamaDecodeConfig()
LLAMA_DECODE_TINY = LlamaDecodeConfig(vocab=97, dim=32, depth=2, heads=4, kv_heads=2, hidden=64)


class DecodeAttention(nn.Module):
    """Attention of one new token to all positions so far, itself included; no mask is needed."""

    def __init__(self, config: LlamaDecodeConfig) -> None:
        super().__init__()
        self.kv_heads, self.width = config.kv_heads, config.width
        kept = config.kv_heads * config.width
        self.query = nn.Linear(config.dim, config.dim, bias=False)
        self.key = nn.Linear(config.dim, kept, bias=False)
        self.value = nn.Linear(config.dim, kept, bias=False)
        self.proj = nn.Linear(config.dim, config.dim, bias=False)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Map x (batch, 1, dim) to the same, and past keys and values to those one longer.

        Queries that share a key lie along the token axis, (batch, kv_heads, heads / kv_heads,
        width), so keys (batch, kv_heads, past, width) are not repeated.
        """
        shape = (x.shape[0], self.kv_heads, -1, self.width)
        query = rotate(self.query(x).reshape(shape), cos, sin)
        keys = torch.cat((keys, rotate(self.key(x).reshape(shape), cos, sin)), dim=2)
        values = torch.cat((values, self.value(x).reshape(shape)), dim=2)
        y = F.scaled_dot_product_attention(query, keys, values)
        return self.proj(y.reshape(x.shape)), keys, values


class DecodeBlock(nn.Module):
    """h = x + attention(norm1(x)), then h + mlp(norm2(h)), for one new token."""

    def __init__(self, config: LlamaDecodeConfig) -> None:
        super().__init__()
        self.norm1 = make_norm("rms", config.dim)
        self.attention = DecodeAttention(config)
        self.norm2 = make_norm("rms", config.dim)
        self.mlp = SwiGLU(config.dim, config.hidden)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As DecodeAttention.forward."""
        y, keys, values = self.attention(self.norm1(x), cos, sin, keys, values)
        h = x + y
        return h + self.mlp(self.norm2(h)), keys, values


class LlamaDecode(nn.Module):
    """A token, its position and the past to the next token's logits and the longer past."""

    def __init__(self, config: LlamaDecodeConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab, config.dim)
        self.blocks = nn.ModuleList(DecodeBlock(config) for _ in range(config.depth))
        self.norm = make_norm("rms", config.dim)
        self.head = nn.Linear(config.dim, config.vocab, bias=False)

    def forward(
        self, token: Tensor, position: Tensor, past: Sequence[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """Take token and position int64 (batch, 1); past keys, values, keys, ... of the blocks.

        Each of the 2 * depth is (batch, kv_heads, past, width). Logits are (batch, 1, vocab).
        """
        x = self.token_embedding(token)
        cos, sin = self._rope(position)
        present: list[Tensor] = []
        for index, block in enumerate(self.blocks):
            x, keys, values = block(x, cos, sin, past[2 * index], past[2 * index + 1])
            present += [keys, values]
        return self.head(self.norm(x)), present

    def _rope(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """Return cos and sin (batch, 1, width) of the position."""
        width = self.config.width
        like = self.token_embedding.weight
        halves = torch.arange(0, width, 2, dtype=like.dtype, device=like.device)
        angles = position.unsqueeze(-1).to(like.dtype) * _ROPE_BASE ** (-halves / width)
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos(), angles.sin()


def example_inputs(
    config: LlamaDecodeConfig, batch: int = 1, past: int = 128, seed: int = 0
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Return a token after `past` random positions, as LlamaDecode.forward's arguments."""
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, config.kv_heads, past, config.width)
    kept = [torch.randn(shape, generator=generator) for _ in range(2 * config.depth)]
    token = torch.randint(config.vocab, (batch, 1), generator=generator)
    return token, torch.full((batch, 1), past), kept


def dynamic_shapes(config: LlamaDecodeConfig) -> tuple[object, ...]:
    """Return the dynamic dimensions of the arguments, as torch.export takes them: the past's."""
    past = torch.export.Dim("past", min=1)
    return None, None, [{2: past} for _ in range(2 * config.depth)]


def names(config: LlamaDecodeConfig) -> tuple[list[str], list[str]]:
    """Return ONNX names of the inputs and outputs, in the order of the flattened arguments."""
    kinds = [(kind, block) for block in range(config.depth) for kind in ("key", "value")]
    past = [f"past_{kind}_{block}" for kind, block in kinds]
    present = [f"present_{kind}_{block}" for kind, block in kinds]
    return ["token", "position", *past], ["logits", *present]
