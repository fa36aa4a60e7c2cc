"""The function of a quantized model by the definitions: float products of what codes stand for."""

import copy
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from passel.passes.quantization.layer import LayerData
from passel.passes.quantization.rounding import round_weight
from passel.passes.quantization.schemes import Scheme

FP8 = {"float8_e4m3fn": torch.float8_e4m3fn, "float8_e5m2": torch.float8_e5m2}
Rounding = Callable[[Tensor], Tensor]


def uint8(x: Tensor, low: float, high: float) -> tuple[Tensor, float]:
    """x through uint8 codes that span [low, high] and 0, and the scale (ONNX QuantizeLinear)."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = np.float32((high - low) / 255) if high > low else np.float32(1)
    zero = float(np.clip(np.rint(-low / ((high - low) / 255 if high > low else 1)), 0, 255))
    codes = torch.clamp(torch.round(x / float(scale)) + zero, 0, 255)
    return (codes - zero) * float(scale), float(scale)


def dynamic(x: Tensor) -> Tensor:
    """x through codes at its own range, in float32 as DynamicQuantizeLinear has it."""
    low, high = min(x.min(), torch.tensor(0.0)), max(x.max(), torch.tensor(0.0))
    scale = (high - low) / 255
    if scale == 0:
        return torch.zeros_like(x)
    zero = torch.clamp(torch.round(-low / scale), 0, 255)
    return (torch.clamp(torch.round(x / scale) + zero, 0, 255) - zero) * scale


def by_row(x: Tensor) -> Tensor:
    """x with each row through codes at its own range."""
    rows = [dynamic(row) for row in x.reshape(-1, x.shape[-1])]
    return torch.stack(rows).reshape(x.shape)


def float8(x: Tensor, peak: float, name: str) -> Tensor:
    """x through 8-bit floats whose largest stands for `peak`."""
    dtype = FP8[name]
    largest = torch.finfo(dtype).max
    scale = np.float32(peak / largest) if peak > 0 else np.float32(1)
    bounded = torch.clamp(x / float(scale), -largest, largest)
    return bounded.to(dtype).to(x.dtype) * float(scale)


def dense(weight: Tensor, scheme: Scheme, stages: tuple[str, ...]) -> np.ndarray:
    """A weight [O, I] as its codes have it, float64."""
    layer = LayerData(weight.detach().numpy(), name="fc")
    return round_weight(layer, scheme.weight, stages).dense()


class FakeLinear(nn.Module):
    """A Linear with a rounded weight, a rounded bias where it is one of an integer product."""

    def __init__(self, linear: nn.Linear, scheme: Scheme, low: float, high: float) -> None:
        super().__init__()
        self.scheme, self.low, self.high = scheme, low, high
        self.weight = torch.from_numpy(dense(linear.weight, scheme, scheme.stages)).float()
        bias = linear.bias.detach()
        grid = scheme.activation
        if grid is not None and not scheme.dynamic and grid.name == "uint8":
            _, step = uint8(torch.zeros(1), low, high)
            each = scale_of(linear.weight) * step
            bias = torch.from_numpy(np.rint(bias.double().numpy() / each) * each).float()
        self.bias = nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        grid = self.scheme.activation
        if grid is None:
            seen = x
        elif self.scheme.dynamic:
            seen = by_row(x) if self.scheme.by_row else dynamic(x)
        elif grid.name == "uint8":
            seen = uint8(x, self.low, self.high)[0]
        else:
            seen = float8(x, max(-self.low, self.high), grid.name)
        return F.linear(seen, self.weight, self.bias)


def scale_of(weight: Tensor) -> np.ndarray:
    """Scales of int8 weights by rows, float64 [O]."""
    peak = weight.detach().double().abs().amax(dim=1).numpy()
    return np.where(peak > 0, peak / 127, 1.0).astype(np.float32).astype(np.float64)


def fake(model: nn.Module, scheme: Scheme, samples: list[list[Tensor]]) -> nn.Module:
    """The model with every Linear quantized, ranges taken of what it sees of the samples."""
    seen: dict[str, list[float]] = {}
    linears = {name: one for name, one in model.named_modules() if isinstance(one, nn.Linear)}

    def watch(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0]
            low, high = seen.get(name, [np.inf, -np.inf])
            seen[name] = [min(low, float(x.min())), max(high, float(x.max()))]

        return hook

    handles = [one.register_forward_pre_hook(watch(name)) for name, one in linears.items()]
    with torch.no_grad():
        for sample in samples:
            model(*sample)
    for handle in handles:
        handle.remove()
    result = copy.deepcopy(model)
    for name, one in linears.items():
        parent, _, last = name.rpartition(".")
        setattr(result.get_submodule(parent), last, FakeLinear(one, scheme, *seen[name]))
    return result
