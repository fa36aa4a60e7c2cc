"""What the tests of the residual-stream passes share: programs in both views, and comparisons."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from passel.capture import export_program, to_onnx
from passel.graph import Graph, fx, onnx
from passel.graph.fx_tensor import to_numpy
from passel.graph.ops import Norm
from passel.passes.driver import run_passes
from passel.passes.registry import resolve
from passel.passes.report import PassReport

VIEWS = ("fx", "onnx")
KINDS = ("layer", "rms", "crms")


def lifted(
    model: nn.Module,
    inputs: Sequence[Tensor],
    view: str = "fx",
    opset: int = 20,
    dynamic: Any = None,
) -> Graph:
    """The graph of a module, through torch.export or through torch.onnx."""
    program = export_program(model.eval(), (tuple(inputs), {}), dynamic, type(model).__name__)
    return fx.lift(program) if view == "fx" else onnx.lift(to_onnx(program, opset))


def apply(graph: Graph, *specs: str) -> list[PassReport]:
    """Run passes by their specs."""
    return run_passes(graph, resolve(list(specs)))


def outputs(graph: Graph, inputs: Sequence[Tensor]) -> list[np.ndarray]:
    return graph.run([to_numpy(tensor) for tensor in inputs])


def expected(model: nn.Module, inputs: Sequence[Tensor]) -> list[np.ndarray]:
    with torch.no_grad():
        result = model(*inputs)
    results = result if isinstance(result, tuple) else (result,)
    return [to_numpy(tensor) for tensor in results]


def error(got: Sequence[np.ndarray], want: Sequence[np.ndarray]) -> float:
    """max |Δ| / max |y| over all outputs; nan counts as infinite."""
    worst = 0.0
    for mine, theirs in zip(got, want, strict=True):
        assert mine.shape == theirs.shape
        wide, target = mine.astype(np.float64), theirs.astype(np.float64)
        relative = float(np.abs(wide - target).max() / np.abs(target).max())
        worst = max(worst, relative if np.isfinite(relative) else np.inf)
    return worst


def norms(graph: Graph) -> dict[str, int]:
    """How many norms of each kind the graph has; kinds that it lacks are left out."""
    return dict(Counter(norm.norm for norm in graph.walk(Norm)))


def double(model: nn.Module, inputs: Sequence[Tensor]) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The module and its inputs in float64."""
    wide = tuple(tensor.double() if tensor.is_floating_point() else tensor for tensor in inputs)
    return model.double(), wide


def fingerprint(graph: Graph) -> list[tuple[Any, ...]]:
    """Everything that a pass could change: ops, attributes, operands, bytes of constants."""
    lines: list[tuple[Any, ...]] = []
    for op in graph.ops:
        hidden = ("inputs", "outputs", "prev", "next", "source", "lifted_inputs")
        attributes = sorted((k, str(v)) for k, v in vars(op).items() if k not in hidden)
        operands = [
            None if v is None else (v.name, v.shape, _bytes(v.constant and v.array()))
            for v in op.inputs
        ]
        lines.append((op.kind, attributes, operands, [(v.name, v.shape) for v in op.outputs]))
    return [*lines, tuple(value.name for value in graph.outputs)]


def _bytes(array: np.ndarray | None) -> bytes | None:
    return None if array is None else array.tobytes()
