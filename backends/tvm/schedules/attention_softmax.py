"""From the scores of a query to its weights, in place: exp(score − the largest), and their sum."""

from collections.abc import Callable
from typing import Any

from .attention_tile import Tile
from .columns import folded
from .expressions import number_of, simplified
from .loops import index, load, sequence, serial, store, vector
from .vector_functions import LOWEST

Expr = Any
Stmt = Any


def softmax(tile: Tile, b: Expr, group: Expr, row: Expr, r: Expr, stop: Expr) -> Stmt:
    """exp(masked score − the largest), and the sum of it; beyond the last key 0."""
    from tvm import tirx

    problem, lanes = tile.problem, tile.lanes
    head, token = problem.place(group, row)
    vectors = (stop + index(lanes - 1)) // index(lanes)
    lowest = tirx.const(LOWEST, "float32")  # as TVM starts a maximum

    def masked(position: Expr, width: int, _: int) -> Stmt:
        def lane(v: Expr) -> Stmt:
            t = position + v
            value = problem.masked(b, head, token, t, load(tile.weights, [r, t]))
            return store(tile.weights, value, [r, t])

        def raised(v: Expr) -> Stmt:
            score = load(tile.weights, [r, position + v])
            return store(tile.tops, tirx.max(load(tile.tops, [v]), score), [v])

        return sequence([vector(width, lane), vector(width, raised)])

    def weighted(j: Expr) -> Stmt:
        def lane(v: Expr) -> Stmt:
            t = j * index(lanes) + v
            top = load(tile.tops, [index(0)])
            return store(tile.weights, tirx.exp(load(tile.weights, [r, t]) - top), [r, t])

        def added(v: Expr) -> Stmt:
            weight = load(tile.weights, [r, j * index(lanes) + v])
            return store(tile.parts, load(tile.parts, [v]) + weight, [v])

        return sequence([vector(lanes, lane), vector(lanes, added)])

    return sequence(
        [
            vector(lanes, lambda v: store(tile.tops, lowest, [v])),
            vector(lanes, lambda v: tile.zero(tile.parts, [v])),
            *over_keys(tile, r, stop, vectors, masked),
            *folded(tile.tops, lanes, tirx.max),
            serial(index(0), vectors, weighted),
            *folded(tile.parts, lanes, lambda x, y: x + y),
            store(tile.totals, load(tile.parts, [index(0)]), [r]),
        ]
    )


def over_keys(
    tile: Tile, r: Expr, stop: Expr, vectors: Expr, point: Callable[[Expr, int, int], Stmt]
) -> list[Stmt]:
    """Over the keys up to `stop` in vectors; the lanes beyond the last key become −∞."""
    from tvm import tirx

    keys, lanes = tile.problem.keys, tile.lanes
    whole = simplified(keys // index(lanes))
    full = serial(index(0), tirx.min(vectors, whole), lambda j: point(j * index(lanes), lanes, 0))
    size = number_of(keys)
    if size is not None and size % lanes == 0:
        return [full]
    start = simplified(whole * index(lanes))
    fill = tirx.const(float("-inf"), "float32")

    def empty(t: Expr) -> Stmt:
        return store(tile.weights, fill, [r, t])

    if size is None:
        rest = [serial(start, keys, lambda t: point(t, 1, 0))]
        rest.append(serial(keys, vectors * index(lanes), empty))
    else:
        rest = [point(start, size % lanes, 0)]
        rest.append(vector(lanes - size % lanes, lambda v: empty(index(size) + v)))
    return [full, tirx.IfThenElse(vectors > whole, sequence(rest), None)]
