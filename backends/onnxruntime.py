"""Run ONNX on ONNX Runtime: providers, and sessions that share memory with torch and numpy."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import torch

from ..errors import BackendUnavailable, InvalidInput, InvalidModel
from ..graph.fx_tensor import to_numpy, to_torch
from .choices import SessionChoice
from .explain import InputSpec, mismatch
from .serialize import serialized

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def provider(target: str) -> str:
    """The execution provider of a target.

    Raises:
        InvalidInput: the target is unknown.
        BackendUnavailable: the installed ONNX Runtime lacks the provider.
    """
    if target not in PROVIDERS:
        raise InvalidInput(f"target: expected one of {', '.join(PROVIDERS)}, got {target!r}")
    name = PROVIDERS[target]
    if name not in ort.get_available_providers():
        raise BackendUnavailable(
            f"target {target!r} needs ONNX Runtime's {name}, which this build lacks: "
            "pip install onnxruntime-gpu in place of onnxruntime, or use target='cpu'"
        )
    return name


class Session:
    """One ONNX model loaded in ONNX Runtime.

    Args:
        model: a model, or the path of an .onnx file (whose external data is then memory-mapped).
        target: "cpu" or "cuda".
        choice: session options.
    """

    def __init__(
        self,
        model: ir.Model | str | os.PathLike[str],
        target: str = "cpu",
        choice: SessionChoice | None = None,
    ) -> None:
        options = (choice or SessionChoice()).session_options()
        providers = [provider(target)]
        if target != "cpu":
            providers.append(PROVIDERS["cpu"])
        disabled = list((choice or SessionChoice()).disabled_optimizers)
        payload: str | bytes
        self._keep_alive: list[np.ndarray] = []
        try:
            if isinstance(model, ir.Model):
                payload, self._keep_alive = serialized(model, options)
            else:
                payload = os.fspath(model)
            self._session = ort.InferenceSession(
                payload, options, providers=providers, disabled_optimizers=disabled
            )
        except Exception as error:
            first = str(error).strip().splitlines()[0]
            raise InvalidModel(f"ONNX Runtime cannot load the model: {first}") from error
        if providers[0] not in self._session.get_providers():
            raise BackendUnavailable(
                f"ONNX Runtime cannot start its {providers[0]}, though this build has it: are the "
                "CUDA and cuDNN libraries that it needs installed?"
            )
        self.device = target
        self.outputs = [value.name for value in self._session.get_outputs()]
        self._specs = [InputSpec.of_onnxruntime(value) for value in self._session.get_inputs()]
        self.inputs = [spec.name for spec in self._specs]

    def run_arrays(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Run on numpy arrays in input order."""
        if any(array.dtype.kind == "V" for array in arrays):  # bfloat16: numpy has no such type
            return [to_numpy(t) for t in self.run_tensors([to_torch(array) for array in arrays])]
        feeds = dict(zip(self.inputs, arrays, strict=True))
        try:
            results: list[np.ndarray] = self._session.run(None, feeds)
        except Exception as error:
            raise self._explained(error, arrays) from error
        return results

    def run_tensors(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Run on torch tensors in input order; neither inputs nor outputs are copied on the CPU.

        Raises:
            InvalidInput: an input has another shape or dtype, or is on another device.
        """
        binding = self._session.io_binding()
        held = []  # until the run is over
        for name, tensor in zip(self.inputs, tensors, strict=True):
            ready = self._ready(name, tensor)
            held.append(ready)
            binding.bind_ortvalue_input(name, ort.OrtValue.from_dlpack(ready))
        for name in self.outputs:
            binding.bind_output(name, self.device)
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:
            raise self._explained(error, tensors) from error
        return [torch.from_dlpack(value) for value in binding.get_outputs()]

    def _ready(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        if tensor.device.type not in ("cpu", self.device):
            raise InvalidInput(
                f"input {name!r}: expected a tensor on {self.device}, got one on {tensor.device}"
            )
        return tensor.detach().resolve_conj().resolve_neg().contiguous()

    def _explained(self, error: Exception, given: Sequence[Any]) -> Exception:
        """An input mismatch in the user's terms; anything else as ONNX Runtime put it."""
        first = str(error).strip().splitlines()[0]
        return mismatch(self._specs, given) or InvalidModel(
            f"ONNX Runtime failed while running: {first}"
        )
