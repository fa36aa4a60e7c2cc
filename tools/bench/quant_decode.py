"""One step of a decoder with a cache of keys and values, its arguments all tensors."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

PAST = 512


class Decode(torch.nn.Module):
    """Score the next token after one more, given the keys and values of those before it.

    Only the new keys and values are outputs: copying them behind the cached ones is the caller's
    affair, as with a cache of fixed size, and no judge of errors is flattered by copied inputs.

    Args:
        model: transformers' GPT2LMHeadModel, whose weights it uses.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.body: Any
        self.body, self.head = model.transformer, model.lm_head
        self.heads = model.config.n_head

    def forward(self, token: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        """Token (batch, 1) and key, value (batch, heads, past, width) of each layer in turn.

        Returns:
            Scores (batch, vocabulary); key, value (batch, heads, 1, width) of each layer in turn.
        """
        position = self.body.wpe.weight[past[0].shape[2]]
        x, new = self.body.wte(token) + position, []
        for layer, block in enumerate(self.body.h):
            mixed, *made = self._attend(block, x, *past[2 * layer : 2 * layer + 2])
            x = x + mixed
            x = x + block.mlp(block.ln_2(x))
            new += made
        return (self.head(self.body.ln_f(x))[:, -1], *new)

    def _attend(self, block: Any, x: Tensor, keys: Tensor, values: Tensor) -> list[Tensor]:
        """Return the attention's output, and the new key and value."""
        attention = block.attn
        parts = attention.c_attn(block.ln_1(x)).split(x.shape[-1], dim=-1)
        shape = (x.shape[0], 1, self.heads, x.shape[-1] // self.heads)
        query, key, value = (part.reshape(shape).transpose(1, 2) for part in parts)
        everything = torch.cat((keys, key), dim=2), torch.cat((values, value), dim=2)
        mixed = F.scaled_dot_product_attention(query, *everything)
        return [attention.c_proj(mixed.transpose(1, 2).reshape(x.shape)), key, value]


class LlamaStep(torch.nn.Module):
    """`passel.models.LlamaDecode` with flat arguments; of keys and values, the new ones go out."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, token: Tensor, position: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        """As LlamaDecode.forward, but for the present (batch, kv_heads, 1, width)."""
        logits, present = self.model(token, position, past)
        return (logits, *(tensor[:, :, -1:] for tensor in present))


def cached(model: Any, index: int) -> tuple[Tensor, ...]:
    """A random token and what `model` caches of the 512 random ones before it."""
    generator = torch.Generator().manual_seed(index)
    ids = torch.randint(model.config.vocab_size, (1, PAST + 1), generator=generator)
    with torch.no_grad():
        cache = model(ids[:, :PAST], use_cache=True, logits_to_keep=1).past_key_values
    layers = (tensor for layer in cache.layers for tensor in (layer.keys, layer.values))
    return (ids[:, PAST:], *layers)
