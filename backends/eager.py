"""Run an ExportedProgram on torch itself, for what ONNX Runtime has no kernels (bfloat16, ...)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, TensorArgument
from torch.utils import _pytree as pytree

from ..errors import InvalidModel
from ..graph.fx_tensor import to_numpy, to_torch
from .explain import InputSpec, mismatch


class EagerSession:
    """An ExportedProgram as a function on flat tensors; the interface of `onnxruntime.Session`."""

    def __init__(self, program: ExportedProgram) -> None:
        self._module = program.module()
        self._in_spec = program.call_spec.in_spec
        values = {n.name: n.meta["val"] for n in program.graph.nodes if n.op == "placeholder"}
        specs = program.graph_signature.input_specs
        users = [spec.arg for spec in specs if spec.kind is InputKind.USER_INPUT]
        self._leaves = [getattr(arg, "value", None) for arg in users]
        self._places = [k for k, arg in enumerate(users) if isinstance(arg, TensorArgument)]
        self._specs = [_spec(users[k].name, values[users[k].name]) for k in self._places]
        self.inputs = [spec.name for spec in self._specs]

    def run_arrays(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Run on numpy arrays in input order."""
        return [to_numpy(result) for result in self.run_tensors([to_torch(a) for a in arrays])]

    def run_tensors(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Run on torch tensors in input order."""
        wrong = mismatch(self._specs, tensors)  # torch itself would not mind another dtype
        if wrong is not None:
            raise wrong
        leaves = list(self._leaves)
        for place, tensor in zip(self._places, tensors, strict=True):
            leaves[place] = tensor.detach()
        args, kwargs = pytree.tree_unflatten(leaves, self._in_spec)
        try:
            with torch.no_grad():
                results = self._module(*args, **kwargs)
        except Exception as error:
            raise InvalidModel(f"torch failed while running: {error}") from error
        return [leaf for leaf in pytree.tree_leaves(results) if isinstance(leaf, torch.Tensor)]


def _spec(name: str, value: Any) -> InputSpec:
    shape = tuple(extent if isinstance(extent, int) else str(extent) for extent in value.shape)
    return InputSpec(name, str(value.dtype).removeprefix("torch."), shape)
