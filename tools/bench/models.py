"""The models that the benchmark runs, by name, with random weights and example inputs."""

from collections.abc import Callable
from functools import partial

import torch

Loaded = tuple[torch.nn.Module, tuple[torch.Tensor, ...]]


def vit_s16() -> Loaded:
    """ViT-S/16 as transformers writes it (separate q, k, v), one 224×224 image."""
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=384, num_hidden_layers=12, num_attention_heads=6, intermediate_size=1536
    )
    return ViTForImageClassification(config).eval(), (torch.randn(1, 3, 224, 224),)


def vit_b16() -> Loaded:
    """ViT-B/16 as transformers writes it, one 224×224 image."""
    from transformers import ViTConfig, ViTForImageClassification

    return ViTForImageClassification(ViTConfig()).eval(), (torch.randn(1, 3, 224, 224),)


def gpt2() -> Loaded:
    """A GPT-2-sized decoder as transformers writes it, prefill of 128 tokens."""
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(use_cache=False)).eval()
    return model, (torch.randint(0, 50257, (1, 128)),)


class LastPosition(torch.nn.Module):
    """A decoder's scores of the next token: logits[:, -1].

    Attributes:
        head: "all" if the model scores all positions first, "last" if it is told to score one.
    """

    def __init__(self, model: torch.nn.Module, head: str) -> None:
        super().__init__()
        self.model, self.kept = model, {"all": 0, "last": 1}[head]

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Token ids (batch, tokens) to scores (batch, vocabulary)."""
        return self.model(ids, logits_to_keep=self.kept).logits[:, -1]


def gpt2_prefill(head: str) -> Loaded:
    """A GPT-2-sized decoder, prefill of 512 tokens, of which the last one is scored."""
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(use_cache=False)).eval()
    return LastPosition(model, head).eval(), (torch.randint(0, 50257, (1, 512)),)


def pmod(dense: bool) -> Loaded:
    """The p-MoD decoder, 576 vision and 64 text tokens, 24 layers; or its twin without routers."""
    from ...models import PMOD_BENCH, PMOD_BENCH_DENSE, PMoD, pmod_inputs

    config = PMOD_BENCH_DENSE if dense else PMOD_BENCH
    return PMoD(config).eval(), pmod_inputs(config)


def vit_s16_unified() -> Loaded:
    """ViT-S/16 with Unified Norm (passel.models), one 224×224 image."""
    from dataclasses import replace

    from ...models import VIT_S16, ViT, randomize, vit_inputs

    config = replace(VIT_S16, norm="unified")
    return randomize(ViT(config)).eval(), vit_inputs(config)


def mlp() -> Loaded:
    """One MLP block of ViT-S on 197 tokens: norm, two products with GELU between, residual add."""
    return MLP(384, 1536).eval(), (torch.randn(1, 197, 384),)


class MLP(torch.nn.Module):
    """x + W₂·gelu(W₁·norm(x))."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.norm = torch.nn.LayerNorm(width)
        self.up, self.down = torch.nn.Linear(width, inner), torch.nn.Linear(inner, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens (batch, tokens, width) to the same shape."""
        return x + self.down(torch.nn.functional.gelu(self.up(self.norm(x))))


def gpt2_decode() -> Loaded:
    """A GPT-2-sized decoder, one token after 512 cached ones."""
    from .quant_decode import Decode, cached

    model, _ = gpt2()
    return Decode(model).eval(), cached(model, 0)


def mod_vit() -> Loaded:
    """ViT-S/16 as a Mixture of Depths that keeps half of the patches in every block."""
    from ...models import VIT_S16, MoDViT, Routing, randomize, vit_inputs

    return randomize(MoDViT(VIT_S16, Routing(ratio=0.5, every=1))).eval(), vit_inputs(VIT_S16)


MODELS: dict[str, Callable[[], Loaded]] = {
    "vit_s16": vit_s16,
    "gpt2": gpt2,
    "vit_s16_unified": vit_s16_unified,
    "vit_b16": vit_b16,
    "gpt2_last": partial(gpt2_prefill, "last"),
    "gpt2_all_logits": partial(gpt2_prefill, "all"),
    "gpt2_decode": gpt2_decode,
    "mlp": mlp,
    "mod_vit": mod_vit,
    "pmod": partial(pmod, dense=False),
    "pmod_dense": partial(pmod, dense=True),
}
DEFAULT = ("vit_s16", "gpt2")


def load(name: str) -> Loaded:
    """A model of the list, the same weights and inputs in every process."""
    torch.manual_seed(0)
    return MODELS[name]()
