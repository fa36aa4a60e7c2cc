"""Rule: attention by tiles of queries, whose scores stay in cache.

Per batch element and head of the keys, a task takes a tile of the queries that share the head and
all keys: scores, softmax, mix. Keys are transposed once, before, into panels of a few vectors of
keys, so that a vector of scores is sums of query·keys; where there are too few queries for that to
pay, each score is a dot product. Under a causal mask a task stops at its last query.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..machine import Machine
from .attention_tile import Tile
from .loops import allocate, as_index, index, sequence, serial, store, vector
from .rule import GROUPS, KERNEL
from .stages import Stage, loads_of, number_of, simplified, stages_of, substituted, with_loads
from .tasks import product, shared, unflattened_sizes

if TYPE_CHECKING:
    import tvm

Expr = Any
Stmt = Any
NAME = "attention"
FEW = 3
"""Up to so many queries share a head of keys, keys are not transposed."""
TILE = 24
"""Queries of a tile, at most."""
CACHED = 32768
"""Scores of a tile, at most (128 KB)."""


def attention(function: "tvm.tirx.PrimFunc", machine: Machine) -> "tvm.s_tir.Schedule | None":
    """The kernel that `emit/attention` makes."""
    from tvm import s_tir

    if not function.attrs or function.attrs.get(KERNEL) != NAME:
        return None
    stages = stages_of(function, ones=True)
    if stages is None:
        return None
    problem = Problem.of(stages, int(function.attrs[GROUPS]))
    return s_tir.Schedule(function.with_body(_written(problem, machine)))


@dataclass(frozen=True)
class Problem:
    """One attention: extents, and how each element is read and written.

    Attributes:
        batch, groups, shared, queries, keys, width, depth: extents; `shared` query heads to a key
            head.
        stages: by the name of what they make.
        causal: whether keys after the query are masked.
    """

    batch: Expr
    groups: int
    shared: int
    queries: Expr
    keys: Expr
    width: int
    depth: int
    stages: dict[str, Stage]
    causal: bool

    @classmethod
    def of(cls, stages: list[Stage], groups: int) -> "Problem":
        """From the stages that `emit/attention` gives the kernel."""
        named = {stage.buffer.name: stage for stage in stages[:2]}
        named |= {"mixed": stages[-2], "result": stages[-1]}
        b, h, s, t, d = (loop.extent for loop in stages[0].loops)
        e = stages[-2].loops[3].extent
        named["scores"], named["masked"] = stages[:2]
        return cls(
            as_index(b),
            groups,
            int(h) // groups,
            as_index(s),
            as_index(t),
            int(d),
            int(e),
            named,
            stages[1].buffer.name.startswith("causal"),
        )

    @property
    def rows(self) -> Expr:
        """Queries that share a head of keys."""
        return simplified(self.queries * index(self.shared))

    def place(self, group: Expr, row: Expr) -> tuple[Expr, Expr]:
        """Head and token of a row."""
        if self.shared == 1:
            return group, row
        return group * index(self.shared) + row // self.queries, row % self.queries

    def q(self, b: Expr, h: Expr, s: Expr, d: Expr) -> Expr:
        """An element of a query."""
        return self._factor("scores", 0, (b, h, s, index(0), d))

    def k(self, b: Expr, group: Expr, t: Expr, d: Expr) -> Expr:
        """An element of a key."""
        head = group * index(self.shared)
        return self._factor("scores", 1, (b, head, index(0), t, d))

    def v(self, b: Expr, group: Expr, t: Expr, e: Expr) -> Expr:
        """An element of a value."""
        head = group * index(self.shared)
        return self._factor("mixed", 1, (b, head, index(0), e, t))

    def _factor(self, name: str, side: int, at: tuple[Expr, ...]) -> Expr:
        stage = self.stages[name]
        factor = (stage.value.a, stage.value.b)[side]
        found = {loop.var: i for loop, i in zip(stage.loops, at, strict=True)}
        return substituted(factor, found)

    def masked(self, b: Expr, h: Expr, s: Expr, t: Expr, score: Expr) -> Expr:
        """A score scaled and masked."""
        stage, scores = self.stages["masked"], self.stages["scores"].buffer
        value = with_loads(stage.value, lambda x: score if x.source.same_as(scores) else x)
        at = {loop.var: i for loop, i in zip(stage.loops, (b, h, s, t), strict=True)}
        return substituted(value, at)

    @property
    def has_mask(self) -> bool:
        """Whether masking reads memory."""
        return len(loads_of(self.stages["masked"].value)) > 1

    def write(self, b: Expr, h: Expr, s: Expr, e: Expr, value: Expr) -> Stmt:
        """Store an element of the result: [B, H, S, E], or with the heads behind the tokens."""
        stage = self.stages["result"]
        if len(stage.loops) == 4:
            return store(stage.buffer, value, [b, h, s, e])
        column = h * index(self.depth) + e
        row = [b, s] if len(stage.loops) == 3 else [b * self.queries + s]
        return store(stage.buffer, value, [*row, column])


def _written(problem: Problem, machine: Machine) -> Stmt:
    rows = number_of(problem.rows)
    few = rows is not None and rows <= FEW
    tile = Tile(problem, machine, rows if few and rows else _height(problem, machine), few)
    heads = simplified(problem.batch * index(problem.groups))
    tiles = simplified((problem.rows + index(tile.height - 1)) // index(tile.height))
    count = simplified(heads * tiles)
    work = simplified(heads * problem.rows * problem.keys * index(problem.width // 4 or 1))

    def share(start: Expr, stop: Expr) -> list[Stmt]:
        part = tile.copy()

        def task(i: Expr) -> Stmt:
            b, group, place = unflattened_sizes(i, [None, index(problem.groups), tiles])
            return part.task(b, group, place)

        return [*allocate(part.memory), serial(start, stop, task)]

    body = shared(count, work, machine.threads, share)
    if few:
        return body
    return sequence([*allocate([tile.panels]), _packed(problem, tile, machine, heads), body])


def _height(problem: Problem, machine: Machine) -> int:
    """Queries of a tile: whole groups of rows, fewer where there are many keys or few rows."""
    step = Tile.group_of(machine)
    keys, rows = number_of(problem.keys), number_of(problem.rows)
    most = TILE // 2 if keys is None else min(TILE, CACHED // max(keys, 1))
    if rows is not None:
        most = min(most, -(-rows // step) * step)
    return max(step, most // step * step)


def _packed(problem: Problem, tile: Tile, machine: Machine, heads: Expr) -> Stmt:
    """Keys into panels: panels[b, group, t // n, d, t % n] = k[b, group, t, d]."""
    from tvm import tirx

    blocks, wide = tile.blocks, tile.panel
    last = problem.keys - index(1)

    def share(start: Expr, stop: Expr) -> list[Stmt]:
        def block(i: Expr) -> Stmt:
            b, group, place = unflattened_sizes(i, [None, index(problem.groups), blocks])
            first = place * index(wide)

            def line(d: Expr, inside: bool) -> Stmt:
                def lane(v: Expr) -> Stmt:
                    t = first + v if inside else tirx.min(first + v, last)
                    value = problem.k(b, group, t, d)
                    return store(tile.panels, value, [b, group, place, d, v])

                return vector(wide, lane)

            whole = serial(index(0), index(problem.width), lambda d: line(d, True))
            size = number_of(problem.keys)
            if size is not None and size % wide == 0:
                return whole
            rest = serial(index(0), index(problem.width), lambda d: line(d, False))
            return tirx.IfThenElse(first + index(wide) <= problem.keys, whole, rest)

        return [serial(start, stop, block)]

    count = simplified(heads * blocks)
    work = product([count, index(wide * problem.width)])
    return shared(count, work, machine.threads, share)
