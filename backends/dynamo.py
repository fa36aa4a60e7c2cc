"""torch.compile(model, backend="passel"): run captured graphs through passel on ONNX Runtime.

    fast = torch.compile(model, backend="passel", options={"threads": 4})
    with torch.no_grad():
        y = fast(x)

Dynamo hands weights over as inputs. Here they are frozen into the compiled model, which is what the
passes work on; so what was compiled counts for those weights and shapes only, and is looked up by
them on every call. In-place updates of weights lead to a new compilation.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

Compiled = Callable[..., Any]
MAX_VARIANTS = 16
"""Of one graph: sets of weights and shapes. Beyond, calls go to eager torch."""


def passel_backend(
    module: torch.fx.GraphModule,
    example_inputs: Sequence[Any],
    *,
    options: Mapping[str, Any] | None = None,
) -> Compiled:
    """Take over one graph that torch.compile captured; it is compiled when it is first called.

    A call that needs gradients, or a graph that cannot be compiled, stays on eager torch; a warning
    says why. `options` go to `passel.compile`.
    """
    return Graph(module, {"measure": False, **(options or {})})


@dataclass
class Graph:
    """One captured graph, and what it was compiled to.

    Attributes:
        found: the compiled variants by their weights and shapes; None stays on eager torch.
        held: the weights of all variants, so that no other can take their place in memory.
    """

    module: torch.fx.GraphModule
    options: dict[str, Any]
    found: dict[tuple[Any, ...], Compiled | None] = field(default_factory=dict)
    held: list[Any] = field(default_factory=list)
    warned: bool = False

    def __call__(self, *inputs: Any) -> Any:
        """Run the variant for these inputs."""
        tensors = [value for value in inputs if isinstance(value, torch.Tensor)]
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
            self._stay("it may need gradients: call it under torch.no_grad()")
            return self.module(*inputs)
        key = tuple(_key(value) for value in inputs)
        if key not in self.found:
            self.found[key] = self._compiled(inputs)
        compiled = self.found[key]
        return self.module(*inputs) if compiled is None else compiled(*inputs)

    def _compiled(self, inputs: Sequence[Any]) -> Compiled | None:
        from ..compiler import compile as passel_compile
        from ..errors import PasselError

        live = [k for k, value in enumerate(inputs) if not _is_weight(value)]
        if len(self.found) >= MAX_VARIANTS:
            self._stay(f"more than {MAX_VARIANTS} sets of weights and shapes")
            return None
        if not any(isinstance(inputs[k], torch.Tensor) for k in live):
            self._stay("it takes no tensor")
            return None
        self.held += [value for value in inputs if _is_weight(value)]
        bound = Bound(self.module, inputs, live).eval()
        try:
            compiled = passel_compile(bound, tuple(inputs[k] for k in live), **self.options)
        except PasselError as error:
            self._stay(str(error).splitlines()[0])
            return None
        return lambda *given: compiled(*(given[k] for k in live))

    def _stay(self, reason: str) -> None:
        if not self.warned:
            warnings.warn(f"passel leaves a graph to eager torch: {reason}", stacklevel=3)
        self.warned = True


class Bound(torch.nn.Module):
    """A captured graph with its weights in place, as a module of the remaining inputs."""

    def __init__(self, module: torch.fx.GraphModule, inputs: Sequence[Any], live: list[int]):
        super().__init__()
        self.graph_module = module
        self.live = live
        self.places = [k for k in range(len(inputs)) if k not in live]
        for k in self.places:
            self.register_buffer(f"weight_{k}", inputs[k].detach())

    def forward(self, *given: Any) -> Any:
        """Put inputs and weights in their places."""
        inputs = dict(zip(self.live, given, strict=True))
        inputs |= {k: getattr(self, f"weight_{k}") for k in self.places}
        return self.graph_module(*(inputs[k] for k in sorted(inputs)))


def _is_weight(value: Any) -> bool:
    """A parameter or buffer of the model: dynamo marks those that keep their place in memory."""
    if not isinstance(value, torch.Tensor):
        return False
    marked = getattr(value, "_dynamo_static_input_type", None) is not None
    return isinstance(value, torch.nn.Parameter) or marked


def _key(value: Any) -> Any:
    if _is_weight(value):
        return value.data_ptr(), value._version, tuple(value.shape), value.dtype
    return (tuple(value.shape), value.dtype) if isinstance(value, torch.Tensor) else value
