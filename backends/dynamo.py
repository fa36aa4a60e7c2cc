"""torch.compile(model, backend="passel"): run captured graphs through passel on ONNX Runtime."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

Compiled = Callable[..., Any]


def passel_backend(module: torch.fx.GraphModule, example_inputs: Sequence[Any]) -> Compiled:
    """Compile one graph that torch.compile captured.

    A graph that needs gradients, takes no tensor, or cannot be exported stays on eager torch; a
    warning says why. Symbolic integers that dynamo passes beside the tensors keep their place.
    """
    from ..compiler import compile as passel_compile
    from ..errors import PasselError

    if torch.is_grad_enabled() and any(p.requires_grad for p in module.parameters()):
        _stay("it may need gradients: call it under torch.no_grad()")
        return module.forward
    tensors = [value for value in example_inputs if isinstance(value, torch.Tensor)]
    if not tensors or len(tensors) != len(example_inputs):
        _stay("it takes inputs that are no tensors (mark_dynamic or dynamic=True): not supported")
        return module.forward
    module.eval()
    try:
        compiled = passel_compile(module, tuple(_real(tensor) for tensor in tensors))
    except PasselError as error:
        _stay(str(error).splitlines()[0])
        return module.forward
    return lambda *inputs: compiled(*inputs)


def _real(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor with values for a fake one, as dynamo hands out; zeros are valid ids and masks."""
    if isinstance(tensor, torch._subclasses.FakeTensor):
        return torch.zeros(tensor.shape, dtype=tensor.dtype)
    return tensor.detach()


def _stay(reason: str) -> None:
    import warnings

    warnings.warn(f"passel leaves a graph to eager torch: {reason}", stacklevel=3)
