"""GPT decoder: causal attention, tanh GELU, learned positions, tied or untied language-model head.

Reference: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners" (GPT-2).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .norms import make_norm
from .transformer import MLP, Block, CausalAttention


@dataclass(frozen=True)
class GPTConfig:
    """Shape of a GPT; `tied` shares the token embedding with the head; "post" has no final norm."""

    vocab: int = 50257
    context: int = 1024
    dim: int = 768
    depth: int = 12
    heads: int = 12
    norm: str = "layer"
    norm_position: str = "pre"
    norm_groups: int | None = 1
    tied: bool = True
    qkv_bias: bool = True
    fused_qkv: bool = True


GPT2_SMALL = GPTConfig()
GPT_TINY = GPTConfig(vocab=97, context=32, dim=32, depth=2, heads=4)


class GPT(nn.Module):
    """Token ids int64 (batch, tokens) to logits (batch, tokens, vocab)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab, config.dim)
        self.position_embedding = nn.Embedding(config.context, config.dim)
        self.blocks = nn.Sequential(*(_block(config) for _ in range(config.depth)))
        final = config.norm_position == "pre"
        self.norm = (
            make_norm(config.norm, config.dim, config.norm_groups) if final else nn.Identity()
        )
        self.head = nn.Linear(config.dim, config.vocab, bias=False)
        for table in (self.token_embedding.weight, self.position_embedding.weight):
            nn.init.normal_(table, std=0.02)
        if config.tied:
            self.head.weight = self.token_embedding.weight

    def forward(self, ids: Tensor) -> Tensor:
        """Score the next token at each position."""
        return self.score(self.blocks(self.embed(ids)))

    def embed(self, ids: Tensor) -> Tensor:
        """Return the first block's tokens (batch, tokens, dim)."""
        positions = torch.arange(ids.shape[1], device=ids.device)
        return self.token_embedding(ids) + self.position_embedding(positions)

    def score(self, x: Tensor) -> Tensor:
        """Map the last block's tokens (batch, tokens, dim) to logits (batch, tokens, vocab)."""
        return self.head(self.norm(x))


def _block(config: GPTConfig) -> Block:
    """Build one decoder block."""
    dim = config.dim
    return Block(
        dim,
        CausalAttention(dim, config.heads, config.qkv_bias, config.fused_qkv),
        MLP(dim, 4 * dim, gelu="tanh"),
        norm=config.norm,
        norm_position=config.norm_position,
        norm_groups=config.norm_groups,
    )


def example_inputs(
    config: GPTConfig, batch: int = 1, tokens: int = 16, seed: int = 0
) -> tuple[Tensor]:
    """Return one int64 id batch (batch, tokens), as GPT.forward's arguments."""
    if tokens > config.context:
        raise ValueError(f"expected at most {config.context} tokens, got {tokens}")
    generator = torch.Generator().manual_seed(seed)
    return (torch.randint(config.vocab, (batch, tokens), generator=generator),)
