"""Take in a model of any supported kind: check it, find out how it is called, make it one program."""

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind, TensorArgument

from .errors import ExportError, InvalidInput, InvalidModel
from .graph.onnx_io import read
from .signature import Arguments, Signature, as_arguments

Model = torch.nn.Module | ExportedProgram | str | os.PathLike[str] | onnx.ModelProto | ir.Model
"""What passel reads."""

OPSET = 23
"""The newest opset whose norms and attention ONNX Runtime 1.32 has CPU kernels for."""


@dataclass
class Captured:
    """A model taken in.

    Attributes:
        name: for reports.
        program: the ExportedProgram or ONNX model; never edited.
        signature: how it is called.
        inputs: flat example inputs (tensors), or None when there are none.
        reference: the original on flat tensors; None for ONNX, whose runtime is the backend's.
    """

    name: str
    program: ExportedProgram | ir.Model
    signature: Signature
    inputs: list[torch.Tensor] | None
    reference: Callable[[Sequence[torch.Tensor]], list[torch.Tensor]] | None = None

    @property
    def is_onnx(self) -> bool:
        return isinstance(self.program, ir.Model)


def capture(model: Any, example_inputs: Any = None, dynamic_shapes: Any = None) -> Captured:
    """Take in a Module, an ExportedProgram, or ONNX as a path, a ModelProto or an ir.Model.

    Raises:
        InvalidInput: the kind is unknown, or a Module comes without example inputs.
        InvalidModel: a Module in training mode, NaN weights, an unreadable ONNX file.
        ExportError: torch.export cannot capture the module.
    """
    if isinstance(model, torch.nn.Module):
        return _capture_module(model, example_inputs, dynamic_shapes)
    if isinstance(model, ExportedProgram):
        return _capture_program(model, example_inputs)
    if isinstance(model, str | os.PathLike | onnx.ModelProto | ir.Model | bytes):
        return _capture_onnx(model, example_inputs)
    raise InvalidInput(
        "model: expected a torch.nn.Module, an ExportedProgram, a path to an .onnx file, an "
        f"onnx.ModelProto or an onnx_ir.Model, got {type(model).__name__}"
    )


def _capture_module(model: torch.nn.Module, example_inputs: Any, dynamic_shapes: Any) -> Captured:
    name = type(model).__name__
    if example_inputs is None:
        raise InvalidInput(f"example_inputs: expected inputs to trace {name} with, got None")
    training = [path or name for path, part in model.named_modules() if part.training]
    if training:
        raise InvalidModel(
            f"{name} is in training mode (first at {training[0]!r}): call model.eval() first"
        )
    for path, tensor in model.named_parameters():
        if torch.isnan(tensor.detach()).any():
            raise InvalidModel(f"{name}: parameter {path!r} holds NaN: repair the checkpoint")
    args, kwargs = as_arguments(example_inputs)
    program = export_program(model, (args, kwargs), dynamic_shapes, name)
    return _captured_program(program, name, (args, kwargs), model)


def export_program(
    model: torch.nn.Module, arguments: Arguments, dynamic_shapes: Any, name: str
) -> ExportedProgram:
    """torch.export, with its failures told in one line."""
    args, kwargs = arguments
    shapes = _named_dims(dynamic_shapes)
    try:
        with torch.no_grad(), quiet():
            return torch.export.export(
                model, args, kwargs, dynamic_shapes=shapes, strict=False
            )
    except KeyboardInterrupt:
        raise
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ExportError(
            f"torch.export cannot capture {name}: {type(error).__name__}: {first}\n"
            "Common causes: example_inputs that do not fit forward(), control flow that depends "
            "on tensor values (use torch.cond or torch.where), a cache object in the outputs "
            "(pass use_cache=False)."
        ) from error


def _named_dims(dynamic_shapes: Any) -> Any:
    """Let users write {"x": {0: "batch"}}: equal names become one torch.export.Dim."""
    dims: dict[str, Any] = {}

    def convert(entry: Any) -> Any:
        if isinstance(entry, str):
            return dims.setdefault(entry, torch.export.Dim(entry))
        if isinstance(entry, dict):
            return {key: convert(value) for key, value in entry.items()}
        if isinstance(entry, list | tuple):
            return type(entry)(convert(value) for value in entry)
        return entry

    return convert(dynamic_shapes)


def _capture_program(program: ExportedProgram, example_inputs: Any) -> Captured:
    arguments = program.example_inputs if example_inputs is None else as_arguments(example_inputs)
    if arguments is None:
        raise InvalidInput("example_inputs: the ExportedProgram carries none, so give some")
    return _captured_program(program, "ExportedProgram", arguments, program.module())


