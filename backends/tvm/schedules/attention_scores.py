"""Scores of a tile of queries: weights = q·k, summed in registers."""

from typing import Any

from .attention_tile import Tile
from .columns import covered, folded
from .loops import index, load, sequence, serial, store, vector

Expr = Any
Stmt = Any


def scored(tile: Tile, b: Expr, group: Expr, groups: Expr, stop: Expr) -> Stmt:
    """weights = q·k, a panel of keys at a time; the last one may be narrower."""
    from tvm import tirx

    def over(j: Expr, vectors: int) -> Stmt:
        return serial(index(0), groups, lambda g: panel_scores(tile, b, group, g, j, vectors))

    last, vectors = tile.last_panel()
    whole = (stop + index(tile.panel - 1)) // index(tile.panel)
    if last is None:
        return serial(index(0), whole, lambda j: over(j, tile.vectors))
    narrow = tirx.IfThenElse(whole > index(last), over(index(last), vectors), None)
    if last == 0:
        return narrow
    limit = tirx.min(whole, index(last))
    return sequence([serial(index(0), limit, lambda j: over(j, tile.vectors)), narrow])


def panel_scores(tile: Tile, b: Expr, group: Expr, g: Expr, j: Expr, vectors: int) -> Stmt:
    def step(d: Expr) -> Stmt:
        return tile.outer(
            vectors,
            lambda i: load(tile.queries, [g * index(tile.group) + index(i), d]),
            lambda column: load(tile.panels, [b, group, j, d, column]),
        )

    def put(slot: Expr, i: int, column: Expr) -> Stmt:
        row = g * index(tile.group) + index(i)
        place = [row, j * index(tile.panel) + column]
        return store(tile.weights, load(tile.sums, [slot]), place)

    return sequence(
        [
            tile.each(vectors, lambda slot, i, column: tile.zero(tile.sums, [slot])),
            serial(index(0), index(tile.problem.width), step),
            tile.each(vectors, put),
        ]
    )


def dots(tile: Tile, b: Expr, group: Expr, stop: Expr) -> Stmt:
    """weights = q·k, one key at a time."""
    problem = tile.problem

    def key(t: Expr) -> Stmt:
        statements = []
        for i in range(tile.group):

            def point(position: Expr, lanes: int, _: int, i: int = i) -> Stmt:
                def lane(v: Expr) -> Stmt:
                    d = position + v
                    factor = load(tile.queries, [index(i), d])
                    more = factor * problem.k(b, group, t, d)
                    return store(tile.parts, load(tile.parts, [v]) + more, [v])

                return vector(lanes, lane)

            statements += [
                vector(tile.lanes, lambda v: tile.zero(tile.parts, [v])),
                *covered(index(problem.width), tile.lanes, 1, point),
                *folded(tile.parts, tile.lanes, lambda x, y: x + y),
                store(tile.weights, load(tile.parts, [index(0)]), [index(i), t]),
            ]
        return sequence(statements)

    return serial(index(0), stop, key)
