"""Round every Linear of a torch model, each on what the layers rounded before it make of the data.

One forward is enough: it runs on the samples twice in one batch, the first half as the original
model and the second as the rounded one. When it arrives at a Linear, that layer's statistics are
complete (E[x·xᵀ] of the second half, E[x_float·xᵀ] between the two), so the layer is rounded there
and then and answers with W for the first half and Ŵ for the second. No activation is kept.
"""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...passes.quantization.layer import LayerData
from ...passes.quantization.rounded import Format, Rounded
from ...passes.quantization.rounding import round_weight


@dataclass(frozen=True)
class Samples:
    """Calibration data: the model's arguments, all with the samples along dimension 0.

    Attributes:
        arguments: what the model is called with.
        kept: bool (samples, tokens), False for padding, which no statistic counts; None for all.
    """

    arguments: tuple[Tensor, ...]
    kept: Tensor | None = None


@dataclass
class RoundedModel:
    """What `round_model` returns.

    Attributes:
        model: a copy with the weights that float kernels would use.
        layers: every Linear's rounded weight, in the order of the forward.
        bits: stored bits per weight, scales and corrections included.
        rounding_seconds: time in the algorithms, without the statistics.
    """

    model: nn.Module
    layers: dict[str, Rounded] = field(default_factory=dict)
    rounding_seconds: float = 0.0

    @property
    def bits(self) -> float:
        weights = sum(layer.shape[0] * layer.shape[1] for layer in self.layers.values())
        return sum(layer.bits for layer in self.layers.values()) / weights

    @property
    def notes(self) -> list[str]:
        """What the algorithms noted, without repetitions."""
        return list(dict.fromkeys(note for layer in self.layers.values() for note in layer.notes))


def round_model(
    model: nn.Module,
    samples: Samples,
    wanted: Format,
    names: Sequence[str],
    *,
    sequential: bool = True,
    progress: Callable[[str], None] = lambda layer: None,
) -> RoundedModel:
    """Round all Linears that the samples reach, in the order of the forward.

    With `sequential` False each sees the original model's activations and no `cross`.
    """
    found = RoundedModel(copy.deepcopy(model).eval())
    run = _Run(found, samples, wanted, names, sequential, progress)
    linears = [(n, m) for n, m in found.model.named_modules() if isinstance(m, nn.Linear)]
    handles = [m.register_forward_hook(run.hook(n), prepend=True) for n, m in linears]
    with torch.no_grad():
        found.model(*run.arguments())
    for handle in handles:
        handle.remove()
    for name, linear in linears:
        if name in found.layers:
            linear.weight = nn.Parameter(run.weights[name], requires_grad=False)
    return found


@dataclass
class _Run:
    """The one forward in which the layers are rounded."""

    found: RoundedModel
    samples: Samples
    wanted: Format
    names: Sequence[str]
    sequential: bool
    progress: Callable[[str], None]
    weights: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._statistics = Statistics(self.samples.kept)

    def arguments(self) -> tuple[Tensor, ...]:
        """The samples, twice in one batch if the layers see the rounded ones before them."""
        if not self.sequential:
            return self.samples.arguments
        return tuple(torch.cat((argument, argument)) for argument in self.samples.arguments)

    def hook(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor | None]:
        """What a Linear's forward calls with its input x (samples, ..., I) and output."""

        def answer(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            assert isinstance(module, nn.Linear)
            (x,) = inputs
            if name not in self.weights:
                self._round(name, module, x)
            if not self.sequential:
                return None
            changed = F.linear(x.chunk(2)[1], self.weights[name], module.bias)
            return torch.cat((output.chunk(2)[0], changed))

        return answer

    def _round(self, name: str, linear: nn.Linear, x: Tensor) -> None:
        """Round one layer's weight."""
        self.progress(name)
        original, seen = x.chunk(2) if self.sequential else (None, x)
        layer = self._statistics.layer(name, linear.weight, original, seen, x)
        start = time.perf_counter()
        with torch.enable_grad():  # some algorithms descend
            rounded = round_weight(layer, self.wanted, self.names)
        self.found.rounding_seconds += time.perf_counter() - start
        self.found.layers[name] = rounded
        self.weights[name] = torch.from_numpy(rounded.dense()).to(linear.weight.dtype)


class Statistics:
    """Moments of a layer's inputs; those of the last one are kept, as q, k and v share theirs."""

    def __init__(self, kept: Tensor | None) -> None:
        self._kept = kept
        self._of: Tensor | None = None
        self._last: dict[str, np.ndarray] = {}

    def layer(
        self, name: str, weight: Tensor, original: Tensor | None, seen: Tensor, key: Tensor
    ) -> LayerData:
        """Return what a rounding algorithm is given; `key` is the tensor that both are parts of."""
        if self._of is not key:
            self._of, self._last = key, self._moments(original, seen)
        return LayerData(weight.detach().numpy(), name=name, **self._last)

    def _moments(self, original: Tensor | None, seen: Tensor) -> dict[str, np.ndarray]:
        """Return the statistics of x (samples, ..., I), in float64."""
        x = self._tokens(seen)
        found = {
            "second": (x.T @ x / len(x)).numpy(),
            "mean_abs": x.abs().mean(dim=0).numpy(),
            "peak": x.abs().amax(dim=0).numpy(),
        }
        if original is not None:
            found["cross"] = (self._tokens(original).T @ x / len(x)).numpy()
        return found

    def _tokens(self, x: Tensor) -> Tensor:
        """Return the inputs that are no padding, float64 (count, I)."""
        if self._kept is not None and x.shape[:2] == self._kept.shape and x.dim() == 3:
            x = x[self._kept]
        return x.reshape(-1, x.shape[-1]).double()
