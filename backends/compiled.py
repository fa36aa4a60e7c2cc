"""A compiled model: call it like the original, save it, load it again."""

import os
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir
import torch
from torch.export import ExportedProgram

from ..errors import InvalidInput
from ..graph.fx_tensor import to_torch
from ..passes.report import Report
from ..signature import Signature
from . import saved
from .choices import SessionChoice
from .eager import EagerSession
from .onnxruntime import Session
from .saved import AnyModel
from .tvm.cuda import CudaBuilt
from .tvm.cuda_session import CudaSession
from .tvm.model import TvmModel
from .tvm.session import TvmSession


class AnySession(Protocol):
    """A loaded program as a function on flat inputs."""

    def run_arrays(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Run on numpy arrays."""

    def run_tensors(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Run on torch tensors."""


class CompiledModel:
    """A model lowered to a runtime: call it like the original.

    Attributes:
        report: what was done, and how it was verified.
        signature: names and nesting of inputs and outputs.
        target: the device it runs on.
    """

    def __init__(
        self,
        model: AnyModel,
        signature: Signature,
        report: Report,
        target: str = "cpu",
        choice: SessionChoice | None = None,
        session: AnySession | None = None,
    ) -> None:
        self.report = report
        self.signature = signature
        self.target = target
        self._choice = choice or SessionChoice()
        self._model = model
        self._session = session or _session(model, target, self._choice)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The model's outputs in its own structure: torch in, torch out; numpy in, numpy out.

        Raises:
            InvalidInput: an input has a wrong name, number, shape or dtype.
        """
        flat = self.signature.flatten(args, kwargs)
        if any(isinstance(value, torch.Tensor) for value in flat):
            tensors = [v if isinstance(v, torch.Tensor) else to_torch(v) for v in flat]
            return self.signature.unflatten(self._session.run_tensors(tensors))
        return self.signature.unflatten(self._session.run_arrays(flat))

    @property
    def onnx(self) -> ir.Model:
        """The lowered model (it may use com.microsoft ops).

        Raises:
            InvalidInput: the model runs on torch or TVM, so there is none.
        """
        if not isinstance(self._model, ir.Model):
            runtime = "TVM" if isinstance(self._model, TvmModel | CudaBuilt) else "torch"
            raise InvalidInput(
                f"onnx: expected a model on ONNX Runtime; this one runs on {runtime}"
            )
        return self._model

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a folder that `passel.load` runs again: model, session choices, calling convention.

        What was saved there before stays usable until the new one is complete.

        Raises:
            InvalidInput: the path is a file, a folder of something else, or not writable.
        """
        parts = saved.Saved(self._model, self.signature, self.report, self.target, self._choice)
        saved.save(parts, path)


def load(path: str | os.PathLike[str]) -> CompiledModel:
    """Load what `CompiledModel.save` wrote.

    Raises:
        InvalidInput: there is no saved model at the path.
        InvalidModel: what is there is damaged, or from a newer passel.
        BackendUnavailable: it was compiled for a target or by a runtime that this machine lacks.
    """
    parts = saved.load(path)
    return CompiledModel(parts.model, parts.signature, parts.report, parts.target, parts.choice)


def _session(model: AnyModel, target: str, choice: SessionChoice) -> AnySession:
    if isinstance(model, ExportedProgram):
        return EagerSession(model)
    if isinstance(model, TvmModel):
        return TvmSession(model)
    if isinstance(model, CudaBuilt):
        return CudaSession(model)
    return Session(model, target, choice)
