"""Run a program of either kind on flat arrays: to verify it, and to look inside it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch
from torch.export import ExportedProgram

from .backends.choices import SessionChoice
from .backends.onnxruntime import Session
from .capture import Captured
from .errors import InvalidModel
from .graph import Graph, fx, onnx_reference
from .graph import onnx as onnx_view
from .graph.fx_tensor import to_numpy
from .verify import Arrays, Runner


@dataclass(frozen=True)
class Batch:
    """Inputs, and what the original makes of them."""

    inputs: Arrays
    expected: Arrays


def reference(captured: Captured, threads: int) -> Callable[[Sequence[torch.Tensor]], Batch]:
    """The model as it was taken in, as a function from inputs to a batch."""
    call, program = captured.reference, captured.program
    if call is not None:
        return lambda tensors: Batch(arrays_of(tensors), arrays_of(call(tensors)))
    run = runner(program, threads)
    return lambda tensors: Batch(arrays_of(tensors), run(arrays_of(tensors)))


def arrays_of(tensors: Sequence[torch.Tensor]) -> Arrays:
    return [to_numpy(tensor) for tensor in tensors]


def lift(program: ExportedProgram | ir.Model, threads: int = 0) -> Graph:
    """The graph view of either kind of program; what is ONNX is probed on ONNX Runtime."""
    if not isinstance(program, ir.Model):
        return fx.lift(program)
    return onnx_view.lift(program, engine=lambda model: engine(model, threads))


def engine(model: ir.Model, threads: int = 0) -> Runner:
    """A model on ONNX Runtime, or on the reference where ONNX Runtime lacks a kernel."""
    try:
        return Session(model, choice=SessionChoice(threads=threads, plain=True)).run_arrays
    except InvalidModel:
        return onnx_reference.compiled(model)


def runner(program: ExportedProgram | ir.Model, threads: int = 0) -> Runner:
    """A program as a function on flat arrays.

    ONNX runs on ONNX Runtime, or on the reference evaluator where ONNX Runtime lacks a kernel
    (float64 attention); an ExportedProgram on eager torch.
    """
    if not isinstance(program, ir.Model):
        return lift(program).run
    try:
        return Session(program, choice=SessionChoice(threads=threads)).run_arrays
    except InvalidModel as error:
        return _evaluator(program, error)


def _evaluator(model: ir.Model, why: InvalidModel) -> Runner:
    graph = lift(model)

    def run(arrays: Sequence[np.ndarray]) -> Arrays:
        try:
            return graph.run(list(arrays))
        except Exception as error:
            raise InvalidModel(f"{why}; the reference evaluator fails too: {error}") from error

    return run
