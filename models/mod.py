"""Mixture-of-Depths GPT and ViT: in some blocks, only the tokens that a router chose are computed.

y = x + mask * w * f(x), where f is everything that a block adds to x, w a weight from the router's
logit r = Linear(dim, 1)(x), and mask the k tokens of largest r. `forward` computes f on all tokens
and masks: the form that trains. `forward_gathered` computes it on the kept tokens only, and is
written apart, so each is the other's oracle.

Choosing the k largest of a whole sequence looks ahead: a MoD GPT is causal only in its attention.

Reference: Raposo et al. 2024, arXiv:2404.02258.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .gpt import GPT, GPTConfig
from .routing import (
    add_where_kept,
    attention_mask,
    capacity,
    check_mask_form,
    check_ratio,
    gather_tokens,
    scatter_tokens,
    top_k_mask,
)
from .transformer import Block
from .vit import ViT, ViTConfig

WEIGHTS = ("sigmoid", "raw")


@dataclass(frozen=True)
class Routing:
    """Which blocks route, and how.

    ratio: share of tokens to keep. every: blocks every-1, 2*every-1, ... route, so the first one
    does not unless `every` is 1. mask_form: one of routing.MASK_FORMS. weight: sigmoid of the
    router's logit, or the "raw" logit.
    """

    ratio: float = 0.5
    every: int = 2
    mask_form: str = "where"
    weight: str = "sigmoid"

    def __post_init__(self) -> None:
        """Check what no layer checks."""
        check_ratio(self.ratio)
        check_mask_form(self.mask_form)
        if self.every < 1:
            raise ValueError(f"expected every to be at least 1, got {self.every}")
        if self.weight not in WEIGHTS:
            raise ValueError(f"expected weight in {WEIGHTS}, got {self.weight!r}")

    def routes(self, layer: int) -> bool:
        """Whether block `layer`, counted from 0, routes."""
        return (layer + 1) % self.every == 0


class MoDBlock(nn.Module):
    """A pre-norm block that leaves the tokens as they are that its router did not choose.

    The first `always_kept` tokens are not routed: they are computed with weight 1. `causal` is
    that of the block's attention.
    """

    def __init__(
        self, block: Block, dim: int, routing: Routing, always_kept: int = 0, causal: bool = False
    ) -> None:
        super().__init__()
        if block.norm_position != "pre":
            raise ValueError(f"expected norm_position 'pre', got {block.norm_position!r}")
        self.routing = routing
        self.always_kept = always_kept
        self.causal = causal
        self.router = nn.Linear(dim, 1)
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (batch, tokens, dim) to the same shape, all of them computed."""
        logits = self._logits(x)
        k = capacity(self.routing.ratio, logits.shape[1])
        mask = self._before(top_k_mask(logits, k, self.routing.mask_form))
        weight = self._before(self._weight(logits))
        update = residual_update(self.block, x, attention_mask(mask, self.causal))
        return add_where_kept(mask, x, weight[..., None] * update)

    def forward_gathered(self, x: Tensor) -> Tensor:
        """Compute the same on the kept tokens only, in their order."""
        first = self.always_kept
        logits = self._logits(x)
        k = capacity(self.routing.ratio, logits.shape[1])
        chosen = logits.topk(k, dim=1).indices.sort(dim=1).values
        weight = self._before(self._weight(logits).gather(1, chosen))
        fixed = torch.arange(first, device=x.device).expand(len(x), first)
        index = torch.cat((fixed, chosen + first), dim=1)
        kept = gather_tokens(x, index)
        update = self.block(kept) - kept
        return scatter_tokens(x, index, kept + weight[..., None] * update)

    def _logits(self, x: Tensor) -> Tensor:
        """Return the router's logits (batch, routed tokens)."""
        routed = x[:, self.always_kept :] if self.always_kept else x
        return self.router(routed).squeeze(-1)

    def _weight(self, logits: Tensor) -> Tensor:
        """Return what the update of each token is multiplied by, in the logits' shape."""
        return torch.sigmoid(logits) if self.routing.weight == "sigmoid" else logits

    def _before(self, values: Tensor) -> Tensor:
        """Put ones for the tokens that are always kept before those of (batch, routed tokens)."""
        if not self.always_kept:
            return values
        return torch.cat((values.new_ones(values.shape[0], self.always_kept), values), dim=1)


def residual_update(block: Block, x: Tensor, mask: Tensor) -> Tensor:
    """Return what a pre-norm `block` adds to x (batch, tokens, dim), attending as `mask` allows."""
    attended = block.scale1(block.attention(block.norm1(x), mask))
    return attended + block.scale2(block.mlp(block.norm2(x + attended)))


class MoDGPT(GPT):
    """A GPT whose blocks route as `routing` says; k follows the number of tokens."""

    def __init__(self, config: GPTConfig, routing: Routing) -> None:
        super().__init__(config)
        _route(self.blocks, config.dim, routing, always_kept=0, causal=True)

    def forward_gathered(self, ids: Tensor) -> Tensor:
        """Compute `forward` with skipped tokens left out."""
        return self.score(_run_gathered(self.blocks, self.embed(ids)))


class MoDViT(ViT):
    """A ViT whose blocks route patches as `routing` says; a class token is always kept."""

    def __init__(self, config: ViTConfig, routing: Routing) -> None:
        super().__init__(config)
        kept = config.pool == "cls"
        _route(self.blocks, config.dim, routing, always_kept=int(kept), causal=False)

    def forward_gathered(self, images: Tensor) -> Tensor:
        """Compute `forward` with skipped patches left out."""
        return self.classify(_run_gathered(self.blocks, self.embed(images)))


def _route(
    blocks: nn.Sequential, dim: int, routing: Routing, always_kept: int, causal: bool
) -> None:
    """Replace the blocks that route, in place."""
    for layer, block in enumerate(blocks):
        if routing.routes(layer):
            assert isinstance(block, Block)
            blocks[layer] = MoDBlock(block, dim, routing, always_kept, causal)


def _run_gathered(blocks: nn.Sequential, x: Tensor) -> Tensor:
    """Apply blocks to tokens (batch, tokens, dim), gathering where they route."""
    for block in blocks:
        x = block.forward_gathered(x) if isinstance(block, MoDBlock) else block(x)
    return x
