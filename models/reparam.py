"""Layers whose weight is an expression of parameters alone, and an MLP made of them.

Each layer computes its weight at run time, as a training framework leaves it; constant folding
turns every one of them (and the gates, by a fold into the neighbour) into a plain Linear or Conv.

References: Hu et al. 2021, arXiv:2106.09685 (LoRA); Kang 2024, arXiv:2409.15371 (Bone); Cakaj et
al. 2023, arXiv:2306.16993 (Weight Compander); Pham et al. 2023 (MixtureGrowth: template mixtures);
Cammarasana and Patane 2025 (optimal weighted convolution); Roffo et al. 2024 (feature-selection
gates).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BONE_DIALECTS = ("bat", "disha")
LAYER_KINDS = ("lora", "bat", "disha", "compander", "templates", "gated")


class LoRALinear(nn.Linear):
    """Linear with weight W + scale * up @ down; up (out, rank) starts at zero, down (rank, in)."""

    def __init__(self, inputs: int, outputs: int, rank: int = 4, scale: float = 2.0) -> None:
        super().__init__(inputs, outputs)
        self.scale = scale
        self.down = nn.Parameter(torch.randn(rank, inputs) / rank**0.5)
        self.up = nn.Parameter(torch.zeros(outputs, rank))

    def forward(self, input: Tensor) -> Tensor:
        """Apply the merged weight to (..., inputs)."""
        return F.linear(input, self.weight + self.scale * (self.up @ self.down), self.bias)


class BoneLinear(nn.Linear):
    """Linear with a block-affine update of its weight, in two incompatible dialects.

    "bat": W is cut in rank x rank blocks W_ij and becomes W_ij + W_ij @ B_i + B_i, with B
    (out/rank, rank, rank). "disha", today's default: column j of W gains row j mod rank of B
    (rank, out), that is y gains (sum of x's chunks of length rank) @ B.
    """

    def __init__(self, inputs: int, outputs: int, rank: int = 4, dialect: str = "bat") -> None:
        super().__init__(inputs, outputs)
        if dialect not in BONE_DIALECTS:
            raise ValueError(f"expected a dialect in {BONE_DIALECTS}, got {dialect!r}")
        if inputs % rank or outputs % rank:
            raise ValueError(f"expected rank to divide {inputs} and {outputs}, got {rank}")
        self.dialect = dialect
        self.rank = rank
        shape = (outputs // rank, rank, rank) if dialect == "bat" else (rank, outputs)
        self.bone = nn.Parameter(torch.zeros(shape))

    def forward(self, input: Tensor) -> Tensor:
        """Apply the merged weight to (..., inputs)."""
        return F.linear(input, self.merged_weight(), self.bias)

    def merged_weight(self) -> Tensor:
        """Return the updated weight (outputs, inputs)."""
        rank = self.rank
        if self.dialect == "disha":
            return self.weight + self.bone.t().repeat(1, self.in_features // rank)
        blocks = self.weight.reshape(self.out_features // rank, rank, -1, rank).transpose(1, 2)
        # bone[:, None]: all blocks of one block row share that row's matrix.
        bone = self.bone.unsqueeze(1)
        return (blocks + blocks @ bone + bone).transpose(1, 2).reshape(self.weight.shape)


class WeightCompanderLinear(nn.Linear):
    """Linear with weight amplitude * arctan(weight / width), both learned positive scalars."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.amplitude = nn.Parameter(torch.tensor(0.2))
        self.width = nn.Parameter(torch.tensor(0.1))

    def forward(self, input: Tensor) -> Tensor:
        """Apply the companded weight to (..., inputs)."""
        return F.linear(input, self.amplitude * torch.arctan(self.weight / self.width), self.bias)


class TemplateMixtureLinear(nn.Module):
    """Linear with weight sum_t coefficients[t] * templates[t]; templates (count, out, in)."""

    def __init__(self, inputs: int, outputs: int, count: int = 3) -> None:
        super().__init__()
        templates = torch.stack([nn.Linear(inputs, outputs).weight.detach() for _ in range(count)])
        self.templates = nn.Parameter(templates)
        self.coefficients = nn.Parameter(torch.full((count,), count**-0.5))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the mixed weight to (..., inputs)."""
        weight = (self.coefficients.view(-1, 1, 1) * self.templates).sum(dim=0)
        return F.linear(x, weight, self.bias)


class OptimalWeightedConv2d(nn.Conv2d):
    """Same-padded Conv2d of weight W * outer(a, a), a = [density, 1, reversed density].

    `density` (kernel_size // 2,) weights the taps by their distance from the centre.
    """

    def __init__(self, inputs: int, outputs: int, kernel_size: int = 3, groups: int = 1) -> None:
        if kernel_size % 2 == 0:
            raise ValueError(f"expected an odd kernel_size, got {kernel_size}")
        half = kernel_size // 2
        super().__init__(inputs, outputs, kernel_size, padding=half, groups=groups)
        self.density = nn.Parameter(torch.linspace(0.6, 0.9, half))

    def forward(self, input: Tensor) -> Tensor:
        """Convolve (batch, inputs, height, width) with the weighted kernel."""
        taps = torch.cat((self.density, self.density.new_ones(1), self.density.flip(0)))
        return self._conv_forward(input, self.weight * torch.outer(taps, taps), self.bias)


class FeatureSelectionGate(nn.Module):
    """sigmoid(gate) * x per channel of (..., dim): never exactly zero."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Gate the last axis."""
        return torch.sigmoid(self.gate) * x


class GatedLinear(nn.Module):
    """Linear followed by a FeatureSelectionGate."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.gate = FeatureSelectionGate(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., inputs) to gated (..., outputs)."""
        return self.gate(self.linear(x))


def make_layer(kind: str, inputs: int, outputs: int) -> nn.Module:
    """Build a reparametrised linear layer; kind is one of LAYER_KINDS."""
    match kind:
        case "lora":
            return LoRALinear(inputs, outputs)
        case "bat" | "disha":
            return BoneLinear(inputs, outputs, dialect=kind)
        case "compander":
            return WeightCompanderLinear(inputs, outputs)
        case "templates":
            return TemplateMixtureLinear(inputs, outputs)
        case "gated":
            return GatedLinear(inputs, outputs)
    raise ValueError(f"expected a layer kind in {LAYER_KINDS}, got {kind!r}")


class ReparamMLP(nn.Module):
    """Two layers of one kind with a GELU between: (..., dim) to (..., outputs)."""

    def __init__(self, kind: str, dim: int = 32, hidden: int = 64, outputs: int = 12) -> None:
        super().__init__()
        self.expand = make_layer(kind, dim, hidden)
        self.contract = make_layer(kind, hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Apply both layers."""
        return self.contract(F.gelu(self.expand(x)))


def example_inputs(dim: int = 32, batch: int = 1, seed: int = 0) -> tuple[Tensor]:
    """Return one float32 standard-normal batch (batch, dim), as ReparamMLP.forward's arguments."""
    return (torch.randn(batch, dim, generator=torch.Generator().manual_seed(seed)),)
