"""Extents as numbers: the symbolic ones by sizes that the caller gives, 1 where none is given.

A symbolic extent is a name ("batch") or arithmetic on names ("batch*17", "tokens//2 + 1").
"""

import ast
import operator
from collections.abc import Callable, Mapping, Sequence
from math import prod

from .movement_ops import Reshape
from .value import Dim, Op, Value, bits_of

Sizes = Mapping[str, int]
"""Numbers for symbolic dimensions, by name."""

LONGEST = 200
"""Characters of an expression that is still read: a file may name its dimensions as it likes."""
OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}


class Extents:
    """What each extent counts as.

    Attributes:
        free: names that count as 1 because no size was given.
    """

    def __init__(self, sizes: Sizes | None = None) -> None:
        self._known: dict[str, int] = dict(sizes or {})
        self.free: dict[str, None] = {}

    def __call__(self, dim: Dim) -> int:
        if isinstance(dim, int):
            return dim
        if dim not in self._known:
            self._known[dim] = self._evaluated(dim)
        return self._known[dim]

    def product(self, dims: Sequence[Dim]) -> int:
        """Number of elements of a shape."""
        return prod(map(self, dims))

    def elements(self, value: Value | None) -> int:
        """Number of elements of a value; 0 for an absent one or one of unknown shape."""
        return 0 if value is None or value.shape is None else self.product(value.shape)

    def nbytes(self, value: Value | None) -> int:
        """Size of a value; 0 for what is no tensor, or of unknown shape."""
        if value is None or value.dtype is None:
            return 0
        return -(-self.elements(value) * bits_of(value.dtype) // 8)

    def learn(self, op: Op) -> None:
        """Take the one new name in a reshape's result for what it must be.

        ONNX shape inference invents such names ("unk__3"): all elements but those of other axes.
        """
        if not isinstance(op, Reshape) or op.output.shape is None:
            return
        new = [dim for dim in op.output.shape if isinstance(dim, str) and dim not in self._known]
        total = self.elements(op.require(0))
        if total and len(new) == 1 and new[0].isidentifier():
            self._known[new[0]] = 1
            self._known[new[0]] = total // (self.product(op.output.shape) or 1)

    def _evaluated(self, dim: str) -> int:
        try:
            tree = ast.parse(dim, mode="eval").body if len(dim) <= LONGEST else None
            number = None if tree is None else self._number(tree)
        except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
            number = None
        if number is None:
            self.free[dim] = None
        return 1 if number is None else max(1, number)

    def _number(self, node: ast.expr) -> int | None:
        if isinstance(node, ast.Constant):
            return node.value if isinstance(node.value, int) else None
        if isinstance(node, ast.Name):
            if node.id not in self._known:
                self._known[node.id] = 1
                self.free[node.id] = None
            return self._known[node.id]
        if not isinstance(node, ast.BinOp) or type(node.op) not in OPERATORS:
            return None
        left, right = self._number(node.left), self._number(node.right)
        if left is None or right is None:
            return None
        return OPERATORS[type(node.op)](left, right)
