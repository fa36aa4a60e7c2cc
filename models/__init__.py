"""Reference models that the passes are for: transformers, conv nets, reparametrised layers.

Mixture-of-Depths models are in `mod` (GPT, ViT) and `pmod` (vision and text).

All export with `torch.export` in evaluation mode, also with a dynamic batch. Imported by tests, the
demo and tools only. Each model's module has an `example_inputs`; here they carry its name.
"""

from .conv_norms import BatchChannelNorm, InstanceBatchNorm, make_conv_norm
from .convnet import ConvNet, ConvNetConfig
from .convnet import example_inputs as convnet_inputs
from .convs import ScaledWSConv2d, WSConv2d, make_conv
from .digits import (
    accuracy,
    load_digits_split,
    load_trained,
    load_trained_mod,
    recorded_accuracy,
)
from .gpt import GPT, GPT2_SMALL, GPT_TINY, GPTConfig
from .gpt import example_inputs as gpt_inputs
from .mod import MoDBlock, MoDGPT, MoDViT, Routing
from .norms import PowerNorm, TokenBatchNorm, UnifiedNorm, make_norm
from .pmod import PMOD_BENCH, PMOD_BENCH_DENSE, PMOD_TINY, PMoD, PMoDConfig, PMoDLayer
from .pmod import example_inputs as pmod_inputs
from .randomize import randomize
from .reparam import (
    BoneLinear,
    FeatureSelectionGate,
    GatedLinear,
    LoRALinear,
    OptimalWeightedConv2d,
    ReparamMLP,
    TemplateMixtureLinear,
    WeightCompanderLinear,
    make_layer,
)
from .reparam import example_inputs as reparam_inputs
from .vit import DIGITS, VIT_B16, VIT_S16, ViT, ViTConfig
from .vit import example_inputs as vit_inputs

__all__ = [
    "DIGITS",
    "GPT",
    "GPT2_SMALL",
    "GPT_TINY",
    "PMOD_BENCH",
    "PMOD_BENCH_DENSE",
    "PMOD_TINY",
    "VIT_B16",
    "VIT_S16",
    "BatchChannelNorm",
    "BoneLinear",
    "ConvNet",
    "ConvNetConfig",
    "FeatureSelectionGate",
    "GPTConfig",
    "GatedLinear",
    "InstanceBatchNorm",
    "LoRALinear",
    "MoDBlock",
    "MoDGPT",
    "MoDViT",
    "OptimalWeightedConv2d",
    "PMoD",
    "PMoDConfig",
    "PMoDLayer",
    "PowerNorm",
    "ReparamMLP",
    "Routing",
    "ScaledWSConv2d",
    "TemplateMixtureLinear",
    "TokenBatchNorm",
    "UnifiedNorm",
    "ViT",
    "ViTConfig",
    "WSConv2d",
    "WeightCompanderLinear",
    "accuracy",
    "convnet_inputs",
    "gpt_inputs",
    "load_digits_split",
    "load_trained",
    "load_trained_mod",
    "make_conv",
    "make_conv_norm",
    "make_layer",
    "make_norm",
    "pmod_inputs",
    "randomize",
    "recorded_accuracy",
    "reparam_inputs",
    "vit_inputs",
]
