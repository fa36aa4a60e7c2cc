"""Where the ops that a rewrite adds go."""

import numpy as np

from ...graph import Graph, Op, Shape, Value


class Place:
    """Where new ops go: before a given op, or one after another behind what they need.

    Attributes:
        before: the op that they precede; None to go after `cursor`.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.before: Op | None = None
        self.cursor: Op | None = None

    def add(self, op: Op, shape: Shape, dtype: np.dtype | None, name: str) -> Value:
        """Insert an op with one result."""
        if self.before is not None:
            self.graph.add(op, (shape, dtype), before=self.before, name=name)
        else:
            self.graph.add(op, (shape, dtype), after=self.cursor, name=name)
            self.cursor = op
        return op.output
