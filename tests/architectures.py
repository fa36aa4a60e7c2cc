"""Small random models of every architecture that the residual-stream passes are for.

Each entry builds a two-layer module in evaluation mode and its inputs as keywords. Every parameter
is random: a pass that forgets a gain, a shift or a bias must fail.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from passel import models

Inputs = tuple[Tensor, ...]
Built = tuple[nn.Module, Inputs]

SMALL = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
IMAGE = {"image_size": 16, "patch_size": 8}
TOKENS = {"vocab_size": 40, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
TEXT = {"use_cache": False, **TOKENS}


@dataclass(frozen=True)
class Architecture:
    """One model, and what the default pipeline must make of it.

    Attributes:
        build: makes the module and its inputs.
        layers: LayerNorms before.
        rms, left: RMSNorms and LayerNorms after.
        reasons: why recenter leaves streams alone, each with the number of streams.
        uncompressed: the same for compress, run afterwards.
        single: what the model, or torch.onnx, computes in float32 even when the model is float64;
            passes may round such a part anew.
        note: what is particular, for the table.
    """

    build: Callable[[], Built]
    layers: int
    rms: int
    left: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    uncompressed: dict[str, int] = field(default_factory=dict)
    single: str = ""
    note: str = ""


class Tensors(nn.Module):
    """A transformers model that takes tensors and gives one tensor."""

    def __init__(self, model: nn.Module, names: tuple[str, ...], result: str) -> None:
        super().__init__()
        self.model, self.names, self.result = model, names, result

    def forward(self, *inputs: Tensor) -> Tensor:
        outputs = self.model(**dict(zip(self.names, inputs, strict=True)))
        return getattr(outputs, self.result)


@torch.no_grad()
def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """Draw every parameter: matrices at unit gain, norm gains around 1, other vectors around 0."""
    generator = torch.Generator().manual_seed(seed)
    gains = {
        id(module.weight)
        for module in model.modules()
        if "Norm" in type(module).__name__ and getattr(module, "weight", None) is not None
    }
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if id(parameter) in gains:
            parameter.copy_(1 + 0.3 * noise)
        elif parameter.dim() < 2 or parameter.shape[0] == 1:
            parameter.copy_(0.2 * noise)
        else:
            parameter.copy_(noise / parameter[0].numel() ** 0.5)
    return model.eval()


def hugging(
    kind: str, inputs: dict[str, Tensor], result: str, config: str = "", **settings: Any
) -> Built:
    """A transformers model by its class name."""
    family = config or kind.partition("For")[0].removesuffix("Model")
    built = getattr(transformers, kind)(getattr(transformers, f"{family}Config")(**settings))
    return Tensors(randomised(built), tuple(inputs), result).eval(), tuple(inputs.values())


def ids(batch: int = 2, length: int = 6) -> Tensor:
    return torch.randint(3, 40, (batch, length), generator=torch.Generator().manual_seed(1))


def images(size: int = 16) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(2))


def text(kind: str, result: str = "logits", **settings: Any) -> Callable[[], Built]:
    return lambda: hugging(kind, {"input_ids": ids()}, result, **settings)


def vision(kind: str, result: str = "logits", **settings: Any) -> Callable[[], Built]:
    return lambda: hugging(kind, {"pixel_values": images()}, result, **IMAGE, **settings)


def masked(kind: str, result: str = "last_hidden_state", **settings: Any) -> Callable[[], Built]:
    def build() -> Built:
        mask = torch.ones(2, 6, dtype=torch.int64)
        mask[1, 4:] = 0
        return hugging(kind, {"input_ids": ids(), "attention_mask": mask}, result, **settings)

    return build


def whisper(kind: str, inputs: dict[str, Tensor], result: str) -> Callable[[], Built]:
    sizes = {"layers": 2, "attention_heads": 2, "ffn_dim": 32}
    sides = {f"{side}_{key}": n for side in ("encoder", "decoder") for key, n in sizes.items()}
    rest = {"d_model": 24, "num_mel_bins": 8, "max_source_positions": 8, "max_target_positions": 8}
    more = {"decoder_start_token_id": 1, "suppress_tokens": None, "begin_suppress_tokens": None}
    return lambda: hugging(kind, inputs, result, "Whisper", **sides, **rest, **more, **TEXT)


def whisper_encoder() -> Built:
    mel = torch.randn(2, 8, 16, generator=torch.Generator().manual_seed(3))
    built, _ = whisper("WhisperModel", {}, "last_hidden_state")()
    return Tensors(built.model.encoder, ("input_features",), "last_hidden_state").eval(), (mel,)


def whisper_full() -> Built:
    mel = torch.randn(2, 8, 16, generator=torch.Generator().manual_seed(3))
    inputs = {"input_features": mel, "decoder_input_ids": ids()}
    return whisper("WhisperForConditionalGeneration", inputs, "logits")()


def mbart() -> Built:
    sizes = {"layers": 2, "attention_heads": 2, "ffn_dim": 32}
    sides = {f"{side}_{key}": n for side in ("encoder", "decoder") for key, n in sizes.items()}
    inputs = {"input_ids": ids(), "decoder_input_ids": ids(2, 5)}
    settings = {"d_model": 24, "max_position_embeddings": 16, "scale_embedding": True}
    return hugging("MBartForConditionalGeneration", inputs, "logits", **sides, **settings, **TEXT)


def vit(**settings: Any) -> Callable[[], Built]:
    def build() -> Built:
        shape = {"image_size": 16, "patch_size": 8, "dim": 24, "depth": 2, "heads": 2, "classes": 7}
        config = models.ViTConfig(**{**shape, **settings})
        return randomised(models.ViT(config)), models.vit_inputs(config, batch=2)

    return build


def gpt(**settings: Any) -> Callable[[], Built]:
    def build() -> Built:
        shape = {"vocab": 40, "context": 8, "dim": 24, "depth": 2, "heads": 2}
        config = models.GPTConfig(**{**shape, **settings})
        return randomised(models.GPT(config)), models.gpt_inputs(config, batch=2, tokens=6)

    return build


def vit_zero_gains() -> Built:
    """A ViT with gains of exactly 0, which no pass may divide by."""
    built, inputs = vit()()
    return models.randomize(built, zero_gains=True), inputs


class Decoder(nn.Module):
    """A small pre-norm decoder with the liberties that architectures take.

    plain: norms without gain and shift. scaled: each branch is scaled before it is added.
    embedding_norm: a LayerNorm of the embeddings. last: only the last token reaches the head.
    """

    def __init__(self, plain: bool, scaled: bool, embedding_norm: bool, last: bool) -> None:
        super().__init__()
        self.last, self.factor = last, 0.5 if scaled else 1.0
        self.tokens = nn.Embedding(40, 24)
        self.embedding_norm = nn.LayerNorm(24) if embedding_norm else nn.Identity()
        self.norms = nn.ModuleList(nn.LayerNorm(24, elementwise_affine=not plain) for _ in range(3))
        self.mixers = nn.ModuleList(nn.Linear(24, 24, bias=k == 0) for k in range(2))
        self.outs = nn.ModuleList(nn.Linear(24, 24) for _ in range(2))
        self.head = nn.Linear(24, 40)

    def forward(self, token_ids: Tensor) -> Tensor:
        x = self.embedding_norm(self.tokens(token_ids)) * self.factor
        for norm, mixer, out in zip(self.norms, self.mixers, self.outs, strict=False):
            branch = out(torch.nn.functional.gelu(mixer(norm(x)).cumsum(1)))
            x = x + self.factor * branch
        x = self.norms[-1](x)
        return self.head(x[:, -1] if self.last else x)


def decoder(
    plain: bool = False, scaled: bool = False, embedding_norm: bool = False, last: bool = False
) -> Callable[[], Built]:
    return lambda: (randomised(Decoder(plain, scaled, embedding_norm, last)), (ids(),))


ROTARY = "rotary tables"
GELU = "torch.onnx's constants of tanh GELU"
CLIP = {"intermediate_size": 32, "projection_dim": 16, **SMALL}
NEOX = {"intermediate_size": 32, "rotary_pct": 0.5, "max_position_embeddings": 16, **TEXT, **SMALL}
FALCON = {"max_position_embeddings": 16, "bias": True, **TEXT, **SMALL}
OPT = {"ffn_dim": 32, "max_position_embeddings": 16, **TEXT, **SMALL}

# A norm of the embeddings alone: it is the only norm of its stream, and since what reads it is a
# residual stream, its shift can go into no Linear. An RMSNorm and an add would replace one norm.
EMBEDDING_NORM = "it would add as many ops as it saves"
# Post-norm: the norm's result is the residual stream, and Linears read it. It carries γ and β, so
# it is not zero-mean, and what reads it sees its mean.
POST_NORM = "an op reads the stream itself, not a norm of it"
# What leaves the model is the stream itself, mean included.
EXPOSED = "the stream is a graph output"
UNCENTRED = "the stream is not zero-mean"

ARCHITECTURES: dict[str, Architecture] = {
    "vit": Architecture(
        vision("ViTForImageClassification", intermediate_size=32, **SMALL), layers=5, rms=5
    ),
    "deit": Architecture(
        vision(
            "DeiTForImageClassificationWithTeacher", config="DeiT", intermediate_size=32, **SMALL
        ),
        layers=5,
        rms=5,
    ),
    "dinov2": Architecture(
        vision("Dinov2ForImageClassification", mlp_ratio=2, **SMALL),
        layers=5,
        rms=5,
        note="LayerScale folds first",
    ),
    "beit": Architecture(
        vision(
            "BeitForImageClassification",
            intermediate_size=32,
            use_relative_position_bias=True,
            **SMALL,
        ),
        layers=5,
        rms=5,
        note="LayerScale folds first; a mean over the tokens is on the stream",
    ),
    "clip-text": Architecture(
        text(
            "CLIPTextModelWithProjection",
            "text_embeds",
            config="CLIPText",
            max_position_embeddings=16,
            **TOKENS,
            **CLIP,
        ),
        layers=5,
        rms=5,
    ),
    "clip-vision": Architecture(
        vision("CLIPVisionModelWithProjection", "image_embeds", config="CLIPVision", **CLIP),
        layers=6,
        rms=5,
        left=1,
        reasons={EMBEDDING_NORM: 1},
    ),
    "siglip-text": Architecture(
        text(
            "SiglipTextModel",
            "pooler_output",
            intermediate_size=32,
            max_position_embeddings=6,
            **TOKENS,
            **SMALL,
        ),
        layers=5,
        rms=5,
    ),
    "siglip-vision": Architecture(
        vision("SiglipVisionModel", "pooler_output", intermediate_size=32, **SMALL),
        layers=6,
        rms=5,
        left=1,
        reasons={EXPOSED: 1},
    ),
    "gpt2": Architecture(
        text(
            "GPT2LMHeadModel",
            config="GPT2",
            n_embd=24,
            n_layer=2,
            n_head=2,
            n_positions=16,
            **TEXT,
        ),
        layers=5,
        rms=5,
        single=GELU,
        note="tied head",
    ),
    "opt": Architecture(
        text("OPTForCausalLM", word_embed_proj_dim=24, **OPT), layers=5, rms=5, note="tied head"
    ),
    "opt-350m": Architecture(
        text("OPTForCausalLM", word_embed_proj_dim=16, do_layer_norm_before=False, **OPT),
        layers=4,
        rms=0,
        left=4,
        reasons={POST_NORM: 4},
    ),
    "gpt-j": Architecture(
        text(
            "GPTJForCausalLM",
            n_embd=24,
            n_layer=2,
            n_head=2,
            n_positions=16,
            rotary_dim=4,
            **TEXT,
        ),
        layers=3,
        rms=3,
        single="queries and keys",
    ),
    "gpt-neox": Architecture(
        text("GPTNeoXForCausalLM", **NEOX),
        layers=5,
        rms=5,
        single=ROTARY,
        note="parallel residual",
    ),
    "gpt-neox-sequential": Architecture(
        text("GPTNeoXForCausalLM", use_parallel_residual=False, **NEOX),
        layers=5,
        rms=5,
        single=ROTARY,
    ),
    "bloom": Architecture(
        text("BloomForCausalLM", n_layer=2, n_head=2, hidden_size=24, **TEXT),
        layers=6,
        rms=5,
        left=1,
        reasons={EMBEDDING_NORM: 1},
    ),
    "phi": Architecture(
        text("PhiForCausalLM", intermediate_size=32, max_position_embeddings=16, **TEXT, **SMALL),
        layers=3,
        rms=3,
        single=ROTARY,
    ),
    "whisper-encoder": Architecture(
        whisper_encoder, layers=5, rms=5, note="gelu(conv) is recentred by an op"
    ),
    "whisper": Architecture(whisper_full, layers=12, rms=12, note="two streams"),
    "mpt": Architecture(
        text("MptForCausalLM", d_model=24, n_layers=2, n_heads=2, max_seq_len=16, **TEXT),
        layers=5,
        rms=5,
    ),
    "falcon": Architecture(text("FalconForCausalLM", **FALCON), layers=3, rms=3, single=ROTARY),
    "falcon-new": Architecture(
        text("FalconForCausalLM", new_decoder_architecture=True, num_kv_heads=1, **FALCON),
        layers=5,
        rms=5,
        single=ROTARY,
    ),
    "falcon-alibi": Architecture(
        text("FalconForCausalLM", alibi=True, parallel_attn=False, **FALCON), layers=5, rms=5
    ),
    "mbart": Architecture(mbart, layers=14, rms=12, left=2, reasons={EMBEDDING_NORM: 2}),
    "bert": Architecture(
        masked("BertModel", intermediate_size=32, max_position_embeddings=16, **TOKENS, **SMALL),
        layers=5,
        rms=0,
        left=5,
        reasons={POST_NORM: 4, EMBEDDING_NORM: 1},
    ),
    "llama": Architecture(
        text(
            "LlamaForCausalLM",
            intermediate_size=32,
            num_key_value_heads=1,
            max_position_embeddings=16,
            **TEXT,
            **SMALL,
        ),
        layers=0,
        rms=5,
        uncompressed={UNCENTRED: 1},
        single="norms and rotary tables",
        note="no LayerNorm",
    ),
    "passel-vit": Architecture(vit(), layers=5, rms=5),
    "passel-vit-mean": Architecture(vit(pool="mean"), layers=5, rms=5),
    "passel-vit-scaled": Architecture(
        vit(layer_scale=0.5, qkv_bias=False, fused_qkv=False), layers=5, rms=5
    ),
    "passel-vit-post": Architecture(
        vit(norm_position="post"), layers=4, rms=0, left=4, reasons={POST_NORM: 4}
    ),
    "passel-vit-zero-gains": Architecture(vit_zero_gains, layers=5, rms=5),
    "passel-gpt-tied": Architecture(gpt(), layers=5, rms=5, note="tied head"),
    "passel-gpt-untied": Architecture(gpt(tied=False, qkv_bias=False), layers=5, rms=5),
    "decoder-plain": Architecture(decoder(plain=True), layers=3, rms=3),
    "decoder-scaled": Architecture(decoder(scaled=True), layers=3, rms=3),
    "decoder-last": Architecture(decoder(last=True), layers=3, rms=3),
    "decoder-embedding-norm": Architecture(
        decoder(embedding_norm=True), layers=4, rms=3, left=1, reasons={EMBEDDING_NORM: 1}
    ),
}
