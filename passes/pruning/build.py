"""Write ops before the attention of a layer."""

import numpy as np

from ...graph import Dim, Graph, Op, Shape, Value
from ...graph.ops import Elementwise, Reduce, Slice
from ...graph.shapes import broadcast
from ..tokens.place import Place
from .layers import Layer

BOOL = np.dtype(np.bool_)


class Builder:
    """Writes ops before the attention of a layer."""

    def __init__(self, graph: Graph, layer: Layer) -> None:
        self.graph, self.layer = graph, layer
        self.place = Place(graph)
        self.place.before = layer.attention

    def add(self, op: Op, shape: Shape, dtype: np.dtype | None, name: str = "score") -> Value:
        op.scope = self.layer.attention.scope
        return self.place.add(op, shape, dtype, name)

    def pointwise(self, fn: str, *operands: Value, name: str = "score") -> Value:
        """A pointwise function; its type is that of the last operand, bool for a comparison."""
        shape = broadcast(*(value.shape or () for value in operands))
        dtype = BOOL if fn in ("less_equal", "and") else operands[-1].dtype
        return self.add(Elementwise(inputs=list(operands), fn=fn), shape, dtype, name)

    def number(self, number: float, dtype: np.dtype | None) -> Value:
        return self.graph.constant(np.array(number, dtype), "number")

    def first(self, value: Value, axis: int) -> Value:
        """The first position of an axis, which stays."""
        shape = _replaced(value.shape or (), axis, 1)
        cut = Slice(inputs=[value], axes=(axis,), starts=(0,), ends=(1,), steps=(1,))
        return self.add(cut, shape, value.dtype)

    def mean(self, value: Value, axis: int) -> Value:
        shape = tuple(dim for k, dim in enumerate(value.shape or ()) if k != axis)
        mean = Reduce(inputs=[value], fn="mean", axes=(axis,), keepdims=False)
        return self.add(mean, shape, value.dtype)


def _replaced(shape: Shape, axis: int, dim: Dim) -> Shape:
    return tuple(dim if k == axis else old for k, old in enumerate(shape))
