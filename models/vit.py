"""Vision Transformer with a choice of norm, norm position, qkv layout, pooling and LayerScale.

Reference: Dosovitskiy et al. 2021, arXiv:2010.11929.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .norms import make_norm
from .transformer import MLP, Attention, Block

POOLS = ("cls", "mean")


@dataclass(frozen=True)
class ViTConfig:
    """Shape of a ViT.

    norm_position "post" has no final norm. `pool="mean"` averages the patches and has no class
    token. `norm_groups` is PowerNorm's. `layer_scale` is its initial gain.
    """

    image_size: int = 224
    patch_size: int = 16
    channels: int = 3
    dim: int = 384
    depth: int = 12
    heads: int = 6
    mlp_ratio: float = 4.0
    classes: int = 1000
    norm: str = "layer"
    norm_position: str = "pre"
    norm_groups: int | None = 1
    layer_scale: float | None = None
    qkv_bias: bool = True
    fused_qkv: bool = True
    pool: str = "cls"

    def __post_init__(self) -> None:
        """Check what no layer checks."""
        if self.image_size % self.patch_size:
            raise ValueError(
                f"expected patch_size to divide image_size {self.image_size}, got {self.patch_size}"
            )
        if self.pool not in POOLS:
            raise ValueError(f"expected pool in {POOLS}, got {self.pool!r}")

    @property
    def patches(self) -> int:
        """Number of patches of one image."""
        return (self.image_size // self.patch_size) ** 2


VIT_S16 = ViTConfig()
VIT_B16 = ViTConfig(dim=768, heads=12)
DIGITS = ViTConfig(image_size=8, patch_size=2, channels=1, dim=64, depth=4, heads=4, classes=10)


class ViT(nn.Module):
    """Images (batch, channels, image_size, image_size) to logits (batch, classes)."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        dim, patch = config.dim, config.patch_size
        self.patch_embedding = nn.Conv2d(config.channels, dim, patch, stride=patch)
        has_class_token = config.pool == "cls"
        self.class_token = nn.Parameter(torch.empty(1, 1, dim)) if has_class_token else None
        self.positions = nn.Parameter(torch.empty(1, config.patches + has_class_token, dim))
        self.blocks = nn.Sequential(*(_block(config) for _ in range(config.depth)))
        final = config.norm_position == "pre"
        self.norm = make_norm(config.norm, dim, config.norm_groups) if final else nn.Identity()
        self.head = nn.Linear(dim, config.classes)
        nn.init.trunc_normal_(self.positions, std=0.02)
        if self.class_token is not None:
            nn.init.trunc_normal_(self.class_token, std=0.02)

    def forward(self, images: Tensor) -> Tensor:
        """Classify images."""
        return self.classify(self.blocks(self.embed(images)))

    def embed(self, images: Tensor) -> Tensor:
        """Return the first block's tokens (batch, tokens, dim): any class token, then patches."""
        x = self.patch_embedding(images).flatten(2).transpose(1, 2)
        if self.class_token is not None:
            x = torch.cat((self.class_token.expand(x.shape[0], -1, -1), x), dim=1)
        return x + self.positions

    def classify(self, x: Tensor) -> Tensor:
        """Map the last block's tokens (batch, tokens, dim) to logits (batch, classes)."""
        x = self.norm(x)
        return self.head(x.mean(dim=1) if self.class_token is None else x[:, 0])


def _block(config: ViTConfig) -> Block:
    """Build one encoder block."""
    dim = config.dim
    return Block(
        dim,
        Attention(dim, config.heads, config.qkv_bias, config.fused_qkv),
        MLP(dim, int(dim * config.mlp_ratio)),
        norm=config.norm,
        norm_position=config.norm_position,
        norm_groups=config.norm_groups,
        layer_scale=config.layer_scale,
    )


def example_inputs(config: ViTConfig, batch: int = 1, seed: int = 0) -> tuple[Tensor]:
    """Return one float32 standard-normal image batch, as ViT.forward's arguments."""
    generator = torch.Generator().manual_seed(seed)
    size = config.image_size
    return (torch.randn(batch, config.channels, size, size, generator=generator),)
