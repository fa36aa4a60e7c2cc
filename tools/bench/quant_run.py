"""The quantization benchmark's runtimes: each loads what a recipe built, then runs or is timed.

A timed call neither copies its inputs nor turns its outputs into another library's arrays.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True)
class Program:
    """What to load.

    Attributes:
        model, side: names of the case and of the recipe.
        config: what the recipe wants the runtime to be told.
    """

    model: str
    side: str
    folder: Path
    config: "dict[str, Any]"
    threads: int


class Loaded(Protocol):
    """A program in a runtime."""

    def run(self, inputs: "list[np.ndarray]") -> "list[np.ndarray]":
        """Outputs as arrays."""

    def bound(self, inputs: "list[np.ndarray]") -> Callable[[], Any]:
        """A call to be timed."""


class OnnxRuntime:
    """An ONNX file with ONNX Runtime's default settings, spinning threads included."""

    def __init__(self, program: Program) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = program.threads
        path = str(program.folder / "model.onnx")
        self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._names = [value.name for value in self._session.get_inputs()]
        self._outputs = [value.name for value in self._session.get_outputs()]

    def run(self, inputs: "list[np.ndarray]") -> "list[np.ndarray]":
        """Outputs as arrays."""
        found: list[np.ndarray] = self._session.run(
            None, dict(zip(self._names, inputs, strict=True))
        )
        return found

    def bound(self, inputs: "list[np.ndarray]") -> Callable[[], Any]:
        """A run with its inputs bound."""
        binding = self._session.io_binding()
        for name, value in zip(self._names, inputs, strict=True):
            binding.bind_cpu_input(name, value)
        for name in self._outputs:
            binding.bind_output(name, "cpu")
        return lambda: self._session.run_with_iobinding(binding)


class OpenVino:
    """An OpenVINO model, one request at a time."""

    def __init__(self, program: Program) -> None:
        import openvino

        config = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": program.threads,
            **program.config,
        }
        path = program.folder / "model.xml"
        self._request = openvino.Core().compile_model(path, "CPU", config).create_infer_request()
        self._tensor = openvino.Tensor

    def run(self, inputs: "list[np.ndarray]") -> "list[np.ndarray]":
        """Outputs as arrays."""
        found = self._request.infer(dict(enumerate(inputs)))
        return [np.array(value) for value in found.values()]

    def bound(self, inputs: "list[np.ndarray]") -> Callable[[], Any]:
        """A request whose inputs are set."""
        for index, value in enumerate(inputs):
            self._request.set_input_tensor(index, self._tensor(value, shared_memory=True))

        def call() -> None:
            self._request.start_async()
            self._request.wait()

        return call


class Torch:
    """A module that is quantized here, in this process."""

    def __init__(self, program: Program) -> None:
        import torch

        from .quant_models import case
        from .quant_torch import METHODS

        torch.set_num_threads(program.threads)
        torch.set_grad_enabled(False)
        self._call = METHODS[program.side](case(program.model))
        self._tensor = torch.from_numpy

    def run(self, inputs: "list[np.ndarray]") -> "list[np.ndarray]":
        """Outputs as arrays."""
        found = self._call(*map(self._tensor, inputs))
        return [value.numpy() for value in (found if isinstance(found, tuple) else (found,))]

    def bound(self, inputs: "list[np.ndarray]") -> Callable[[], Any]:
        """A call on tensors."""
        tensors = [self._tensor(value) for value in inputs]
        return lambda: self._call(*tensors)


class Passel:
    """What passel.compile saved."""

    def __init__(self, program: Program) -> None:
        import torch

        from ...backends.compiled import load

        torch.set_num_threads(program.threads)
        self._call = load(program.folder / "compiled")
        self._tensor = torch.from_numpy

    def run(self, inputs: "list[np.ndarray]") -> "list[np.ndarray]":
        """Outputs as arrays."""
        found = self._call(*inputs)
        return list(found) if isinstance(found, tuple) else [found]

    def bound(self, inputs: "list[np.ndarray]") -> Callable[[], Any]:
        """A call on tensors, which are not copied."""
        tensors = [self._tensor(value) for value in inputs]
        return lambda: self._call(*tensors)


RUNTIMES: "dict[str, Callable[[Program], Loaded]]" = {
    "onnxruntime": OnnxRuntime,
    "openvino": OpenVino,
    "torch": Torch,
    "passel": Passel,
}
MODULES = {
    "onnxruntime": ("onnxruntime",),
    "openvino": ("openvino",),
    "torch": ("torch", "passel.tools.bench.quant_torch"),
    "passel": ("torch", "passel.backends.compiled"),
}
"""What each imports; their memory is not the model's."""
