"""Change the basis of a residual stream: one linear map applied to everything that writes to it.

`Recentred`, `Helmert` and `DropLast` are maps, and `Rotation` of orthogonal.py; `apply_basis` edits
the writers' weights, and puts an explicit op after the writers that have none. Each map works on
the last axis in float64.
"""

from collections.abc import Callable
from typing import Protocol

import numpy as np

from ..graph import Graph, Op, Value
from ..graph.ops import Conv, Elementwise, Gather, Linear, Norm, Reduce, Slice
from .commuting import joined_operands
from .explicit import insert_product, place, resized, width_of
from .streams import Stream, Writer
from .weights import row_axis

BLOCK_BYTES = 1 << 20
"""Size of the float64 block that a map works on: one that stays in the cache."""


class Basis(Protocol):
    """A linear map of the feature axis.

    Where the stream has flat writers, either it maps vectors of equal numbers to zero or they are
    zero already.
    """

    def project(self, rows: np.ndarray) -> np.ndarray:
        """The map on the last axis of float64 rows [..., d] -> [..., d']."""
        ...

    def insert(self, graph: Graph, value: Value, axis: int) -> Value:
        """Compute the map of `value` along `axis` in the graph; returns the mapped value."""
        ...


Tables = dict[tuple[Value, int, str], Value]
"""Constants mapped so far, by (original, axis, map), so that what was shared stays shared."""


class Recentred:
    """x − mean(x): the projection I − 11ᵀ/d."""

    def project(self, rows: np.ndarray) -> np.ndarray:
        centred: np.ndarray = rows - rows.mean(axis=-1, keepdims=True)
        centred -= centred.mean(axis=-1, keepdims=True)  # what rounding left of a large mean
        return centred

    def insert(self, graph: Graph, value: Value, axis: int) -> Value:
        shape = value.shape or ()
        flat = tuple(1 if k == axis else dim for k, dim in enumerate(shape))
        mean = Reduce(inputs=[value], fn="mean", axes=(axis,), keepdims=True)
        place(graph, mean, value, flat, "stream_mean")
        centred = Elementwise(inputs=[value, mean.output], fn="sub")
        return place(graph, centred, mean.output, shape, "stream_recentred")


class DropLast:
    """The first d − 1 coordinates; enough for a zero-mean vector, whose last one is −Σ.

    It maps zero-mean vectors only; a flat vector is taken to be recentred, which makes it zero.
    """

    def project(self, rows: np.ndarray) -> np.ndarray:
        return rows[..., :-1]

    def insert(self, graph: Graph, value: Value, axis: int) -> Value:
        width = width_of(value, axis)
        cut = Slice(inputs=[value], axes=(axis,), starts=(0,), ends=(width - 1,), steps=(1,))
        shorter = resized(value.shape or (), axis, width - 1)
        return place(graph, cut, value, shorter, "stream_shortened")

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
        projected: np.ndarray = rows[..., 1:] * -k
        projected += np.cumsum(rows, axis=-1)[..., :-1]
        projected /= np.sqrt(k * (k + 1.0))
        return projected

    def insert(self, graph: Graph, value: Value, axis: int) -> Value:
        """A Linear; of what `value` was recentred from, if it was, because Qᵀ(I − 11ᵀ/d) = Qᵀ."""
        source = recentred_from(value, axis) or value
        matrix = self.project(np.eye(width_of(value, axis))).T  # [d − 1, d]
        return insert_product(graph, source, axis, matrix, ("helmert", "stream_compressed"))

    def read_columns(self, rows: np.ndarray) -> np.ndarray:
        """Columns W of a reader of √d·x/‖x‖, for one of √(d−1)·z/‖z‖ with z = Qᵀx."""
        width = rows.shape[-1]
        return self.project(rows) * np.sqrt(width / (width - 1.0))


