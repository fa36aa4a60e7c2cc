"""Give a model's affine parameters and running statistics non-default values.

A fresh norm has gain 1, shift 0 and unit statistics, so a pass that forgets any of them would pass
its test. Weight matrices and embedding tables are random already and stay as they are.
"""

import torch
from torch import Tensor, nn

# Multiplicative parameters: drawn around 1. Anything else, shifts and gates, is drawn around 0.
_GAINS = ("weight", "gain", "scale", "coefficients", "density")
# Divisors and amplitudes, which must stay positive.
_POSITIVE = ("amplitude", "width")
_SECOND_MOMENTS = ("running_var", "running_phi")
_ZEROED_GAINS = 2


@torch.no_grad()
def randomize(model: nn.Module, seed: int = 0, zero_gains: bool = False) -> nn.Module:
    """Randomise `model` in place and return it; the same seed gives the same values.

    Touched: parameters of at most one axis, parameters that hold one value throughout (a LoRA
    factor of zeros, a group gain of ones), and running statistics. Gains become 1 + 0.3 n, shifts
    0.2 n, logits of gates n, with n standard normal; second moments are uniform in [0.3, 2].
    `zero_gains` also sets a few gains of every norm to exactly 0.
    """
    generator = torch.Generator().manual_seed(seed)
    seen: set[int] = set()
    for module in model.modules():
        for name, tensor in _own_tensors(module):
            # Tied tensors have several owners; drawing twice would depend on which comes last.
            if id(tensor) not in seen:
                seen.add(id(tensor))
                _randomize_tensor(name, tensor, generator)
        gain = _norm_gain(module)
        if zero_gains and gain is not None:
            _zero_gains(gain, generator)
    return model


def _own_tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Return the affine parameters and running statistics that `module` itself owns."""
    parameters: list[tuple[str, Tensor]] = [
        (name, parameter)
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.dim() <= 1 or bool((parameter == parameter.flatten()[0]).all())
    ]
    buffers = module.named_buffers(recurse=False)
    return parameters + [(name, buffer) for name, buffer in buffers if name.startswith("running_")]


def _randomize_tensor(name: str, tensor: Tensor, generator: torch.Generator) -> None:
    """Overwrite `tensor` with values that suit its name."""
    if name in _SECOND_MOMENTS:
        tensor.copy_(0.3 + 1.7 * torch.rand(tensor.shape, generator=generator))
        return
    noise = torch.randn(tensor.shape, generator=generator)
    if name in _POSITIVE:
        tensor.mul_((0.3 * noise).exp())
    elif name in _GAINS:
        tensor.copy_(1 + 0.3 * noise)
    else:
        tensor.copy_((1.0 if name == "gate" else 0.2) * noise)


def _norm_gain(module: nn.Module) -> Tensor | None:
    """Return the gain of a norm, None for any other module."""
    gain = getattr(module, "weight", None)
    named_norm = "Norm" in type(module).__name__
    return gain if named_norm and isinstance(gain, nn.Parameter) else None


def _zero_gains(gain: Tensor, generator: torch.Generator) -> None:
    """Set a few entries of `gain` to zero, leaving most of a small one."""
    count = min(_ZEROED_GAINS, gain.numel() // 2)
    chosen = torch.randperm(gain.numel(), generator=generator)[:count]
    gain.view(-1)[chosen] = 0
