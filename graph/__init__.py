"""The one view of a model, and the vocabulary it is lifted to. Loads no framework."""

from .graph import Binding, Graph
from .value import Constant, Dim, Op, Shape, Value, is_float

__all__ = ["Binding", "Constant", "Dim", "Graph", "Op", "Shape", "Value", "is_float"]
