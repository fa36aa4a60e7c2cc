"""The one view of a model, and the vocabulary it is lifted to. Loads no framework."""

from .binding import Binding, Compute
from .graph import Graph
from .value import Constant, Dim, Op, Shape, Value, bits_of, is_float

__all__ = [
    "Binding",
    "Compute",
    "Constant",
    "Dim",
    "Graph",
    "Op",
    "Shape",
    "Value",
    "bits_of",
    "is_float",
]
