"""What a graph needs from the IR that it wraps."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from .value import Op, Value

if TYPE_CHECKING:
    from .graph import Graph

Compute = Callable[[Sequence[np.ndarray]], list[np.ndarray]]
"""From the arrays of some values to the arrays of others."""


class Binding(Protocol):
    """What a graph needs from the IR that it wraps."""

    frontend: str

    def evaluate(
        self, op: Op, arrays: Sequence[np.ndarray | None], *, wide: bool = True
    ) -> list[np.ndarray]:
        """Run one op on constant operands, if `wide` in float64 where the op allows."""
        ...

    def lower(self, graph: "Graph") -> Any:
        """Write the graph back as a program of the IR; the original program stays as it is."""
        ...

    def run(self, graph: "Graph", inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Execute the graph with the IR's own reference evaluator."""
        ...

    def probe(self, graph: "Graph", outputs: Sequence[Value], inputs: Sequence[Value]) -> Compute:
        """The function from the arrays of `inputs` to those of `outputs`; see `Graph.probe`."""
        ...
