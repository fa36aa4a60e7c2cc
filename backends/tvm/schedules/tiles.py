"""How many rows and registers of columns a tile of a product keeps in registers.

One step along k of a tile of r rows and v registers does r·v multiply-adds and loads v registers
of b and r elements of a, each spread over a register. Its cost in cycles is taken as

    max(r·v, r + v, CHAIN) + ROW·r + COLUMN·v

multiply-adds and loads issue one a cycle each, a sum waits for the one before it (CHAIN cycles, so
fewer sums leave the unit idle), and loads that miss the first cache cost a little: a register of b
comes from the second cache, 16 elements of one row of a come at once. The rows that do not fill a
tile are computed twice, the columns left over get a narrower tile, and the slowest thread counts,
so the cost of a whole product is known beforehand and the cheapest tile is chosen without a
measurement. Each register of columns is a stream of its own in a packed b; a core's prefetchers
follow only so many (STREAMS).
"""

from dataclasses import dataclass

from ..machine import Machine
from .decide import decide

CHAIN = 10
ROW = 0.12
COLUMN = 0.25
STREAMS = 6
SPARE = 2
"""Registers kept for loads, besides those of b."""

GUESSES = (16, 32, 64, 96, 128, 197, 256, 384)
"""Row counts that a tile must serve well where the count is known only at run time."""
FEW = (4, 2, 1)
"""Rows of the tiles for less rows than the large tile has."""


@dataclass(frozen=True)
class Tile:
    """Rows, and registers of columns."""

    rows: int
    registers: int


def tile_of(rows: int, columns: int, machine: Machine, repeats: int = 1) -> Tile:
    """The cheapest tile for a product of this many rows and registers of columns.

    `repeats` is how many such products there are, which the threads share.
    """
    counts = (rows,)
    tiles = sorted(
        _tiles(machine, rows), key=lambda tile: _cost(tile, counts, columns, machine, repeats)
    )
    return decide(f"tile of {rows} rows", tiles)


def tiles_of(columns: int, machine: Machine, repeats: int = 1) -> list[Tile]:
    """Tiles for a row count known at run time: each serves counts from its rows up, largest first.

    The last has one row, so that there is one for every count.
    """
    tiles = (tile for tile in _tiles(machine, max(GUESSES)) if tile.rows > max(FEW))
    large = decide(
        "large tile",
        sorted(tiles, key=lambda tile: _cost(tile, GUESSES, columns, machine, repeats)),
    )
    few = [tile_of(rows, columns, machine, repeats) for rows in FEW]
    return [large, *(tile for tile, rows in zip(few, FEW, strict=True) if tile.rows == rows)]


def _tiles(machine: Machine, rows: int) -> list[Tile]:
    """Every tile that fits the registers, of at most this many rows."""
    return [
        Tile(r, v)
        for r in range(1, min(rows, machine.registers) + 1)
        for v in range(1, STREAMS + 1)
        if r * v + v + SPARE <= machine.registers
    ]


def _cost(
    tile: Tile, counts: tuple[int, ...], columns: int, machine: Machine, repeats: int
) -> float:
    """Cycles per row of the slowest thread, summed over row counts.

    Tasks go down the rows first and are cut into equal numbers, one part for each thread; the
    narrower ones of the last columns come last. So the first thread has most to do.
    """
    whole, left = divmod(columns, tile.registers)
    wide, narrow = _step(tile.rows, tile.registers), left and _step(tile.rows, left)
    total = 0.0
    for count in counts:
        down = -(-count // tile.rows)
        first = -(-down * (whole + bool(left)) * repeats // machine.threads)
        slowest = min(first, down * whole) * wide + max(0, first - down * whole) * narrow
        even = down * (whole * wide + narrow) * repeats / machine.threads
        total += max(even, slowest if repeats == 1 else 0) / count
    return total


def _step(rows: int, registers: int) -> float:
    """Cycles of one step along k."""
    issue = max(rows * registers, rows + registers, CHAIN)
    return issue + ROW * rows + COLUMN * registers
