"""p-MoD: a multimodal decoder that computes ever fewer of its vision tokens as it gets deeper.

The sequence is text, vision, text; vision tokens are a static range of it. In a routed layer, with
w the TanhNorm weight of a vision token and 1 for text, and k the layer's share of vision tokens:

    text and the k chosen vision tokens:    h = x + attention(norm1(x)), h + w * mlp(norm2(h))
    the other vision tokens:                w * x

Chosen tokens and text see only each other, and no later ones. As released, w scales the MLP's
output only, and all of a skipped token. `forward` computes all tokens and masks; `forward_gathered`
computes the kept ones only, and is written apart.

Reference: Zhang et al. 2024, arXiv:2412.04449, and the release, MCG-NJU/p-MoD; ranking by raw
logits instead of weights is ours, since in half precision many weights are equal.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from .llama import LlamaBlock, rope_tables
from .norms import make_norm
from .routing import (
    attention_mask,
    check_mask_form,
    gather_tokens,
    prd_capacities,
    prd_ratios,
    scatter_tokens,
    select_kept,
    tanh_norm,
    top_k_mask,
)

RANKS = ("logit", "weight")


@dataclass(frozen=True)
class PMoDConfig:
    """Shape of a p-MoD decoder; defaults have LLaVA's proportions, and its 35-token system prompt.

    vision_start: how many of the text tokens come before the vision tokens. text_tokens: how many
    there are in `example_inputs`. max_ratio and min_ratio: see prd_ratios. routed: False makes
    every layer dense. rank_on: what top-k compares. mask_form: one of routing.MASK_FORMS.
    """

    vocab: int = 1024
    vision_dim: int = 1024
    vision_tokens: int = 576
    text_tokens: int = 64
    vision_start: int = 35
    dim: int = 512
    depth: int = 24
    heads: int = 8
    hidden: int = 1376
    max_ratio: float = 0.85
    min_ratio: float = 0.15
    routed: bool = True
    rank_on: str = "logit"
    mask_form: str = "where"

    def __post_init__(self) -> None:
        """Check what no layer checks."""
        check_mask_form(self.mask_form)
        if self.rank_on not in RANKS:
            raise ValueError(f"expected rank_on in {RANKS}, got {self.rank_on!r}")
        if not 0 <= self.vision_start <= self.text_tokens:
            raise ValueError(
                f"expected vision_start from 0 to text_tokens {self.text_tokens}, "
                f"got {self.vision_start}"
            )
        prd_capacities(self.ratios, self.vision_tokens)

    @property
    def ratios(self) -> tuple[float, ...]:
        """Share of vision tokens that each layer keeps; 1 where it is dense."""
        if not self.routed:
            return (1.0,) * self.depth
        return prd_ratios(self.depth, self.max_ratio, self.min_ratio)

    @property
    def capacities(self) -> tuple[int, ...]:
        """Number of vision tokens that each layer keeps."""
        return prd_capacities(self.ratios, self.vision_tokens)


PMOD_BENCH = PMoDConfig()
PMOD_BENCH_DENSE = replace(PMOD_BENCH, routed=False)
PMOD_TINY = PMoDConfig(
    vocab=97,
    vision_dim=12,
    vision_tokens=20,
    text_tokens=7,
    vision_start=3,
    dim=32,
    depth=4,
    heads=4,
    hidden=48,
)


class PMoDLayer(nn.Module):
    """A Llama block that computes only `k` of the vision tokens; see the module's docstring."""

    def __init__(self, config: PMoDConfig, k: int) -> None:
        super().__init__()
        self.k = k
        self.start = config.vision_start
        self.stop = config.vision_start + config.vision_tokens
        self.rank_on = config.rank_on
        self.mask_form = config.mask_form
        self.router = nn.Linear(config.dim, 1)
        self.block = LlamaBlock(config.dim, config.heads, config.hidden)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Map tokens (batch, tokens, dim) to the same shape, all of them computed."""
        logits = self._logits(x)
        tokens = x.shape[1]
        mask = self._among_text(top_k_mask(self._scores(logits), self.k, self.mask_form), tokens)
        weight = self._among_text(tanh_norm(logits), tokens)[..., None]
        block = self.block
        h = x + block.attention(block.norm1(x), cos, sin, attention_mask(mask, causal=True))
        kept = h + weight * block.mlp(block.norm2(h))
        return select_kept(mask, kept, weight * x)

    def forward_gathered(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Compute the same on the kept tokens only, in their order, at their old positions."""
        logits = self._logits(x)
        chosen = self._scores(logits).topk(self.k, dim=1).indices.sort(dim=1).values
        places = torch.arange(x.shape[1], device=x.device).expand(x.shape[:2])
        text = places[:, : self.start], places[:, self.stop :]
        index = torch.cat((text[0], chosen + self.start, text[1]), dim=1)
        kept = gather_tokens(x, index)
        h = kept + self.block.attention(self.block.norm1(kept), cos[index], sin[index])
        f = self.block.mlp(self.block.norm2(h))
        weight = tanh_norm(logits)[..., None]
        f[:, self.start : self.start + self.k] *= gather_tokens(weight, chosen)
        skipped = x[:, self.start : self.stop] * weight
        y = torch.cat((x[:, : self.start], skipped, x[:, self.stop :]), dim=1)
        return scatter_tokens(y, index, h + f)

    def _logits(self, x: Tensor) -> Tensor:
        """Return the router's logits (batch, vision tokens)."""
        return self.router(x[:, self.start : self.stop]).squeeze(-1)

    def _scores(self, logits: Tensor) -> Tensor:
        """Return what decides which vision tokens are kept, in the logits' shape."""
        return logits if self.rank_on == "logit" else tanh_norm(logits)

    def _among_text(self, values: Tensor, tokens: int) -> Tensor:
        """Put ones for text around those of vision tokens: (batch, vision) to (batch, tokens)."""
        batch = values.shape[0]
        before, after = (
            values.new_ones(batch, self.start),
            values.new_ones(batch, tokens - self.stop),
        )
        return torch.cat((before, values, after) if self.start else (values, after), dim=1)


