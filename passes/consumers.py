"""What reads the norms of a residual stream: the Linears whose columns can take a new basis."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..graph import Graph, Op, Value
from ..graph.ops import Linear, Norm, ShapeOf
from .affine import as_affine
from .commuting import moved_axis


@dataclass(frozen=True)
class Consumer:
    """What reads one norm of the stream.

    Attributes:
        norm: the norm.
        linears: the Linears whose columns take the new basis; empty when the norm is expanded.
        path: values between the norm and them, which are in the new basis too, with their feature
            axis.
        scaling: what multiplies the norm's result by constants, where that is an op of its own.
    """

    norm: Norm
    linears: tuple[Linear, ...] = ()
    path: tuple[tuple[Value, int], ...] = ()
    scaling: Op | None = None

    @property
    def is_expanded(self) -> bool:
        return not self.linears

    @property
    def gain(self) -> np.ndarray:
        """The factor on the norm's result, float64 [d] or [1]."""
        gain = np.ones(1)
        if self.norm.scale is not None:
            gain = self.norm.scale.array().astype(np.float64).reshape(-1)
        scaled = None if self.scaling is None else as_affine(self.scaling)
        return gain if scaled is None else gain * scaled[1].scale.reshape(-1)


def consumer(
    graph: Graph, norm: Norm, takes: Callable[[Linear], bool], scaling: Op | None = None
) -> Consumer:
    """Follow a norm's result, or what `scaling` makes of it, to the Linears that read it.

    They are found only if nothing else reads it. `takes` says whether a Linear's weight can take
    the basis.
    """
    expanded, start = Consumer(norm), norm if scaling is None else scaling
    linears: list[Linear] = []
    path: list[tuple[Value, int]] = []
    worklist = [(start.output, (norm.output.rank or 0) - 1)]
    while worklist:
        value, axis = worklist.pop()
        if graph.is_output(value):
            return expanded
        path.append((value, axis))
        for op, index in value.uses:
            if isinstance(op, ShapeOf) and axis not in op.axes:
                continue
            if isinstance(op, Linear) and index == 0 and axis == (value.rank or 0) - 1:
                if not takes(op):
                    return expanded
                linears.append(op)
                continue
            moved = [] if index else _moved_results(op, axis)
            if not moved:
                return expanded
            worklist += moved
    return Consumer(norm, tuple(dict.fromkeys(linears)), tuple(path), scaling)


def scaling_of(graph: Graph, norm: Norm) -> Op | None:
    """The op that alone reads a norm and multiplies it by one constant a feature, if there is."""
    op = graph.only_reader(norm.output)
    found = None if op is None else as_affine(op)
    if found is None or found[0] is not norm.output or found[1].shifts:
        return None
    return op if found[1].axes in ((), ((norm.output.rank or 0) - 1,)) else None


def _moved_results(op: Op, axis: int) -> list[tuple[Value, int]]:
    """The results that hold the features of the first operand whole, with their axes."""
    found = []
    for output in op.outputs:
        axes = [k for k in range(output.rank or 0) if moved_axis(op, k) == axis]
        if len(axes) != 1:
            return []
        found.append((output, axes[0]))
    return found


class ReadBasis(Protocol):
    """A basis that the readers of a norm can take."""

    def read_columns(self, rows: np.ndarray) -> np.ndarray:
        """Columns W [..., d] of a reader of the old norm, as columns [..., d'] for the new."""
        ...


def expand(graph: Graph, norm: Norm, basis: ReadBasis, width: int) -> None:
    """Bring a norm's result back to the old basis of `width` features, gain and shift included."""
    dtype = norm.output.dtype
    matrix = basis.read_columns(np.eye(width))  # [d, d']
    if norm.scale is not None:
        matrix = norm.scale.array().astype(np.float64).reshape(-1, 1) * matrix
    bias = norm.shift
    readers = list(norm.output.uses)
    graph.set_input(norm, 1, None)
    graph.set_input(norm, 2, None)
    weight = graph.constant(matrix.astype(dtype), f"{norm.name}_expand")
    shape = (*(norm.output.shape or ())[:-1], width)
    operands = [norm.output, weight] if bias is None else [norm.output, weight, bias]
    linear = Linear(inputs=list(operands))
    graph.add(linear, (shape, dtype), after=norm, name=f"{norm.name}_expanded")
    graph.redirect(norm.output, linear.output, readers)
