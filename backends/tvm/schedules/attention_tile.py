"""One task of an attention kernel: a tile of queries against all keys.

Rows of the tile are queries; a group of `group` rows by a panel of `panel` keys (or columns of v)
is summed in registers. The tile's scores become its weights in place.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..machine import Machine
from .loops import index, load, local, sequence, serial, store, vector
from .row_columns import covered
from .stages import number_of, simplified

if TYPE_CHECKING:
    from .attention import Problem

Expr = Any
Stmt = Any
ROWS = 6
"""Rows of a group."""
MANY_REGISTERS = 32
CHUNK = 64
"""Keys whose values are mixed in before the next group of rows has its turn: they stay in cache."""
LOWEST = float("-inf")


class Tile:
    """Buffers and code of one task.

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
        self.group = height if few else self.group_of(machine)
        self.blocks = simplified((problem.keys + index(self.panel - 1)) // index(self.panel))
        span = simplified(self.blocks * index(self.panel))
        shape = (problem.batch, problem.groups, self.blocks, problem.width, self.panel)
        self.panels = local(shape, "float32", "panels") if panels is None else panels
        self.queries = local((height, problem.width), "float32", "queries")
        self.weights = local((height, span), "float32", "weights")
        self.mixed = local((height, self._padded_depth()), "float32", "mixed")
        self.sums = local((self.group * self.panel,), "float32", "sums")
        self.tops = local((self.lanes,), "float32", "tops")
        self.parts = local((self.lanes,), "float32", "parts")
        self.totals = local((height,), "float32", "totals")

    @staticmethod
    def group_of(machine: Machine) -> int:
        """Rows that are summed together."""
        return ROWS

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

    def _padded_depth(self) -> int:
        return -(-self.problem.depth // self.lanes) * self.lanes

    def task(self, b: Expr, group: Expr, place: Expr) -> Stmt:
        """One tile."""
        from tvm import tirx

        problem = self.problem
        first = place * index(self.height)
        rows = tirx.min(index(self.height), problem.rows - first)
        stop = problem.keys
        if problem.causal and problem.shared == 1:
            stop = tirx.min(stop, first + rows)
        groups = (rows + index(self.group - 1)) // index(self.group)
        scored = self._dots(b, group, stop) if self.few else self._scored(b, group, groups, stop)
        return sequence(
            [
                self._read(b, group, first),
                scored,
                serial(index(0), rows, lambda r: self._softmax(b, group, first + r, r, stop)),
                self._mix(b, group, groups, stop),
                serial(index(0), rows, lambda r: self._write(b, group, first + r, r)),
            ]
        )

    def _read(self, b: Expr, group: Expr, first: Expr) -> Stmt:
        """Copy the queries; rows beyond the last one repeat it, and are not written."""
        from tvm import tirx

        problem = self.problem

        def row(r: Expr) -> Stmt:
            known = number_of(problem.rows)
            whole = known is not None and known % self.height == 0
            source = first + r if whole else tirx.min(first + r, problem.rows - index(1))
            head, token = problem.place(group, source)

            def point(position: Expr, lanes: int, _: int) -> Stmt:
                def lane(v: Expr) -> Stmt:
                    d = position + v
                    return store(self.queries, problem.q(b, head, token, d), [r, d])

                return vector(lanes, lane)

            return sequence(covered(index(problem.width), self.lanes, 1, point))

        return serial(index(0), index(self.height), row)

    def _scored(self, b: Expr, group: Expr, groups: Expr, stop: Expr) -> Stmt:
        """weights = q·k, a panel of keys at a time; the last one may be narrower."""
        from tvm import tirx

        def over(j: Expr, vectors: int) -> Stmt:
            return serial(
                index(0), groups, lambda g: self._panel_scores(b, group, g, j, vectors)
            )

        last, vectors = self._last_panel()
        whole = (stop + index(self.panel - 1)) // index(self.panel)
        if last is None:
            return serial(index(0), whole, lambda j: over(j, self.vectors))
        narrow = tirx.IfThenElse(whole > index(last), over(index(last), vectors), None)
        if last == 0:
            return narrow
        limit = tirx.min(whole, index(last))
        return sequence([serial(index(0), limit, lambda j: over(j, self.vectors)), narrow])

    def _last_panel(self) -> tuple[int | None, int]:
        """Number and vectors of a last panel that is not full, where the keys are a number."""
        keys = number_of(self.problem.keys)
        vectors = 0 if keys is None else -(-(keys % self.panel) // self.lanes)
        if keys is None or vectors in (0, self.vectors):
            return None, self.vectors
        return keys // self.panel, vectors

    def _panel_scores(self, b: Expr, group: Expr, g: Expr, j: Expr, vectors: int) -> Stmt:
        def step(d: Expr) -> Stmt:
            return self._outer(
                vectors,
                lambda i: load(self.queries, [g * index(self.group) + index(i), d]),
                lambda column: load(self.panels, [b, group, j, d, column]),
            )

        def put(slot: Expr, i: int, column: Expr) -> Stmt:
            row = g * index(self.group) + index(i)
            place = [row, j * index(self.panel) + column]
            return store(self.weights, load(self.sums, [slot]), place)

        return sequence(
            [
                self._each(vectors, lambda slot, i, column: _zero(self.sums, slot)),
                serial(index(0), index(self.problem.width), step),
                self._each(vectors, put),
            ]
        )

    def _outer(
        self, vectors: int, left: Callable[[int], Expr], right: Callable[[Expr], Expr]
    ) -> Stmt:
        """Add the products of a group of numbers and a panel."""

        def add(slot: Expr, i: int, column: Expr) -> Stmt:
            total = load(self.sums, [slot]) + left(i) * right(column)
            return store(self.sums, total, [slot])

        return self._each(vectors, add)

    def _each(
        self, vectors: int, make: Callable[[Expr, int, Expr], Stmt], lanes: int = 0
    ) -> Stmt:
        """For every vector of sums: `make(place in sums, row of the group, column)`."""

        def one(i: int, j: int) -> Stmt:
            start = (i * self.vectors + j) * self.lanes
            return vector(
                lanes or self.lanes,
                lambda v: make(index(start) + v, i, index(j * self.lanes) + v),
            )

        return sequence([one(i, j) for i in range(self.group) for j in range(vectors)])

    def _dots(self, b: Expr, group: Expr, stop: Expr) -> Stmt:
        """weights = q·k, one key at a time."""
        problem = self.problem

        def key(t: Expr) -> Stmt:
            statements = []
            for i in range(self.group):

                def point(position: Expr, lanes: int, _: int, i: int = i) -> Stmt:
                    def lane(v: Expr) -> Stmt:
                        d = position + v
                        factor = load(self.queries, [index(i), d])
                        more = factor * problem.k(b, group, t, d)
                        return store(self.parts, load(self.parts, [v]) + more, [v])

                    return vector(lanes, lane)

                statements += [
                    vector(self.lanes, lambda v: _zero(self.parts, v)),
                    *covered(index(problem.width), self.lanes, 1, point),
                    *folded(self.parts, self.lanes, lambda x, y: x + y),
                    store(self.weights, load(self.parts, [index(0)]), [index(i), t]),
                ]
            return sequence(statements)

        return serial(index(0), stop, key)

    def _softmax(self, b: Expr, group: Expr, row: Expr, r: Expr, stop: Expr) -> Stmt:
        """exp(masked score − the largest), and the sum of it; beyond the last key 0."""
        from tvm import tirx

        problem, lanes = self.problem, self.lanes
        head, token = problem.place(group, row)
        vectors = (stop + index(lanes - 1)) // index(lanes)
        lowest = tirx.const(-3.4028234663852886e38, "float32")

        def masked(position: Expr, width: int, _: int) -> Stmt:
            def lane(v: Expr) -> Stmt:
                t = position + v
                value = problem.masked(b, head, token, t, load(self.weights, [r, t]))
                return store(self.weights, value, [r, t])

            def raised(v: Expr) -> Stmt:
                score = load(self.weights, [r, position + v])
                return store(self.tops, tirx.max(load(self.tops, [v]), score), [v])

            return sequence([vector(width, lane), vector(width, raised)])

        def weighted(j: Expr) -> Stmt:
            def lane(v: Expr) -> Stmt:
                t = j * index(lanes) + v
                top = load(self.tops, [index(0)])
                return store(self.weights, tirx.exp(load(self.weights, [r, t]) - top), [r, t])

            def added(v: Expr) -> Stmt:
                weight = load(self.weights, [r, j * index(lanes) + v])
                return store(self.parts, load(self.parts, [v]) + weight, [v])

            return sequence([vector(lanes, lane), vector(lanes, added)])

        return sequence(
            [
                vector(lanes, lambda v: store(self.tops, lowest, [v])),
                vector(lanes, lambda v: _zero(self.parts, v)),
                *self._over_keys(r, stop, vectors, masked),
                *folded(self.tops, lanes, tirx.max),
                serial(index(0), vectors, weighted),
                *folded(self.parts, lanes, lambda x, y: x + y),
                store(self.totals, load(self.parts, [index(0)]), [r]),
            ]
        )

    def _over_keys(
        self, r: Expr, stop: Expr, vectors: Expr, point: Callable[[Expr, int, int], Stmt]
    ) -> list[Stmt]:
        """Over the keys up to `stop` in vectors; the lanes beyond the last key become −∞."""
        from tvm import tirx

        keys, lanes = self.problem.keys, self.lanes
        whole = simplified(keys // index(lanes))
        full = serial(
            index(0), tirx.min(vectors, whole), lambda j: point(j * index(lanes), lanes, 0)
        )
        size = number_of(keys)
        if size is not None and size % lanes == 0:
            return [full]
        start = simplified(whole * index(lanes))
        fill = tirx.const(LOWEST, "float32")

        def empty(t: Expr) -> Stmt:
            return store(self.weights, fill, [r, t])

        if size is None:
            rest = [serial(start, keys, lambda t: point(t, 1, 0))]
            rest.append(serial(keys, vectors * index(lanes), empty))
        else:
            rest = [point(start, size % lanes, 0)]
            rest.append(vector(lanes - size % lanes, lambda v: empty(index(size) + v)))
        return [full, tirx.IfThenElse(vectors > whole, sequence(rest), None)]

    def _mix(self, b: Expr, group: Expr, groups: Expr, stop: Expr) -> Stmt:
        """mixed = weights·v, a chunk of keys at a time."""
        from tvm import tirx

        def chunk(c: Expr) -> Stmt:
            end = tirx.min(stop, (c + index(1)) * index(CHUNK))
            return serial(
                index(0),
                groups,
                lambda g: sequence(
                    [
                        self._mixed_panel(b, group, g, (c * index(CHUNK), end), *panel)
                        for panel in self._depth_panels()
                    ]
                ),
            )

        chunks = (stop + index(CHUNK - 1)) // index(CHUNK)

        def clear(r: Expr) -> Stmt:
            wide = self._padded_depth()
            return sequence(
                [
                    vector(self.lanes, lambda v, e=e: _zero2(self.mixed, r, index(e) + v))
                    for e in range(0, wide, self.lanes)
                ]
            )

        return sequence(
            [
                serial(index(0), groups * index(self.group), clear),
                serial(index(0), chunks, chunk),
            ]
        )

    def _depth_panels(self) -> list[tuple[int, int, int]]:
        """First column of v, vectors, and lanes of each vector, of each panel of v."""
        panels, start, depth = [], 0, self.problem.depth
        while start < depth:
            vectors = min(self.vectors, (depth - start) // self.lanes)
            panels.append((start, vectors or 1, self.lanes if vectors else depth - start))
            start += panels[-1][1] * panels[-1][2]
        return panels

    def _mixed_panel(
        self,
        b: Expr,
        group: Expr,
        g: Expr,
        keys: tuple[Expr, Expr],
        start: int,
        vectors: int,
        lanes: int,
    ) -> Stmt:
        def place(i: int, column: Expr) -> list[Expr]:
            return [g * index(self.group) + index(i), index(start) + column]

        def step(t: Expr) -> Stmt:
            def add(slot: Expr, i: int, column: Expr) -> Stmt:
                weight = load(self.weights, [g * index(self.group) + index(i), t])
                value = self.problem.v(b, group, t, index(start) + column)
                return store(self.sums, load(self.sums, [slot]) + weight * value, [slot])

            return self._each(vectors, add, lanes)

        def take(slot: Expr, i: int, column: Expr) -> Stmt:
            return store(self.sums, load(self.mixed, place(i, column)), [slot])

        def put(slot: Expr, i: int, column: Expr) -> Stmt:
            return store(self.mixed, load(self.sums, [slot]), place(i, column))

        return sequence(
            [
                self._each(vectors, take, lanes),
                serial(*keys, step),
                self._each(vectors, put, lanes),
            ]
        )

    def _write(self, b: Expr, group: Expr, row: Expr, r: Expr) -> Stmt:
        """The mix divided by the sum of its weights; 0 where no key counts."""
        from tvm import tirx

        head, token = self.problem.place(group, row)
        total, zero = load(self.totals, [r]), tirx.const(0.0, "float32")
        one = tirx.const(1.0, "float32")

        def point(position: Expr, lanes: int, _: int) -> Stmt:
            def lane(v: Expr) -> Stmt:
                e = position + v
                share = load(self.mixed, [r, e]) * load(self.parts, [index(0)])
                return self.problem.write(b, head, token, e, share)

            return vector(lanes, lane)

        inverse = tirx.Select(total.equal(zero), zero, one / total)
        return sequence(
            [
                store(self.parts, inverse, [index(0)]),
                *covered(index(self.problem.depth), self.lanes, 1, point),
            ]
        )


def folded(buffer: Any, lanes: int, combine: Callable[[Expr, Expr], Expr]) -> list[Stmt]:
    """Combine the lanes of a vector into the first of them, half onto half."""
    statements = []
    half = lanes // 2
    while half:

        def lane(v: Expr, half: int = half) -> Stmt:
            both = combine(load(buffer, [v]), load(buffer, [v + index(half)]))
            return store(buffer, both, [v])

        statements.append(vector(half, lane))
        half //= 2
    return statements


def _zero(buffer: Any, place: Expr) -> Stmt:
    from tvm import tirx

    return store(buffer, tirx.const(0.0, "float32"), [place])


def _zero2(buffer: Any, row: Expr, column: Expr) -> Stmt:
    from tvm import tirx

    return store(buffer, tirx.const(0.0, "float32"), [row, column])
