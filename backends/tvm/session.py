"""Run a model compiled by TVM: torch tensors and numpy arrays in and out, without copies."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ...errors import InvalidInput, InvalidModel
from ...graph.fx_tensor import to_numpy, to_torch
from ..explain import mismatch
from .aligned import aligned_tensor, copied
from .host import check_host
from .model import TvmModel
from .refusals import first_line
from .workers import beside_workers, use_threads


class TvmSession:
    """A model in the Relax VM; the interface of `onnxruntime.Session`.

    Calls from several threads are safe; each calling thread then has a pool of workers of its own.

    Raises:
        BackendUnavailable: this CPU cannot run the model's code.
        InvalidModel: TVM cannot load it.

    Attributes:
        model: what it runs.
        inputs: names, in order.
        threads: how many run its kernels.
        notes: what the user should know.
    """

    def __init__(self, model: TvmModel) -> None:
        import tvm
        import tvm_ffi

        check_host(model.machine)
        self.model = model
        self._specs = list(model.inputs)
        self.inputs = [spec.name for spec in self._specs]
        self.notes: list[str] = []
        self._held = [to_torch(array) for array in model.constants]
        self._constants = tvm_ffi.convert([tvm_ffi.from_dlpack(t) for t in self._held])
        self._fixed = {tensor.data_ptr() for tensor in self._held}
        self._main = main_of(model.code.library, [tvm.cpu()])
        self.threads = use_threads(model.machine.threads)
        if self.threads < model.machine.threads:
            self.notes.append(
                f"runs on {self.threads} threads instead of {model.machine.threads}: TVM's pool "
                "in this process has no more; set TVM_NUM_THREADS before the first call"
            )

    def run_arrays(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Run on numpy arrays in input order."""
        return [to_numpy(result) for result in self.run_tensors([to_torch(a) for a in arrays])]

    def run_tensors(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Run on torch tensors in input order; the outputs are nobody else's memory.

        An input is copied only where it is not contiguous or not on a 64-byte boundary.

        Raises:
            InvalidInput: an input has another shape or dtype, or is on another device.
        """
        if len(tensors) != len(self._specs):
            raise InvalidInput(f"expected {len(self._specs)} inputs, got {len(tensors)}")
        ready = [aligned_tensor(tensor) for tensor in tensors]
        use_threads(self.model.machine.threads)
        try:
            with beside_workers():
                results = self._main(*ready, self._constants)
        except Exception as error:  # the VM's checks and the kernels raise several kinds
            raise self._explained(error, tensors) from error
        return self._owned([as_torch(result) for result in results], ready)

    def _owned(self, results: list[torch.Tensor], given: list[torch.Tensor]) -> list[torch.Tensor]:
        """The results, copied where they are an input, a weight or another result."""
        taken = {tensor.data_ptr() for tensor in given}
        for index, result in enumerate(results):
            address = result.data_ptr()
            if address in taken or address in self._fixed:
                results[index] = copied(result)
            taken.add(address)
        return results

    def _explained(self, error: Exception, given: Sequence[Any]) -> Exception:
        """An input mismatch in the user's terms; anything else as TVM put it."""
        for name, tensor in zip(self.inputs, given, strict=True):
            if tensor.device.type != "cpu":
                return InvalidInput(
                    f"input {name!r}: expected a tensor on cpu, got one on {tensor.device}"
                )
        return mismatch(self._specs, given) or InvalidModel(
            f"TVM failed while running: {first_line(error)}"
        )


def main_of(library: Any, devices: Sequence[Any]) -> Any:
    """A model's code in the Relax VM, as a function on its inputs and the list of its weights."""
    from tvm import relax

    try:
        return relax.VirtualMachine(library, list(devices))["main"]
    except Exception as error:  # TVM's loaders raise whatever they like
        raise InvalidModel(f"TVM cannot load the model: {first_line(error)}") from error


def as_torch(result: Any) -> torch.Tensor:
    """What the VM returns: torch tensors, or its own where no input was one of torch's."""
    return result if isinstance(result, torch.Tensor) else torch.from_dlpack(result)
