"""Rule: attention by tiles of queries, whose scores stay in cache.

Per batch element and head of the keys, a task takes a tile of the queries that share the head and
all keys: scores, softmax, mix. Keys are transposed once, before, into panels of a few vectors of
keys, so that a vector of scores is sums of query·keys; where there are too few queries for that to
pay, each score is a dot product. Under a causal mask a task stops at its last query.
"""

from typing import TYPE_CHECKING, Any

from ..machine import Machine
from .attention_problem import Problem
from .attention_task import task as task_of
from .attention_tile import ROWS, Tile
from .expressions import number_of, simplified
from .loops import allocate, index, sequence, serial, store, vector
from .rule import GROUPS, KERNEL
from .stages import stages_of
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


def _written(problem: Problem, machine: Machine) -> Stmt:
    rows = number_of(problem.rows)
    few = rows is not None and rows <= FEW
    tile = Tile(problem, machine, rows if few and rows else _height(problem), few)
    heads = simplified(problem.batch * index(problem.groups))
    tiles = simplified((problem.rows + index(tile.height - 1)) // index(tile.height))
    count = simplified(heads * tiles)
    work = simplified(heads * problem.rows * problem.keys * index(problem.width // 4 or 1))

    def share(start: Expr, stop: Expr) -> list[Stmt]:
        part = tile.copy()

        def task(i: Expr) -> Stmt:
            b, group, place = unflattened_sizes(i, [None, index(problem.groups), tiles])
            return task_of(part, b, group, place)

        return [*allocate(part.memory), serial(start, stop, task)]

    body = shared(count, work, machine.threads, share)
    if few:
        return body
    return sequence([*allocate([tile.panels]), _packed(problem, tile, machine, heads), body])


def _height(problem: Problem) -> int:
    """Queries of a tile: whole groups of rows, fewer where there are many keys or few rows."""
    step = ROWS
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
