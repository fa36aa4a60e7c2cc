"""Execute through torch: one op on constants, or a whole program on flat inputs."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind

from .fx_call import is_taken_apart
from .fx_copy import is_body
from .fx_emit import emit
from .fx_signature import stored
from .fx_tensor import to_numpy, to_torch, torch_dtype
from .ops import DynamicQuantize, Quantize
from .value import Op, Value


def evaluate(
    program: ExportedProgram, op: Op, arrays: Sequence[np.ndarray | None], wide: bool
) -> list[np.ndarray]:
    """The op's results; if `wide`, floats in float64 where the operator allows it."""
    tensors = [None if array is None else to_torch(np.asarray(array)) for array in arrays]
    if isinstance(op, Quantize | DynamicQuantize):  # those take no float64
        tensors = [_narrowed(t, v) for t, v in zip(tensors, op.inputs, strict=False)]
    with torch.no_grad():
        if wide and all(output.is_float for output in op.outputs):
            try:
                return _evaluate(program, op, [_widened(tensor) for tensor in tensors])
            except Exception:
                pass  # operators refuse a type in many ways; running it as it is decides
        return _evaluate(program, op, tensors)


def run(program: ExportedProgram, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The user outputs, flat, for user inputs in the order of their placeholders."""
    user = iter(inputs)
    placeholders = [node for node in program.graph.nodes if node.op == "placeholder"]
    flat = [
        _argument(next(user), node) if spec.kind == InputKind.USER_INPUT else stored(program, spec)
        for node, spec in zip(placeholders, program.graph_signature.input_specs, strict=True)
    ]
    with torch.no_grad():
        results = fx.Interpreter(program.graph_module).run(*flat, enable_io_processing=False)
    returned: Any = program.graph.output_node().args[0]
    specs = program.graph_signature.output_specs
    return [
        _array(result)
        for result, node, spec in zip(results, returned, specs, strict=True)
        if spec.kind == OutputKind.USER_OUTPUT and isinstance(node, fx.Node)
    ]


def _evaluate(
    program: ExportedProgram, op: Op, tensors: list[torch.Tensor | None]
) -> list[np.ndarray]:
    if isinstance(op.source, fx.Node):
        results = _call_source(program, op, tensors)
    else:
        results = emit(op, _Immediate(tensors))
    return [_array(result) for result in results[: len(op.outputs)]]


def _call_source(program: ExportedProgram, op: Op, tensors: list[torch.Tensor | None]) -> list[Any]:
    source: fx.Node = op.source
    left = iter(range(len(op.lifted_inputs)) if op.order is None else op.order)

    def argument(found: fx.Node) -> Any:
        if is_body(found):
            return program.graph_module.get_submodule(str(found.target))
        tensor = tensors[next(left)]
        symbolic = not isinstance(found.meta.get("val"), torch.Tensor)
        return tensor.item() if symbolic and tensor is not None else tensor

    args, kwargs = fx.map_arg(source.args, argument), fx.map_arg(source.kwargs, argument)
    results = source.target(*args, **kwargs)  # type: ignore[operator]
    return list(results) if is_taken_apart(source) else [results]


class _Immediate:
    """Runs each call at once."""

    def __init__(self, tensors: list[torch.Tensor | None]) -> None:
        self.tensors = tensors

    def call(self, target: Any, *args: Any, **kwargs: Any) -> Any:
        return target(*args, **kwargs)

    def arg(self, index: int) -> torch.Tensor | None:
        return self.tensors[index] if index < len(self.tensors) else None

    def constant(self, array: np.ndarray, hint: str) -> torch.Tensor:
        return to_torch(array)

    def literal(self, index: int) -> Any:
        tensor = self.arg(index)
        return None if tensor is None or tensor.ndim else tensor.item()


def _widened(tensor: torch.Tensor | None) -> torch.Tensor | None:
    return tensor.double() if tensor is not None and tensor.is_floating_point() else tensor


def _narrowed(tensor: torch.Tensor | None, value: Value | None) -> torch.Tensor | None:
    if tensor is None or value is None or value.dtype is None or not tensor.is_floating_point():
        return tensor
    return tensor.to(torch_dtype(value.dtype))


def _array(result: Any) -> np.ndarray:
    return to_numpy(result) if isinstance(result, torch.Tensor) else np.asarray(result)


def _argument(given: Any, node: fx.Node) -> Any:
    if not isinstance(given, np.ndarray):
        return given
    is_tensor = isinstance(node.meta.get("val"), torch.Tensor)
    return to_torch(given) if is_tensor else given.item()
