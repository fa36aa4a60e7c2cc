"""Random arguments for a kernel, such that it may run: indices stay inside of what they index.

A kernel takes buffers, and sizes as plain numbers. Which integers are indices is read from its
accesses: where a load of a parameter stands inside an index, the largest bound on the parameter is
sought under which that index provably stays in range.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from .schedules.expressions import nodes_of, simplified, substituted

if TYPE_CHECKING:
    import tvm

BLOCK = 1_000_003
"""Random numbers are made once for so many elements and repeated; prime, so that no row or tile of
a kernel meets the same ones at the same place."""
SMALL = 64
"""Integers of 16 bits and more that are no indices are below this, and above 0."""


@dataclass(frozen=True)
class Parameter:
    """A parameter of a kernel.

    Attributes:
        var: as the kernel names it.
        shape: extents of a buffer, perhaps symbolic; None for a number.
        dtype: element type.
        written: whether the kernel writes to it.
    """

    var: Any
    shape: tuple[Any, ...] | None
    dtype: str
    written: bool


def parameters(function: "tvm.tirx.PrimFunc") -> list[Parameter]:
    """What a kernel takes, in order."""
    from tvm import tirx

    stored = [store.buffer for store in nodes_of(function.body, tirx.BufferStore)]
    found = []
    for var in function.params:
        shape = getattr(var.ty, "shape", None)
        dtype = str(var.ty.dtype)
        written = any(buffer.same_as(var) for buffer in stored)
        found.append(Parameter(var, None if shape is None else tuple(shape), dtype, written))
    return found


def symbols(given: list[Parameter]) -> list[Any]:
    """The sizes that the kernel leaves open: variables, each once, in order."""
    from tvm import ir

    extents = [e for one in given for e in ([one.var] if one.shape is None else one.shape)]
    return list(dict.fromkeys(var for extent in extents for var in nodes_of(extent, ir.Var)))


def with_sizes(node: Any, sizes: Mapping[Any, int]) -> Any:
    """An expression or statement in which the open sizes are chosen."""
    from tvm import tirx

    return substituted(node, {v: tirx.const(size, v.ty.dtype) for v, size in sizes.items()})


def concrete(extent: Any, sizes: Mapping[Any, int]) -> int:
    """The extent once the open sizes are chosen."""
    return int(simplified(with_sizes(extent, sizes)))


def arguments(
    given: list[Parameter],
    sizes: Mapping[Any, int],
    bounds: Mapping[Any, int],
    seed: int,
    *,
    positive: bool = False,
) -> list[np.ndarray | int]:
    """An array or a number for each parameter; what is written to holds random bytes as well.

    Args:
        given: the kernel's parameters.
        sizes: the open sizes.
        bounds: for parameters that are indices, what they must stay below.
        seed: of the random numbers.
        positive: make every float positive, for kernels that take roots or logarithms.
    """
    result: list[np.ndarray | int] = []
    for position, one in enumerate(given):
        generator = np.random.default_rng((seed, position))
        if one.shape is None:
            result.append(sizes[one.var])
            continue
        shape = tuple(concrete(extent, sizes) for extent in one.shape)
        if one.var in bounds:
            result.append(_indices(shape, bounds[one.var], generator).astype(one.dtype))
        else:
            result.append(_values(shape, one.dtype, generator, positive))
    return result


def _values(
    shape: tuple[int, ...], name: str, generator: np.random.Generator, positive: bool
) -> np.ndarray:
    dtype = numpy_dtype(name)
    count = int(np.prod(shape, dtype=np.int64))
    if not count:
        return np.zeros(shape, dtype)
    block = min(count, BLOCK)
    if dtype.kind in "biu":
        low, high = _range(dtype)
        return np.resize(generator.integers(low, high, block).astype(dtype), shape)
    values = generator.standard_normal(block, dtype=np.float32)
    values = np.abs(values) + np.float32(0.1) if positive else values
    return np.resize(values.astype(dtype), shape)


def _range(dtype: np.dtype) -> tuple[int, int]:
    """What integers of a type lie between, the end excluded."""
    if dtype == np.bool_:
        return 0, 2
    if dtype.itemsize > 1:
        return 1, SMALL
    return int(np.iinfo(dtype).min), int(np.iinfo(dtype).max) + 1


def _indices(shape: tuple[int, ...], bound: int, generator: np.random.Generator) -> np.ndarray:
    """Indices below a bound; distinct along the last axis where there are enough of them.

    Where a kernel writes to one place twice, the last one wins, and which one is last is not for
    its schedule to keep.
    """
    last = shape[-1] if shape else 1
    count = int(np.prod(shape, dtype=np.int64))
    if count and count <= bound:
        return generator.permutation(bound)[:count].reshape(shape)
    if count and last <= bound:
        rows = [generator.permutation(bound)[:last] for _ in range(min(count // last, SMALL))]
        return np.resize(np.stack(rows), shape)
    return generator.integers(0, bound, shape)


def numpy_dtype(name: str) -> np.dtype:
    """The numpy dtype of a TVM one."""
    return np.dtype(getattr(ml_dtypes, name, None) or name)
