"""Run a model compiled for a GPU: torch CUDA tensors in and out without copies, or host memory."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ...errors import InvalidModel
from ...graph.fx_tensor import to_numpy, to_torch
from ..explain import mismatch
from .cuda import CudaBuilt
from .cuda_jit import install_compiler, require_device
from .refusals import first_line
from .session import as_torch, main_of


class CudaSession:
    """A model in the Relax VM on the first GPU; the interface of `onnxruntime.Session`.

    Weights are copied to the GPU once. Inputs in the memory of that GPU are read where they are,
    and the outputs then are there too, ready for work on torch's current stream; inputs in the
    host's memory are copied there, and the outputs back.

    Raises:
        BackendUnavailable: there is no GPU, or the code cannot be compiled for it.
        InvalidModel: TVM cannot load it.

    Attributes:
        inputs: names, in order.
        arch: the architecture of the GPU.
    """

    def __init__(self, built: CudaBuilt) -> None:
        import tvm
        import tvm_ffi

        self.arch = require_device(built.arch)
        built.cubin_for(self.arch)
        install_compiler()
        self._specs = list(built.model.inputs)
        self.inputs = [spec.name for spec in self._specs]
        self._device = tvm.cuda(0)
        self._constants = tvm_ffi.convert(
            [tvm.runtime.tensor(array, self._device) for array in built.model.constants]
        )
        self._main = main_of(built.model.code.library, [self._device, tvm.cpu()])

    def run_arrays(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Run on numpy arrays in input order.

        Raises:
            InvalidInput: an input has another shape or dtype.
        """
        return [to_numpy(result) for result in self.run_tensors([to_torch(a) for a in arrays])]

    def run_tensors(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Run on torch tensors in input order; outputs are where the inputs are.

        Raises:
            InvalidInput: an input has another shape or dtype.
        """
        wrong = mismatch(self._specs, tensors)
        if wrong is not None:
            raise wrong
        on_device = any(tensor.is_cuda for tensor in tensors)
        try:
            results = self._main(*map(self._given, tensors), self._constants)
            return [_taken(result, on_device) for result in results]
        except Exception as error:
            raise InvalidModel(f"TVM failed while running: {first_line(error)}") from error

    def _given(self, tensor: torch.Tensor) -> Any:
        """A tensor in the GPU's memory: torch's own, or a copy of what the host has."""
        import tvm

        plain = tensor.detach().resolve_conj().resolve_neg().contiguous()
        if plain.is_cuda:
            return plain
        on_host = tvm.runtime.from_dlpack(plain)
        return tvm.runtime.empty(on_host.shape, on_host.dtype, self._device).copyfrom(on_host)


def _taken(result: Any, on_device: bool) -> torch.Tensor:
    """What the VM returned, as a torch tensor on the GPU or on the host."""
    import tvm

    if on_device:
        return as_torch(result)
    return torch.from_dlpack(result.copyto(tvm.cpu()))
