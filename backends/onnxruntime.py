"""Run ONNX on ONNX Runtime: sessions, zero-copy calls with torch tensors, and `CompiledModel`."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import torch

from ..errors import BackendUnavailable, InvalidInput, InvalidModel
from ..graph.onnx_io import read, write
from ..passes.report import Report
from ..signature import Signature
from .choices import SessionChoice
from .serialize import serialized

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
MANIFEST = "passel.json"
MODEL_FILE = "model.onnx"


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
            "pip install onnxruntime-gpu, or use target='cpu'"
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
        try:
            if isinstance(model, ir.Model):
                payload, self._keep_alive = serialized(model, options)
            else:
                payload, self._keep_alive = os.fspath(model), None
            self._session = ort.InferenceSession(
                payload, options, providers=providers, disabled_optimizers=disabled
            )
        except KeyboardInterrupt:
            raise
        except Exception as error:
            first = str(error).strip().splitlines()[0]
            raise InvalidModel(f"ONNX Runtime cannot load the model: {first}") from error
        self.device = target
        self.inputs = [value.name for value in self._session.get_inputs()]
        self.outputs = [value.name for value in self._session.get_outputs()]
        self._specs = {value.name: value for value in self._session.get_inputs()}

    def run_arrays(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Run on numpy arrays in input order."""
        feeds = dict(zip(self.inputs, arrays, strict=True))
        try:
            results: list[np.ndarray] = self._session.run(None, feeds)
        except Exception as error:
            raise self._explain(error, arrays) from error
        return results

    def run_tensors(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Run on torch tensors in input order; neither inputs nor outputs are copied on the CPU."""
        binding = self._session.io_binding()
        held = []
        for name, tensor in zip(self.inputs, tensors, strict=True):
            ready = tensor.detach().contiguous()
            held.append(ready)
            binding.bind_ortvalue_input(name, ort.OrtValue.from_dlpack(_plain(ready)))
        for name in self.outputs:
            binding.bind_output(name, "cuda" if self.device == "cuda" else "cpu")
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:
            raise self._explain(error, tensors) from error
        return [_to_torch(value) for value in binding.get_outputs()]

    def _explain(self, error: Exception, given: Sequence[Any]) -> Exception:
        """An input mismatch in the user's terms; anything else as ONNX Runtime put it."""
        for name, value in zip(self.inputs, given, strict=True):
            spec = self._specs[name]
            shape, wanted = tuple(value.shape), tuple(spec.shape)
            fits = len(shape) == len(wanted) and all(
                not isinstance(w, int) or w == s for s, w in zip(shape, wanted, strict=True)
            )
            if not fits:
                return InvalidInput(f"input {name!r}: expected shape {wanted}, got {shape}")
            have = _ort_type(value)
            if have != spec.type:
                return InvalidInput(f"input {name!r}: expected {spec.type}, got {have}")
        first = str(error).strip().splitlines()[0]
        return InvalidModel(f"ONNX Runtime failed while running: {first}")


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view(torch.uint8) if tensor.dtype is torch.bool else tensor


def _ort_type(value: Any) -> str:
    names = {"float32": "float", "float64": "double"}
    text = str(value.dtype).removeprefix("torch.")
    return f"tensor({names.get(text, text)})"


def _to_torch(value: Any) -> torch.Tensor:
    if value.data_type() == "tensor(bool)":
        return torch.from_numpy(value.numpy())
    return torch.from_dlpack(value)


class CompiledModel:
    """A model lowered to ONNX Runtime: call it like the original.

    Attributes:
        report: what was done, and how it was verified.
        signature: names and nesting of inputs and outputs.
    """

    def __init__(
        self,
        model: ir.Model,
        signature: Signature,
        report: Report,
        target: str = "cpu",
        choice: SessionChoice | None = None,
        session: Session | None = None,
    ) -> None:
        self.report = report
        self.signature = signature
        self.target = target
        self._choice = choice or SessionChoice()
        self._model = model
        self._session = session or Session(model, target, self._choice)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The model's outputs in its own structure: torch in, torch out; numpy in, numpy out.

        Raises:
            InvalidInput: an input has a wrong name, number, shape or dtype.
        """
        flat = self.signature.flatten(args, kwargs)
        if any(isinstance(value, torch.Tensor) for value in flat):
            tensors = [torch.as_tensor(value) for value in flat]
            return self.signature.unflatten(self._session.run_tensors(tensors))
        arrays = [np.asarray(value) for value in flat]
        return self.signature.unflatten(self._session.run_arrays(arrays))

    @property
    def onnx(self) -> ir.Model:
        """The lowered model (it may use com.microsoft ops)."""
        return self._model

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a folder that `passel.load` runs again: model, session choices, calling convention.

        Raises:
            InvalidInput: the path is a file, a folder of something else, or not writable.
        """
        folder = Path(path)
        if folder.exists() and (not folder.is_dir() or _is_foreign(folder)):
            raise InvalidInput(f"save: expected a new folder or a saved model, got {folder}")
        manifest = {
            "format": 1,
            "target": self.target,
            "session": self._choice.to_dict(),
            "signature": json.loads(self.signature.to_json()),
            "report": self.report.to_dict(),
        }
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidInput(f"save: expected a writable path, got {folder}: {error}") from error
        write(self._model, folder / MODEL_FILE)
        temporary = folder / f".{MANIFEST}.{os.getpid()}.tmp"
        temporary.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        temporary.replace(folder / MANIFEST)


def _is_foreign(folder: Path) -> bool:
    return any(folder.iterdir()) and not (folder / MANIFEST).exists()


def load(path: str | os.PathLike[str]) -> CompiledModel:
    """Load what `CompiledModel.save` wrote.

    Raises:
        InvalidInput: there is no saved model at the path.
        BackendUnavailable: it was compiled for a target that this machine lacks.
    """
    folder = Path(path)
    manifest_path = folder / MANIFEST
    if not manifest_path.is_file():
        raise InvalidInput(f"load: expected a folder written by CompiledModel.save, got {folder}")
    try:
        manifest = json.loads(manifest_path.read_text(encoding="utf-8"))
        signature = Signature.from_json(json.dumps(manifest["signature"]))
        choice = SessionChoice.from_dict(manifest["session"])
        target = manifest["target"]
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidModel(f"load: {manifest_path} is damaged: {error!r}") from error
    session = Session(folder / MODEL_FILE, target, choice)
    report = Report(model=str(folder), notes=[f"loaded from {folder}"])
    return CompiledModel(read(folder / MODEL_FILE), signature, report, target, choice, session)
