"""Run what the emission makes of a graph: every kernel as it was written, none scheduled."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from passel.backends.tvm.emit import Emitted, emit
from passel.backends.tvm.machine import Machine
from passel.backends.tvm.pipeline import compiled, fused
from passel.capture import export_program, to_onnx
from passel.execution import lift
from passel.graph import Graph
from passel.graph.fx_tensor import to_numpy
from passel.passes import Canonicalize, FoldConstants
from passel.passes.driver import run_passes

Arrays = list[np.ndarray]
Run = Callable[[Sequence[np.ndarray]], Arrays]
VIEWS = ("fx", "onnx")
PREPARED = (FoldConstants(), Canonicalize())
TYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
CASES = [(view, torch.float32) for view in VIEWS] + [("fx", dtype) for dtype in TYPES[1:]]
NAMES = [f"{view}-{str(dtype).removeprefix('torch.')}" for view, dtype in CASES]
"""Both views of one type and one view of the others, and what these cases are called."""


class Function(nn.Module):
    """A function as a module; its modules and tensors are attributes of its first argument."""

    def __init__(self, function: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            if isinstance(part, nn.Module):
                self.add_module(name, part)
            else:
                self.register_buffer(name, part)

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(self, *inputs)


def graph_of(
    function: Callable[..., Any] | nn.Module,
    inputs: Sequence[Tensor],
    view: str,
    dynamic: Any = None,
    opset: int = 20,
    passes: Sequence[Any] = PREPARED,
    **parts: Any,
) -> Graph:
    """A function of tensors in one of the views, canonical."""
    module = function if isinstance(function, nn.Module) else Function(function, **parts)
    shapes = None if dynamic is None else (tuple(dynamic),)
    program = export_program(module.eval(), (tuple(inputs), {}), shapes, "case")
    graph = lift(program if view == "fx" else to_onnx(program, opset))
    run_passes(graph, list(passes))
    return graph


def built(graph: Graph, machine: Machine) -> Run:
    """The graph as a function on arrays."""
    return running(emit(graph, machine), machine)


def running(emitted: Emitted, machine: Machine) -> Run:
    """A module as a function on arrays."""
    return called(compiled(fused(emitted.module, machine.target()), machine), emitted.constants)


def called(executable: Any, arrays: Sequence[np.ndarray]) -> Run:
    """What was compiled as a function on arrays; `arrays` are its constants."""
    import tvm
    from tvm import relax

    main = relax.VirtualMachine(executable, tvm.cpu())["main"]
    constants = [tvm.runtime.tensor(np.array(array)) for array in arrays]

    def run(arrays: Sequence[np.ndarray]) -> Arrays:
        return [x.numpy() for x in main(*map(tvm.runtime.tensor, arrays), constants)]

    return run


def kernels(emitted: Emitted, machine: Machine) -> list[str]:
    """Names of the kernels that a module comes to."""
    from tvm import tirx

    functions = fused(emitted.module, machine.target()).functions_items()
    return [var.name_hint for var, f in functions if isinstance(f, tirx.PrimFunc)]


def arrays_of(*tensors: Tensor) -> Arrays:
    return [to_numpy(tensor) for tensor in tensors]


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def whole(*shape: int, low: int = -9, high: int = 9, seed: int = 0) -> Tensor:
    """Integers."""
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed))


def assert_same(expected: Arrays, found: Arrays, bound: float = 0.0) -> None:
    """Equal in shape, type, NaNs and infinities; else within `bound` of the largest element."""
    assert len(expected) == len(found)
    for position, (y, z) in enumerate(zip(expected, found, strict=True)):
        where = f"result {position}"
        assert y.shape == z.shape, f"{where}: expected shape {y.shape}, got {z.shape}"
        assert y.dtype == z.dtype, f"{where}: expected {y.dtype}, got {z.dtype}"
        a, b = y.astype(np.float64), z.astype(np.float64)
        finite = np.isfinite(a)
        assert np.array_equal(a[~finite], b[~finite], equal_nan=True), f"{where}: not finite alike"
        peak = np.abs(a[finite]).max(initial=0) or 1.0
        error = np.abs(a[finite] - b[finite]).max(initial=0) / peak
        assert error <= bound, f"{where}: off by {error:.3g} of the largest, allowed {bound:.3g}"
