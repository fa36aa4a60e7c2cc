"""The one view of a model, and the vocabulary it is lifted to. Importing this loads no framework."""

from .graph import Binding, Constant, Dim, Graph, Op, Shape, Value, is_float

__all__ = ["Binding", "Constant", "Dim", "Graph", "Op", "Shape", "Value", "is_float"]
