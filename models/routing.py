"""What Mixture-of-Depths models share: capacities, top-k masks, and the two ways to apply a mask.

A mask keeps some of the tokens and is spelled in one of MASK_FORMS. "where": bool, with
`torch.where` at the end and a bool attention mask. "mul": 0 and 1 in the model's type, with
products and an additive attention mask that stays finite. The functions tell them apart by the
mask's type.

Where a kept token sees kept tokens only, what the masks let through is what computing the kept
tokens alone gives. A skipped token may see nothing at all, which may be NaN: `where` drops it, and
the finite additive mask avoids it.

References: Raposo et al. 2024, arXiv:2404.02258 (Mixture-of-Depths); Zhang et al. 2024,
arXiv:2412.04449 (p-MoD), and its release, MCG-NJU/p-MoD.
"""

import math

import torch
from torch import Tensor

MASK_FORMS = ("where", "mul")
_MASKED = -1e9


def check_ratio(ratio: float) -> None:
    """Refuse what is no share of tokens to keep."""
    if not 0 < ratio <= 1:
        raise ValueError(f"expected a ratio above 0 and at most 1, got {ratio}")


def check_mask_form(form: str) -> None:
    """Refuse an unknown way to apply a mask."""
    if form not in MASK_FORMS:
        raise ValueError(f"expected mask_form in {MASK_FORMS}, got {form!r}")


def capacity(ratio: float, tokens: int) -> int:
    """Return how many tokens to keep: trunc(ratio * tokens), at least 1.

    Under torch.export with a dynamic number of tokens it stays an expression of that number. Its
    extent then has to be a Dim.DYNAMIC: the range of a named Dim would have to prove topk's
    k <= tokens, which torch 2.13 cannot do.
    """
    check_ratio(ratio)
    return torch.sym_max(1, torch.sym_int(ratio * tokens))


def prd_ratios(depth: int, maximum: float = 0.85, minimum: float = 0.15) -> tuple[float, ...]:
    """Return p-MoD's progressive ratio decay: each layer's share of vision tokens to keep.

    Layer l has cos(pi l / (depth - 1)) / 2 + 1/2, at least `minimum`; 1 means a dense layer, which
    every layer above `maximum` is. The release has 32 layers, and a mean of exactly 0.5375.
    """
    check_ratio(maximum)
    check_ratio(minimum)
    if minimum > maximum:
        raise ValueError(f"expected minimum <= maximum {maximum}, got {minimum}")
    if depth < 2:
        raise ValueError(f"expected a depth of at least 2, got {depth}")
    cosines = (math.cos(math.pi * layer / (depth - 1)) / 2 + 0.5 for layer in range(depth))
    return tuple(1.0 if ratio > maximum else max(ratio, minimum) for ratio in cosines)


def prd_capacities(ratios: tuple[float, ...], tokens: int) -> tuple[int, ...]:
    """Return trunc(tokens * ratio) of each layer, which must be at least 1."""
    kept = tuple(math.trunc(tokens * ratio) for ratio in ratios)
    if min(kept) < 1:
        raise ValueError(f"expected every layer to keep a token of {tokens}, got {kept}")
    return kept


def tanh_norm(logits: Tensor) -> Tensor:
    """Map router logits to weights in [0.8, 1.2], p-MoD's TanhNorm as released."""
    return 0.2 * torch.tanh(logits) + 1


def top_k_mask(scores: Tensor, k: int, form: str) -> Tensor:
    """Return a mask (batch, tokens) of each row's k largest scores (batch, tokens)."""
    tokens = scores.shape[1]
    # Symbolic extents cannot be compared without fixing them.
    if isinstance(k, int) and isinstance(tokens, int) and not 1 <= k <= tokens:
        raise ValueError(f"expected k from 1 to the {tokens} tokens there are, got {k}")
    chosen = scores.topk(k, dim=1).indices
    mask = torch.zeros_like(scores).scatter(1, chosen, 1.0)
    return mask.bool() if form == "where" else mask


def attention_mask(mask: Tensor, causal: bool) -> Tensor:
    """Hide skipped tokens, and with `causal` later ones, as keys.

    Returns a mask that F.scaled_dot_product_attention takes with queries (batch, heads, tokens,
    width): bool or additive, (batch, 1, tokens, tokens) or, if not causal, (batch, 1, 1, tokens).
    """
    tokens = mask.shape[1]
    keys = mask[:, None, None, :]
    square = torch.ones(tokens, tokens, dtype=torch.bool, device=mask.device)
    if mask.dtype is torch.bool:
        return keys & square.tril() if causal else keys
    # Two of them are still finite in float16.
    masked = max(_MASKED, torch.finfo(mask.dtype).min / 4)
    bias = (1.0 - keys) * masked
    return bias + square.triu(1).to(mask.dtype) * masked if causal else bias


def add_where_kept(mask: Tensor, x: Tensor, update: Tensor) -> Tensor:
    """Return x + update for kept tokens and x for others; both are (batch, tokens, dim)."""
    kept = mask[..., None]
    if mask.dtype is torch.bool:
        return torch.where(kept, x + update, x)
    return x + kept * update


def select_kept(mask: Tensor, kept: Tensor, skipped: Tensor) -> Tensor:
    """Return `kept` for kept tokens and `skipped` for others; both are (batch, tokens, dim)."""
    chosen = mask[..., None]
    if mask.dtype is torch.bool:
        return torch.where(chosen, kept, skipped)
    return chosen * kept + (1.0 - chosen) * skipped


def gather_tokens(x: Tensor, index: Tensor) -> Tensor:
    """Return tokens `index`, int64 (batch, k), of x (batch, tokens, dim), as (batch, k, dim)."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))


def scatter_tokens(x: Tensor, index: Tensor, values: Tensor) -> Tensor:
    """Return x (batch, tokens, dim) with tokens `index` replaced by values (batch, k, dim)."""
    return x.scatter(1, index[..., None].expand_as(values), values)