class PMoD(nn.Module):
    """Vision features and text ids to logits (batch, tokens, vocab), in the sequence's order."""

    def __init__(self, config: PMoDConfig) -> None:
        super().__init__()
        self.config = config
        self.projector = nn.Linear(config.vision_dim, config.dim)
        self.token_embedding = nn.Embedding(config.vocab, config.dim)
        self.layers = nn.ModuleList(
            LlamaBlock(config.dim, config.heads, config.hidden)
            if k == config.vision_tokens
            else PMoDLayer(config, k)
            for k in config.capacities
        )
        self.norm = make_norm("rms", config.dim)
        self.head = nn.Linear(config.dim, config.vocab, bias=False)
        nn.init.normal_(self.token_embedding.weight, std=0.02)

    def forward(self, vision: Tensor, ids: Tensor) -> Tensor:
        """Score the next token at each position.

        vision: float (batch, vision_tokens, vision_dim). ids: int64 (batch, text), of at least
        vision_start text tokens.
        """
        x, cos, sin = self._embed(vision, ids)
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.head(self.norm(x))

    def forward_gathered(self, vision: Tensor, ids: Tensor) -> Tensor:
        """Compute `forward` with skipped tokens left out."""
        x, cos, sin = self._embed(vision, ids)
        for layer in self.layers:
            run = layer.forward_gathered if isinstance(layer, PMoDLayer) else layer
            x = run(x, cos, sin)
        return self.head(self.norm(x))

    def _embed(self, vision: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the tokens (batch, tokens, dim) and their cos and sin (tokens, width)."""
        config, start = self.config, self.config.vision_start
        if vision.shape[1] != config.vision_tokens:
            raise ValueError(
                f"expected {config.vision_tokens} vision tokens, got {vision.shape[1]}"
            )
        if ids.shape[1] < start:
            raise ValueError(f"expected at least {start} text tokens, got {ids.shape[1]}")
        text = self.token_embedding(ids)
        x = torch.cat((text[:, :start], self.projector(vision), text[:, start:]), dim=1)
        return x, *rope_tables(x.shape[1], config.dim // config.heads, x)


def example_inputs(config: PMoDConfig, batch: int = 1, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return standard-normal float32 vision features and int64 ids, as PMoD.forward's arguments."""
    generator = torch.Generator().manual_seed(seed)
    vision = torch.randn(batch, config.vision_tokens, config.vision_dim, generator=generator)
    return vision, torch.randint(config.vocab, (batch, config.text_tokens), generator=generator)
