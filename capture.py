"""Take in a model of any kind: check it, find out how it is called, make it one program."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx
import onnx_ir as ir
import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import (
    ConstantArgument,
    InputKind,
    OutputKind,
    SymIntArgument,
    TensorArgument,
)
from torch.utils import _pytree as pytree

from .check_model import check_interface, check_onnx, check_tensors
from .dynamic_dims import dim_names, named_dims, positional
from .errors import ExportError, InvalidInput, InvalidModel
from .graph.onnx_io import read
from .samples import make_inputs, random_like, real_inputs
from .signature import Arguments, Signature, as_arguments
from .torch_export import OPSET, export_program, first_line, quiet, to_onnx

__all__ = [
    "OPSET",
    "Captured",
    "capture",
    "export_program",
    "make_inputs",
    "program_signature",
    "quiet",
    "random_like",
    "to_onnx",
]

Model = torch.nn.Module | ExportedProgram | str | os.PathLike[str] | onnx.ModelProto | ir.Model
"""What passel reads."""
Tensors = Sequence[torch.Tensor]


@dataclass
class Captured:
    """A model taken in.

    Attributes:
        name: for reports.
        program: the ExportedProgram or ONNX model; never edited.
        signature: how it is called.
        inputs: flat example inputs (tensors), or None when there are none.
        reference: the original on flat tensors; None for ONNX, whose runtime is the backend's.
        dims: what the user called the program's symbolic extents.
    """

    name: str
    program: ExportedProgram | ir.Model
    signature: Signature
    inputs: list[torch.Tensor] | None
    reference: Callable[[Tensors], list[torch.Tensor]] | None = None
    dims: dict[str, str] = field(default_factory=dict)

    @property
    def is_torch(self) -> bool:
        return isinstance(self.program, ExportedProgram)

    def inputs_for(self, program: ExportedProgram | ir.Model) -> list[torch.Tensor]:
        """The examples, or made ones for an ONNX form of the model that came without.

        Raises:
            InvalidModel: there are none, and none can be made.
        """
        if self.inputs is not None:
            return self.inputs
        assert isinstance(program, ir.Model)  # an ExportedProgram comes with its own
        check_interface(program, self.name)
        return make_inputs(program)


def capture(model: Any, example_inputs: Any = None, dynamic_shapes: Any = None) -> Captured:
    """Take in a Module, an ExportedProgram, or ONNX as a path, a ModelProto or an ir.Model.

    Raises:
        InvalidInput: the kind is unknown, or the example inputs do not fit.
        InvalidModel: a Module in training mode, NaN weights, an unreadable ONNX file.
        ExportError: torch.export cannot capture the module.
    """
    if isinstance(model, torch.nn.Module):
        return _capture_module(model, example_inputs, dynamic_shapes)
    if dynamic_shapes is not None:
        raise InvalidInput(
            f"dynamic_shapes: expected None for a {type(model).__name__}, whose shapes are fixed "
            "or dynamic already"
        )
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
    check_tensors(name, {**dict(model.named_parameters()), **dict(model.named_buffers())})
    arguments = as_arguments(example_inputs)
    program = export_program(model, arguments, dynamic_shapes, name)
    captured = _captured_program(program, name, arguments, model)
    captured.signature.parameters = positional(model)
    if dynamic_shapes is not None:
        captured.dims = dim_names(program, model, arguments, named_dims(dynamic_shapes))
    return captured


def _capture_program(program: ExportedProgram, example_inputs: Any) -> Captured:
    name = "ExportedProgram"
    check_tensors(name, program.state_dict)
    arguments = program.example_inputs if example_inputs is None else as_arguments(example_inputs)
    if arguments is None:
        raise InvalidInput(f"example_inputs: the {name} carries none, so give some")
    return _captured_program(program, name, arguments, program.module())


def _captured_program(
    program: ExportedProgram, name: str, arguments: Arguments, call: Callable[..., Any]
) -> Captured:
    _check_writes(program, name)
    signature = program_signature(program)
    flat = [_tensor(value) for value in signature.flatten(*arguments)]

    def reference(inputs: Tensors) -> list[torch.Tensor]:
        leaves, spec = pytree.tree_flatten(tuple(arguments))
        for index, tensor in zip(signature.input_leaves, inputs, strict=True):
            leaves[index] = tensor.clone()  # the model may write to it
        args, kwargs = pytree.tree_unflatten(leaves, spec)
        try:
            with torch.no_grad():
                results = pytree.tree_leaves(call(*args, **kwargs))
        except Exception as error:
            raise InvalidInput(
                f"example_inputs: {name} does not run on them: {first_line(error)}"
            ) from error
        return [result for result in results if isinstance(result, torch.Tensor)]

    return Captured(name, program, signature, flat, reference)


def _check_writes(program: ExportedProgram, name: str) -> None:
    """Refuse a model that keeps state between calls: what it is lowered to has none."""
    specs = program.graph_signature.input_specs
    stored = {s.arg.name: s.target for s in specs if s.kind is not InputKind.USER_INPUT}
    for node in program.graph.nodes:
        target = stored.get(_written(node))
        if target is not None:
            raise InvalidModel(
                f"{name} writes to its buffer {target!r} when it is called: pass such state in as "
                "an input and return it as an output"
            )


def _written(node: fx.Node) -> str:
    """The name of the placeholder whose memory an in-place operator writes to, or nothing."""
    if not _first_argument(node, is_write=True):
        return ""
    while node.op == "call_function" and _first_argument(node) and node.args:
        source = node.args[0]
        if not isinstance(source, fx.Node):
            return ""
        node = source
    return node.name if node.op == "placeholder" else ""


def _first_argument(node: fx.Node, is_write: bool = False) -> bool:
    """Whether an operator's result shares its first argument's memory (and it writes to that)."""
    schema = getattr(node.target, "_schema", None)
    if schema is None or not schema.arguments:
        return False
    alias = schema.arguments[0].alias_info
    return alias is not None and (alias.is_write or not is_write)


def _tensor(value: Any) -> torch.Tensor:
    return value if isinstance(value, torch.Tensor) else torch.as_tensor(value)


def program_signature(program: ExportedProgram) -> Signature:
    """How an ExportedProgram is called.

    Raises:
        ExportError: an input or output is a number that depends on dynamic shapes.
    """
    spec = program.graph_signature
    users = [s.arg for s in spec.input_specs if s.kind is InputKind.USER_INPUT]
    results = [s.arg for s in spec.output_specs if s.kind is OutputKind.USER_OUTPUT]
    for what, args in (("input", users), ("output", results)):
        symbolic = [arg.name for arg in args if isinstance(arg, SymIntArgument)]
        if symbolic:
            raise ExportError(
                f"{what} {symbolic[0]!r} is an integer that follows from dynamic shapes: make it a "
                "tensor, or keep it inside the model"
            )
    tensors = [(k, arg.name) for k, arg in enumerate(users) if isinstance(arg, TensorArgument)]
    return Signature(
        inputs=[name for _, name in tensors],
        outputs=[arg.name for arg in results if isinstance(arg, TensorArgument)],
        in_spec=program.call_spec.in_spec,
        out_spec=program.call_spec.out_spec,
        input_leaves=[k for k, _ in tensors],
        constants={k: a.value for k, a in enumerate(results) if isinstance(a, ConstantArgument)},
        fixed={
            k: (a.name, a.value) for k, a in enumerate(users) if isinstance(a, ConstantArgument)
        },
    )


def _capture_onnx(source: Any, example_inputs: Any) -> Captured:
    model = read(source)
    path = os.fspath(source) if isinstance(source, str | os.PathLike) else None
    name = str(path or model.graph.name or "onnx")
    check_onnx(model, name)
    inputs = [str(value.name) for value in real_inputs(model)]
    signature = Signature(inputs, [str(value.name) for value in model.graph.outputs])
    flat = None
    if example_inputs is not None:
        args, kwargs = as_arguments(example_inputs)
        flat = [_tensor(value) for value in signature.flatten(args, kwargs)]
    return Captured(name, model, signature, flat)
