"""The mix of a tile of queries: mixed = weights·v, a chunk of keys at a time."""

from typing import Any

from .attention_tile import Tile
from .loops import index, load, sequence, serial, store, vector

Expr = Any
Stmt = Any
CHUNK = 64
"""Keys whose values are mixed in before the next group of rows has its turn: they stay in cache."""


def mix(tile: Tile, b: Expr, group: Expr, groups: Expr, stop: Expr) -> Stmt:
    """mixed = weights·v, a chunk of keys at a time."""
    from tvm import tirx

    def chunk(c: Expr) -> Stmt:
        end = tirx.min(stop, (c + index(1)) * index(CHUNK))
        return serial(
            index(0),
            groups,
            lambda g: sequence(
                [
                    mixed_panel(tile, b, group, g, (c * index(CHUNK), end), *panel)
                    for panel in _depth_panels(tile)
                ]
            ),
        )

    chunks = (stop + index(CHUNK - 1)) // index(CHUNK)

    def clear(r: Expr) -> Stmt:
        def block(e: int) -> Stmt:
            return vector(tile.lanes, lambda v: tile.zero(tile.mixed, [r, index(e) + v]))

        return sequence([block(e) for e in range(0, tile.padded_depth(), tile.lanes)])

    return sequence(
        [
            serial(index(0), groups * index(tile.group), clear),
            serial(index(0), chunks, chunk),
        ]
    )


def _depth_panels(tile: Tile) -> list[tuple[int, int, int]]:
    """First column of v, vectors, and lanes of each vector, of each panel of v."""
    panels, start, depth = [], 0, tile.problem.depth
    while start < depth:
        vectors = min(tile.vectors, (depth - start) // tile.lanes)
        panels.append((start, vectors or 1, tile.lanes if vectors else depth - start))
        start += panels[-1][1] * panels[-1][2]
    return panels


def mixed_panel(
    tile: Tile,
    b: Expr,
    group: Expr,
    g: Expr,
    keys: tuple[Expr, Expr],
    start: int,
    vectors: int,
    lanes: int,
) -> Stmt:
    def place(i: int, column: Expr) -> list[Expr]:
        return [g * index(tile.group) + index(i), index(start) + column]

    def step(t: Expr) -> Stmt:
        return tile.outer(
            vectors,
            lambda i: load(tile.weights, [g * index(tile.group) + index(i), t]),
            lambda column: tile.problem.v(b, group, t, index(start) + column),
            lanes,
        )

    def take(slot: Expr, i: int, column: Expr) -> Stmt:
        return store(tile.sums, load(tile.mixed, place(i, column)), [slot])

    def put(slot: Expr, i: int, column: Expr) -> Stmt:
        return store(tile.mixed, load(tile.sums, [slot]), place(i, column))

    return sequence(
        [
            tile.each(vectors, take, lanes),
            serial(*keys, step),
            tile.each(vectors, put, lanes),
        ]
    )
