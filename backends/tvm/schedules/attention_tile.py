"""Buffers of one task of an attention kernel, a tile of queries against all keys.

Rows of the tile are queries; a group of `group` rows by a panel of `panel` keys (or columns of v)
is summed in registers. The tile's scores become its weights in place.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..machine import Machine
from .expressions import number_of, simplified
from .loops import index, load, local, sequence, store, vector

if TYPE_CHECKING:
    from .attention_problem import Problem

Expr = Any
Stmt = Any
ROWS = 6
"""Rows of a group."""
MANY_REGISTERS = 32


class Tile:
    """Buffers of one task.

    Attributes:
        height: queries of a tile.
        group: rows that are summed together.
        panel: keys that are.
        panels: all keys, transposed; shared by the tasks.
    """

    def __init__(
        self, problem: "Problem", machine: Machine, height: int, few: bool, panels: Any = None
    ) -> None:
        self.problem, self.machine, self.height, self.few = problem, machine, height, few
        self.lanes = machine.lanes()
        self.vectors = 4 if machine.registers >= MANY_REGISTERS else 2
        self.panel = self.lanes * self.vectors
        self.group = height if few else ROWS
        self.blocks = simplified((problem.keys + index(self.panel - 1)) // index(self.panel))
        span = simplified(self.blocks * index(self.panel))
        shape = (problem.batch, problem.groups, self.blocks, problem.width, self.panel)
        self.panels = local(shape, "float32", "panels") if panels is None else panels
        self.queries = local((height, problem.width), "float32", "queries")
        self.weights = local((height, span), "float32", "weights")
        self.mixed = local((height, self.padded_depth()), "float32", "mixed")
        self.sums = local((self.group * self.panel,), "float32", "sums")
        self.tops = local((self.lanes,), "float32", "tops")
        self.parts = local((self.lanes,), "float32", "parts")
        self.totals = local((height,), "float32", "totals")

    def copy(self) -> "Tile":
        """The same with buffers of its own, for another copy of the code."""
        return Tile(self.problem, self.machine, self.height, self.few, self.panels)

    @property
    def memory(self) -> list[Any]:
        """Buffers that a task needs."""
        return [
            self.queries,
            self.weights,
            self.mixed,
            self.sums,
            self.tops,
            self.parts,
            self.totals,
        ]

    def padded_depth(self) -> int:
        """Columns of v, in whole vectors."""
        return -(-self.problem.depth // self.lanes) * self.lanes

    def outer(
        self,
        vectors: int,
        left: Callable[[int], Expr],
        right: Callable[[Expr], Expr],
        lanes: int = 0,
    ) -> Stmt:
        """Add the products of a group of numbers and a panel."""

        def add(slot: Expr, i: int, column: Expr) -> Stmt:
            total = load(self.sums, [slot]) + left(i) * right(column)
            return store(self.sums, total, [slot])

        return self.each(vectors, add, lanes)

    def each(self, vectors: int, make: Callable[[Expr, int, Expr], Stmt], lanes: int = 0) -> Stmt:
        """For every vector of sums: `make(place in sums, row of the group, column)`."""

        def one(i: int, j: int) -> Stmt:
            start = (i * self.vectors + j) * self.lanes
            return vector(
                lanes or self.lanes,
                lambda v: make(index(start) + v, i, index(j * self.lanes) + v),
            )

        return sequence([one(i, j) for i in range(self.group) for j in range(vectors)])

    def last_panel(self) -> tuple[int | None, int]:
        """Number and vectors of a last panel that is not full, where the keys are a number."""
        keys = number_of(self.problem.keys)
        vectors = 0 if keys is None else -(-(keys % self.panel) // self.lanes)
        if keys is None or vectors in (0, self.vectors):
            return None, self.vectors
        return keys // self.panel, vectors

    def zero(self, buffer: Any, place: list[Expr]) -> Stmt:
        """Set an element to 0."""
        from tvm import tirx

        return store(buffer, tirx.const(0.0, "float32"), place)
