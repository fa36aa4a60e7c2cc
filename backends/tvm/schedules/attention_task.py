"""One task of an attention kernel: read a tile of queries, score, weigh, mix, write."""

from typing import Any

from .attention_mix import mix
from .attention_scores import dots, scored
from .attention_softmax import softmax
from .attention_tile import Tile
from .columns import covered
from .expressions import number_of
from .loops import index, load, sequence, serial, store, vector

Expr = Any
Stmt = Any


def task(tile: Tile, b: Expr, group: Expr, place: Expr) -> Stmt:
    """One tile."""
    from tvm import tirx

    problem = tile.problem
    first = place * index(tile.height)
    rows = tirx.min(index(tile.height), problem.rows - first)
    stop = problem.keys
    if problem.causal and problem.shared == 1:
        stop = tirx.min(stop, first + rows)
    groups = (rows + index(tile.group - 1)) // index(tile.group)
    if tile.few:
        scores = dots(tile, b, group, stop)
    else:
        scores = scored(tile, b, group, groups, stop)
    return sequence(
        [
            read(tile, b, group, first),
            scores,
            serial(index(0), rows, lambda r: softmax(tile, b, group, first + r, r, stop)),
            mix(tile, b, group, groups, stop),
            serial(index(0), rows, lambda r: write(tile, b, group, first + r, r)),
        ]
    )


def read(tile: Tile, b: Expr, group: Expr, first: Expr) -> Stmt:
    """Copy the queries; rows beyond the last one repeat it, and are not written."""
    from tvm import tirx

    problem = tile.problem

    def row(r: Expr) -> Stmt:
        known = number_of(problem.rows)
        whole = known is not None and known % tile.height == 0
        source = first + r if whole else tirx.min(first + r, problem.rows - index(1))
        head, token = problem.place(group, source)

        def point(position: Expr, lanes: int, _: int) -> Stmt:
            def lane(v: Expr) -> Stmt:
                d = position + v
                return store(tile.queries, problem.q(b, head, token, d), [r, d])

            return vector(lanes, lane)

        return sequence(covered(index(problem.width), tile.lanes, 1, point))

    return serial(index(0), index(tile.height), row)


def write(tile: Tile, b: Expr, group: Expr, row: Expr, r: Expr) -> Stmt:
    """The mix divided by the sum of its weights; 0 where no key counts."""
    from tvm import tirx

    head, token = tile.problem.place(group, row)
    total, zero = load(tile.totals, [r]), tirx.const(0.0, "float32")
    one = tirx.const(1.0, "float32")

    def point(position: Expr, lanes: int, _: int) -> Stmt:
        def lane(v: Expr) -> Stmt:
            e = position + v
            share = load(tile.mixed, [r, e]) * load(tile.parts, [index(0)])
            return tile.problem.write(b, head, token, e, share)

        return vector(lanes, lane)

    inverse = tirx.Select(total.equal(zero), zero, one / total)
    return sequence(
        [
            store(tile.parts, inverse, [index(0)]),
            *covered(index(tile.problem.depth), tile.lanes, 1, point),
        ]
    )
