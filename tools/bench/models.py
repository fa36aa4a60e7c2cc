"""The models that the benchmark runs, by name, with random weights and example inputs."""

from collections.abc import Callable

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


def vit_s16_unified() -> Loaded:
    """ViT-S/16 with Unified Norm (passel.models), one 224×224 image."""
    from dataclasses import replace

    from ...models import VIT_S16, ViT, randomize, vit_inputs

    config = replace(VIT_S16, norm="unified")
    return randomize(ViT(config)).eval(), vit_inputs(config)


MODELS: dict[str, Callable[[], Loaded]] = {
    "vit_s16": vit_s16,
    "gpt2": gpt2,
    "vit_s16_unified": vit_s16_unified,
    "vit_b16": vit_b16,
}
DEFAULT = ("vit_s16", "gpt2")


def load(name: str) -> Loaded:
    """A model of the list, the same weights and inputs in every process."""
    torch.manual_seed(0)
    return MODELS[name]()
