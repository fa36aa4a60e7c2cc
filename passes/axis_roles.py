"""Which axes of a graph hold the same positions, and what they stand for, such as tokens."""

from collections.abc import Iterator

from ..graph import Graph, Op, Value
from ..graph.ops import Attention, Conv, Linear, Norm, Softmax
from .axes import carried


class AxisClasses:
    """Axes that hold the same positions, joined over the whole graph, and what they stand for.

    A role is "batch", "heads", "tokens", "channels" or "space"; ops whose meaning fixes one
    (attention, a Linear, a norm, a convolution) give it to the whole class. Costs O(axes of all
    values).
    """

    def __init__(self, graph: Graph) -> None:
        self.parent: dict[tuple[Value, int], tuple[Value, int]] = {}
        self._roles: dict[tuple[Value, int], str] = {}
        ops = list(graph.ops)
        for op in ops:
            self._join(op)
        for op in ops:
            for value, axis, role in _stated(op):
                self._roles.setdefault(self.key(value, axis), role)

    def key(self, value: Value, axis: int) -> tuple[Value, int]:
        """The same for all axes of a class."""
        root = (value, axis)
        while root in self.parent:
            root = self.parent[root]
        current = (value, axis)
        while current != root:  # so that the next walk is short
            above = self.parent[current]
            self.parent[current] = root
            current = above
        return root

    def role(self, value: Value, axis: int) -> str | None:
        """What the axis stands for; None where no op says."""
        return self._roles.get(self.key(value, axis))

    def roles(self, value: Value) -> "tuple[str | None, ...]":
        """The role of every axis."""
        return tuple(self.role(value, axis) for axis in range(value.rank or 0))

    def _join(self, op: Op) -> None:
        for result, value in enumerate(op.outputs):
            for axis in range(value.rank or 0):
                for index, own in carried(op, result, axis) or ():
                    self._unite((value, axis), (op.require(index), own))

    def _unite(self, left: tuple[Value, int], right: tuple[Value, int]) -> None:
        if right[0].constant is not None:
            return  # a constant may be shared by values that have nothing to do with each other
        a, b = self.key(*left), self.key(*right)
        if a != b:
            self.parent[a] = b


def _stated(op: Op) -> Iterator[tuple[Value, int, str]]:
    """What an op says of the axes of its operands and result."""
    match op:
        case Attention():
            roles = ("batch", "heads", "tokens", "channels")
            for index in range(3):
                yield from ((op.require(index), axis, role) for axis, role in enumerate(roles))
        case Linear() if op.output.rank:
            yield op.output, op.output.rank - 1, "channels"
            yield op.x, (op.x.rank or 1) - 1, "channels"
        case Norm() if op.x.rank:
            yield from ((op.x, op.x.rank - 1 - k, "channels") for k in range(op.ndim))
        case Conv() if op.output.rank:
            for value in (op.x, op.output):
                yield value, 0, "batch"
                yield value, 1, "channels"
                yield from ((value, axis, "space") for axis in range(2, op.output.rank))
        case Softmax() if (op.output.rank or 0) == 4 and op.axis == 3:
            roles = ("batch", "heads", "tokens", "tokens")
            yield from ((op.output, axis, role) for axis, role in enumerate(roles))