def _captured_program(
    program: ExportedProgram, name: str, arguments: Arguments, call: Callable[..., Any]
) -> Captured:
    signature = program_signature(program)
    flat = [_tensor(value) for value in signature.flatten(*arguments)]

    def reference(inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        leaves, spec = torch.utils._pytree.tree_flatten(tuple(arguments))
        for index, tensor in zip(signature.input_leaves, inputs, strict=True):
            leaves[index] = tensor
        args, kwargs = torch.utils._pytree.tree_unflatten(leaves, spec)
        with torch.no_grad():
            results = torch.utils._pytree.tree_leaves(call(*args, **kwargs))
        return [result for result in results if isinstance(result, torch.Tensor)]

    return Captured(name, program, signature, flat, reference)


def _tensor(value: Any) -> torch.Tensor:
    return value if isinstance(value, torch.Tensor) else torch.as_tensor(value)


def program_signature(program: ExportedProgram) -> Signature:
    """How an ExportedProgram is called."""
    spec = program.graph_signature
    users = [s.arg for s in spec.input_specs if s.kind is InputKind.USER_INPUT]
    results = [s.arg for s in spec.output_specs if s.kind is OutputKind.USER_OUTPUT]
    tensors = [(k, arg.name) for k, arg in enumerate(users) if isinstance(arg, TensorArgument)]
    constants = {
        k: getattr(arg, "value", None)
        for k, arg in enumerate(results)
        if not isinstance(arg, TensorArgument)
    }
    return Signature(
        inputs=[name for _, name in tensors],
        outputs=[arg.name for arg in results if isinstance(arg, TensorArgument)],
        in_spec=program.call_spec.in_spec,
        out_spec=program.call_spec.out_spec,
        input_leaves=[k for k, _ in tensors],
        constants=constants,
    )


def _capture_onnx(source: Any, example_inputs: Any) -> Captured:
    model = read(source)
    initial = set(model.graph.initializers)
    inputs = [str(value.name) for value in model.graph.inputs if value.name not in initial]
    signature = Signature(inputs, [str(value.name) for value in model.graph.outputs])
    flat = None
    if example_inputs is not None:
        args, kwargs = as_arguments(example_inputs)
        flat = [_tensor(value) for value in signature.flatten(args, kwargs)]
    name = os.fspath(source) if isinstance(source, str | os.PathLike) else model.graph.name or "onnx"
    return Captured(str(name), model, signature, flat)


def to_onnx(program: ExportedProgram, opset: int = OPSET) -> ir.Model:
    """An ExportedProgram as an ONNX model, by torch.onnx; the tensors are shared, not copied.

    Raises:
        ExportError: an operator has no ONNX translation.
    """
    try:
        with torch.no_grad(), quiet():
            exported = torch.onnx.export(
                program, dynamo=True, opset_version=opset, verbose=False, optimize=True
            )
    except KeyboardInterrupt:
        raise
    except Exception as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        first = lines[0] if lines else type(error).__name__
        raise ExportError(f"torch.onnx cannot translate the model: {first}") from error
    if exported is None:
        raise ExportError("torch.onnx returned no model")
    return exported.model


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the exporters' progress lines and deprecation warnings off the user's terminal."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def random_like(inputs: Sequence[torch.Tensor], seed: int) -> list[torch.Tensor]:
    """Seeded inputs that look like the examples: same shapes, dtypes and range of values.

    Floats are normal with the example's mean and spread; integers are drawn from the values that
    the example holds, so ids stay in the vocabulary and masks stay masks.
    """
    generator = torch.Generator().manual_seed(seed)
    return [_random_tensor(tensor, generator) for tensor in inputs]


def _random_tensor(tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    if tensor.numel() == 0:
        return tensor.clone()
    if tensor.is_floating_point():
        wide = tensor.double()
        spread = wide.std() if tensor.numel() > 1 else torch.tensor(1.0)
        noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        return (wide.mean() + noise * spread.clamp(min=1e-3)).to(tensor.dtype)
    values = tensor.reshape(-1)
    chosen = torch.randint(len(values), (tensor.numel(),), generator=generator)
    return values[chosen].reshape(tensor.shape).clone()


def make_inputs(model: ir.Model, seed: int = 0, symbolic: int = 2) -> list[torch.Tensor]:
    """Random inputs for an ONNX model, every symbolic extent `symbolic` (the same name, the same).

    Integers are 0 or 1, which is a valid id, mask or position almost everywhere.
    """
    generator = np.random.default_rng(seed)
    made = []
    initial = set(model.graph.initializers)
    for value in model.graph.inputs:
        if value.name in initial:
            continue
        if value.shape is None or value.dtype is None:
            raise InvalidInput(f"input {value.name!r} has no shape or type: give example_inputs")
        shape = [dim if isinstance(dim, int) else symbolic for dim in value.shape]
        dtype = value.dtype.numpy()
        kind = np.dtype(dtype).kind
        array = generator.normal(size=shape) if kind not in "iub" else generator.integers(0, 2, shape)
        made.append(torch.from_numpy(np.ascontiguousarray(array).astype(dtype)))
    return made
