"""Inputs to try a model on: random ones like the examples, at other sizes, or made from nothing."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import sympy  # type: ignore[import-untyped]
import torch
from torch.export import ExportedProgram

from .errors import InvalidInput
from .graph.fx_tensor import to_torch

Program = ExportedProgram | ir.Model
Sizes = Sequence[Sequence[int]]
Extent = Any
"""A number, a sympy expression of symbols, or None for anything at all."""


def random_like(
    inputs: Sequence[torch.Tensor], seed: int, sizes: Sizes | None = None
) -> list[torch.Tensor]:
    """Seeded inputs that look like the examples: their dtypes, range of values and (else) shapes.

    Floats are normal with the example's mean and spread; integers are drawn from the values that
    the example holds, so ids stay in the vocabulary and masks stay masks.
    """
    generator = torch.Generator().manual_seed(seed)
    wanted = sizes or [tensor.shape for tensor in inputs]
    return [
        _random_tensor(tensor.detach().cpu(), list(shape), generator)
        for tensor, shape in zip(inputs, wanted, strict=True)
    ]


def _random_tensor(
    tensor: torch.Tensor, shape: list[int], generator: torch.Generator
) -> torch.Tensor:
    if tensor.numel() == 0:
        return torch.zeros(shape, dtype=tensor.dtype)
    if tensor.is_floating_point():
        wide = tensor.double()
        spread = wide.std() if tensor.numel() > 1 else torch.tensor(1.0)
        noise = torch.randn(shape, generator=generator, dtype=torch.float64)
        return (wide.mean() + noise * spread.clamp(min=1e-3)).to(tensor.dtype)
    values = tensor.reshape(-1)
    return values[torch.randint(len(values), shape, generator=generator)].clone()


def other_sizes(program: Program, inputs: Sequence[torch.Tensor]) -> Sizes | None:
    """Shapes that differ from the examples in every named extent; None where there is none.

    Extents that are called the same stay the same.
    """
    shapes = _onnx_shapes(program) if isinstance(program, ir.Model) else _shapes(program)
    if [len(shape) for shape in shapes] != [tensor.ndim for tensor in inputs]:
        return None
    pairs = [
        list(zip(shape, tensor.shape, strict=True))
        for shape, tensor in zip(shapes, inputs, strict=True)
    ]
    moved = {
        extent: _moved(program, extent, size)
        for pair in pairs
        for extent, size in pair
        if isinstance(extent, sympy.Symbol)
    }
    found = [[_size(extent, size, moved) for extent, size in pair] for pair in pairs]
    same = all(list(t.shape) == sizes for t, sizes in zip(inputs, found, strict=True))
    return None if same else found


def _size(extent: Extent, size: int, moved: dict[sympy.Symbol, int]) -> int:
    if not isinstance(extent, sympy.Expr):
        return size
    value = extent.subs(moved)
    return int(value) if value.is_number else size


def _moved(program: Program, symbol: sympy.Symbol, size: int) -> int:
    """One more than the example has, or one less at the upper end of the symbol's range."""
    ranges = {} if isinstance(program, ir.Model) else program.range_constraints
    bounds = ranges.get(symbol)
    return size + 1 if bounds is None or size < bounds.upper else max(size - 1, 1)


def _shapes(program: ExportedProgram) -> list[list[Extent]]:
    users = set(program.graph_signature.user_inputs)
    nodes = [n for n in program.graph.nodes if n.op == "placeholder" and n.name in users]
    tensors = [n.meta["val"] for n in nodes if isinstance(n.meta["val"], torch.Tensor)]
    return [[e if isinstance(e, int) else e.node.expr for e in tensor.shape] for tensor in tensors]


def _onnx_shapes(model: ir.Model) -> list[list[Extent]]:
    """The same for ONNX. Names there are the file's: they are never parsed as expressions."""
    return [[_onnx_extent(dim) for dim in value.shape or ()] for value in real_inputs(model)]


def _onnx_extent(dim: int | ir.SymbolicDim) -> Extent:
    if isinstance(dim, int):
        return dim
    return sympy.Symbol(dim.value) if dim.value and dim.value.isidentifier() else None


def real_inputs(model: ir.Model) -> list[ir.Value]:
    """The inputs that have no initializer to stand in for them."""
    return [value for value in model.graph.inputs if value.name not in model.graph.initializers]


def make_inputs(model: ir.Model, seed: int = 0, symbolic: int = 2) -> list[torch.Tensor]:
    """Random inputs for an ONNX model, every symbolic extent `symbolic` (the same name, the same).

    Integers are 0 or 1, which is a valid id, mask or position almost everywhere.
    """
    generator = np.random.default_rng(seed)
    return [_made(value, generator, symbolic) for value in real_inputs(model)]


def _made(value: ir.Value, generator: np.random.Generator, symbolic: int) -> torch.Tensor:
    if value.shape is None or value.dtype is None:
        raise InvalidInput(f"input {value.name!r} has no shape or type: give example_inputs")
    shape = [dim if isinstance(dim, int) else symbolic for dim in value.shape]
    dtype = np.dtype(value.dtype.numpy())
    integral = dtype.kind in "iub"
    array = generator.integers(0, 2, shape) if integral else generator.normal(size=shape)
    return to_torch(np.asarray(array).astype(dtype))
