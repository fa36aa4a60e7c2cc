"""Insert ops that map one axis of a value in the graph, where no weight can take the map."""

import numpy as np

from ..graph import Graph, Op, Shape, Value
from ..graph.ops import Linear, Transpose


def place(graph: Graph, op: Op, operand: Value, shape: Shape, name: str = "") -> Value:
    """Insert `op` right after what makes `operand` (a graph input may have no producer)."""
    if operand.producer is not None:
        op.scope = operand.producer.scope
    return graph.add_behind(operand, op, (shape, operand.dtype), name=name).output


def insert_product(
    graph: Graph, value: Value, axis: int, matrix: np.ndarray, names: tuple[str, str]
) -> Value:
    """Compute matrix·v for every vector v along `axis`, by one Linear.

    Args:
        graph: where.
        value: [..., d, ...], d at `axis`.
        axis: of the vectors.
        matrix: float64 [d', d].
        names: of the Linear's weight and of the Linear.

    Returns:
        The mapped value [..., d', ...].
    """
    weight = graph.constant(matrix.astype(value.dtype), names[0])
    shape = value.shape or ()
    last = len(shape) - 1
    perm = tuple(last if k == axis else axis if k == last else k for k in range(last + 1))
    if axis != last:
        turned = tuple(shape[k] for k in perm)
        value = place(graph, Transpose(inputs=[value], perm=perm), value, turned)
    turned = resized(value.shape or (), last, len(matrix))
    mapped = place(graph, Linear(inputs=[value, weight]), value, turned, names[1])
    if axis == last:
        return mapped
    back = Transpose(inputs=[mapped], perm=perm)
    return place(graph, back, mapped, resized(shape, axis, len(matrix)))


def width_of(value: Value, axis: int) -> int:
    """The extent along an axis that is known to have one."""
    width = (value.shape or ())[axis]
    assert isinstance(width, int)
    return width


def resized(shape: Shape, axis: int, extent: int) -> Shape:
    """`shape` with another extent along one axis."""
    return tuple(extent if k == axis else dim for k, dim in enumerate(shape))
