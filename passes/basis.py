"""Change the basis of a residual stream: one linear map applied to everything that writes to it.

`Recentred`, `Helmert` and `DropLast` are the maps; `apply_basis` edits the writers' weights, and puts
an explicit op after the writers that have none. Each map works on the last axis in float64.
"""

from collections.abc import Callable
from typing import Protocol

import numpy as np

from ..graph import Graph, Op, Value
from ..graph.ops import Conv, Elementwise, Gather, Linear, Reduce, Slice
from .streams import Stream, Writer, flat_value
from .weights import BLOCK_BYTES, row_axis


class Basis(Protocol):
    """A linear map of the feature axis."""

    def project(self, rows: np.ndarray) -> np.ndarray:
        """The map on the last axis of float64 rows [..., d] -> [..., d']."""
        ...

    def insert(self, graph: Graph, value: Value, axis: int) -> Value:
        """Compute the map of `value` along `axis` in the graph; returns the mapped value."""
        ...


class Recentred:
    """x − mean(x): the projection I − 11ᵀ/d."""

    def project(self, rows: np.ndarray) -> np.ndarray:
        centred: np.ndarray = rows - rows.mean(axis=-1, keepdims=True)
        return centred

    def insert(self, graph: Graph, value: Value, axis: int) -> Value:
        shape = value.shape or ()
        flat = tuple(1 if k == axis else dim for k, dim in enumerate(shape))
        mean = Reduce(inputs=[value], fn="mean", axes=(axis,), keepdims=True)
        graph.add(mean, (flat, value.dtype), after=value.producer, name="stream_mean")
        centred = Elementwise(inputs=[value, mean.output], fn="sub")
        graph.add(centred, (shape, value.dtype), after=mean, name="stream_recentred")
        return centred.output


class DropLast:
    """The first d − 1 coordinates; enough for a zero-mean vector, whose last one is −Σ."""

    def project(self, rows: np.ndarray) -> np.ndarray:
        return rows[..., :-1]

    def insert(self, graph: Graph, value: Value, axis: int) -> Value:
        shape = value.shape or ()
        width = shape[axis]
        assert isinstance(width, int)
        shorter = tuple(width - 1 if k == axis else dim for k, dim in enumerate(shape))
        cut = Slice(inputs=[value], axes=(axis,), starts=(0,), ends=(width - 1,), steps=(1,))
        graph.add(cut, (shorter, value.dtype), after=value.producer, name="stream_shortened")
        return cut.output

    def read_columns(self, rows: np.ndarray) -> np.ndarray:
        """Columns W of a reader of the full vector, as columns for the shortened one."""
        shortened: np.ndarray = rows[..., :-1] - rows[..., -1:]
        return shortened


class Helmert:
    """Qᵀx with Q ∈ R^{d×(d−1)}, QᵀQ = I, 1ᵀQ = 0: an isometry of the zero-mean vectors.

    Column k = 1..d−1 of Q is (1, …, 1, −k, 0, …, 0)/√(k(k+1)) with k ones (the Helmert matrix), so
    the map is a running sum: O(d) per vector.
    """

    def project(self, rows: np.ndarray) -> np.ndarray:
        k = np.arange(1, rows.shape[-1])
        sums = np.cumsum(rows, axis=-1)[..., :-1]
        projected: np.ndarray = (sums - k * rows[..., 1:]) / np.sqrt(k * (k + 1.0))
        return projected

    def insert(self, graph: Graph, value: Value, axis: int) -> Value:
        shape = value.shape or ()
        width = shape[axis]
        assert isinstance(width, int)
        assert axis == len(shape) - 1, "an explicit Helmert map is a Linear: last axis only"
        matrix = self.project(np.eye(width)).T.astype(value.dtype)  # [d − 1, d]
        weight = graph.constant(matrix, "helmert")
        change = Linear(inputs=[value, weight])
        graph.add(change, ((*shape[:-1], width - 1), value.dtype), after=value.producer)
        return change.output

    def read_columns(self, rows: np.ndarray) -> np.ndarray:
        """Columns W of a reader of √d·x/‖x‖, for one of √(d−1)·z/‖z‖ with z = Qᵀx."""
        width = rows.shape[-1]
        return self.project(rows) * np.sqrt(width / (width - 1.0))


def apply_basis(graph: Graph, stream: Stream, basis: Basis) -> None:
    """Let everything that writes to the stream write in the new basis."""
    for writer in stream.writers:
        if writer.is_computed:
            _insert(graph, writer, basis)
        elif writer.op is not None:
            _edit_op(graph, writer.op, writer, basis)
        else:
            _edit_constant(graph, stream, writer, basis)


def along(
    array: np.ndarray, axis: int, function: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Apply a map of the last axis along `axis`, in float64 a block at a time."""
    moved = np.moveaxis(array, axis, -1)
    probe = function(np.zeros((1, moved.shape[-1])))
    result = np.empty((*moved.shape[:-1], probe.shape[-1]), dtype=array.dtype)
    if moved.ndim == 1:
        result[:] = function(moved.astype(np.float64))
        return result
    rows = max(1, BLOCK_BYTES * moved.shape[0] // max(1, moved.size * 8))
    target = np.empty(_moved_back(result.shape, axis), dtype=array.dtype)
    view = np.moveaxis(target, axis, -1)
    for start in range(0, moved.shape[0], rows):
        window = slice(start, start + rows)
        view[window] = function(moved[window].astype(np.float64))
    return target


def _moved_back(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    kept = list(shape[:-1])
    kept.insert(axis, shape[-1])
    return tuple(kept)


def replace_constant(
    graph: Graph, op: Op, index: int, axis: int, function: Callable[[np.ndarray], np.ndarray]
) -> None:
    """Give `op` its constant operand with a map applied along one axis."""
    old = op.require(index)
    graph.set_input(op, index, graph.constant(along(old.array(), axis, function), old.name))
    if old.constant is not None:
        old.constant.release()


def _edit_op(graph: Graph, op: Op, writer: Writer, basis: Basis) -> None:
    if isinstance(op, Gather):
        axis = writer.axis - (op.indices.rank or 0) + 1
        replace_constant(graph, op, 0, axis, basis.project)
        return
    assert isinstance(op, Linear | Conv)
    replace_constant(graph, op, 1, row_axis(op), basis.project)
    if op.bias is not None:
        replace_constant(graph, op, 2, 0, basis.project)


def _edit_constant(graph: Graph, stream: Stream, writer: Writer, basis: Basis) -> None:
    """Replace the constant where it is read on the stream, and only there."""
    old = writer.value
    if flat_value(old, writer.axis):
        array = np.zeros_like(old.array())  # every basis here maps a constant vector to zero
    else:
        array = along(old.array(), writer.axis, basis.project)
    new = graph.constant(array, old.name)
    for op, index in list(old.uses):
        if any(output in stream.axes for output in op.outputs):
            graph.set_input(op, index, new)


def _insert(graph: Graph, writer: Writer, basis: Basis) -> None:
    value = writer.value
    readers = list(value.uses)
    mapped = basis.insert(graph, value, writer.axis)
    for op, index in readers:
        graph.set_input(op, index, mapped)