def recentred_from(value: Value, axis: int) -> Value | None:
    """x, if `value` is computed as x − mean(x) along `axis`."""
    op = value.producer
    if not (isinstance(op, Elementwise) and op.fn == "sub"):
        return None
    mean = op.require(1).producer
    same = (
        isinstance(mean, Reduce)
        and mean.fn == "mean"
        and mean.keepdims
        and mean.axes == (axis,)
        and mean.require(0) is op.require(0)
    )
    return op.require(0) if same else None


def apply_basis(graph: Graph, stream: Stream, basis: Basis, tables: Tables) -> None:
    """Let everything that writes to the stream write in the new basis.

    `tables` is shared by all streams of a run, so that a table they share is mapped once.
    """
    for writer in stream.writers:
        if writer.is_computed:
            _insert(graph, writer, basis)
        elif writer.op is not None:
            _edit_op(graph, writer.op, writer, basis, tables)
        else:
            _edit_constant(graph, stream, writer, basis)


def along(array: np.ndarray, axis: int, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Apply a map of the last axis along `axis`, in float64 a block at a time."""
    if array.ndim == 1:
        return function(array.astype(np.float64)).astype(array.dtype)
    moved = np.moveaxis(array, axis, -1)
    width = function(np.zeros((1, moved.shape[-1]))).shape[-1]
    target = np.empty(_moved_back((*moved.shape[:-1], width), axis), dtype=array.dtype)
    view = np.moveaxis(target, axis, -1)
    rows = max(1, BLOCK_BYTES * moved.shape[0] // max(1, moved.size * 8))
    for start in range(0, moved.shape[0], rows):
        window = slice(start, start + rows)
        view[window] = function(moved[window].astype(np.float64, order="C"))
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


def _edit_op(graph: Graph, op: Op, writer: Writer, basis: Basis, tables: Tables) -> None:
    function, label = basis.project, type(basis).__name__
    if isinstance(op, Gather):
        axis = writer.axis - (op.indices.rank or 0) + 1
        map_shared(graph, op, 0, axis, function, label, tables)
        return
    assert isinstance(op, Linear | Conv)
    map_shared(graph, op, 1, row_axis(op), function, label, tables)
    if op.bias is not None:
        map_shared(graph, op, 2, 0, function, label, tables)


def map_shared(
    graph: Graph,
    op: Op,
    index: int,
    axis: int,
    function: Callable[[np.ndarray], np.ndarray],
    label: str,
    tables: Tables,
) -> None:
    """Map a constant operand; one that several ops share is mapped once, and stays shared.

    `label` names the function.
    """
    old = op.require(index)
    key = (old, axis, label)
    if key in tables:
        graph.set_input(op, index, tables[key])
        return
    replace_constant(graph, op, index, axis, function)
    if old.uses:
        tables[key] = op.require(index)


def _edit_constant(graph: Graph, stream: Stream, writer: Writer, basis: Basis) -> None:
    """Replace the constant where it is read on the stream, and only there."""
    old = writer.value
    if writer.axis < 0:
        array = np.zeros_like(old.array())
    else:
        array = along(old.array(), writer.axis, basis.project)
    new = graph.constant(array, old.name)
    for op, index in list(old.uses):
        if _joins(stream, op, index, writer.axis):
            graph.set_input(op, index, new)


def _joins(stream: Stream, op: Op, index: int, axis: int) -> bool:
    """Whether operand `index` of `op` is on the stream (and not a factor, a gain or a weight)."""
    if isinstance(op, Norm):
        return index == 0 and op in stream.readers
    for output in op.outputs:
        result_axis = stream.axes.get(output)
        if result_axis is None:
            continue
        operands = joined_operands(op, output, result_axis, stream.width)
        if operands is not None and (index, axis) in operands:
            return True
    return False


def _insert(graph: Graph, writer: Writer, basis: Basis) -> None:
    value = writer.value
    readers = list(value.uses)
    mapped = basis.insert(graph, value, writer.axis)
    for op, index in readers:
        graph.set_input(op, index, mapped)
    graph.prune(value.producer)
