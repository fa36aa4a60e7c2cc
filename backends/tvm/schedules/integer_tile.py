"""How large a tile of sums one core keeps in registers while it walks along k.

A step of a tile of r rows and c panels loads c registers of weights and r groups of codes, each
broadcast, for r·c dot products. One product can start per cycle, a load takes a little longer, and
a product may read its own sum only some cycles later, so that a step takes max(r·c, load·(r + c),
latency) cycles. What decides beside that is how well tiles cover the result and share out among
threads (197 rows are 18 tiles of 11, 198 rows, but 15 of 14, 210 rows), and that wide tiles walk
along more streams of weights at once, so that they wait less for each.

Threads share out the rows rather than the columns where both would do: other kernels share out rows
too, and a core that goes on with the rows that it has made finds them in its own cache (on Zen 4
with two cores, a product of 197 x 384 x 1152 takes 220 µs then, and 310 µs otherwise).
"""

from dataclasses import dataclass
from math import ceil

from ..vnni import Dot
from .decide import decide

LATENCY = 4
"""Cycles from one product to the next that adds to its sums."""
EPILOGUE = 12
"""Cycles per register of sums for what is done to them, roughly."""
REMOTE = 40
"""More cycles per register of sums, if the lines it is stored to are in another core's cache."""
LOAD = 1.75
"""Cycles per load."""
FETCH = 12
"""Cycles that a line of weights is waited for, if there is one stream of them."""
STARTUP = 60
"""Cycles per tile for its loops, roughly."""
MOST_PANELS = 8
"""More would be more streams of weights than a core prefetches."""
SMALL = 1 << 19
"""Products of bytes that one thread adds up in about half the time that waking another takes."""
UNKNOWN_ROWS = 2048
"""Rows that a kernel for any number of them is made for."""


@dataclass(frozen=True)
class Tile:
    """A tile of sums, and which tiles a thread makes.

    Attributes:
        rows: rows of codes.
        panels: registers of columns.
        shares: parts that the rows are dealt out in; the threads of each part share the panels.
    """

    rows: int
    panels: int
    shares: int = 1


def tile_for(threads: int, dot: Dot, rows: int | None, panels: int, steps: int) -> Tile:
    """The tile that takes the fewest cycles on the busiest thread.

    Args:
        threads: how many there are.
        dot: the machine's instruction.
        rows: rows of the whole product; None where that is found at run time.
        panels: panels of the whole product.
        steps: steps along k.
    """
    total = UNKNOWN_ROWS if rows is None else rows
    tiles = candidates(dot, total, panels, threads)
    ranked = sorted(tiles, key=lambda tile: cycles(tile, threads, total, panels, steps))
    return decide("integer tile", ranked)


def candidates(dot: Dot, rows: int, panels: int, threads: int = 1) -> list[Tile]:
    """Every tile that fits in the registers, the largest first."""
    parts = [n for n in range(1, threads + 1) if threads % n == 0]
    found = [
        Tile(r, c, n)
        for c in range(1, min(panels, MOST_PANELS) + 1)
        for r in range(1, min(rows, dot.registers) + 1)
        if r * c + dot.operands(c) <= dot.registers
        for n in parts
    ]
    return sorted(found, key=lambda tile: (-tile.rows * tile.panels, tile.panels, -tile.shares))


def cycles(tile: Tile, threads: int, rows: int, panels: int, steps: int) -> float:
    """Roughly what the busiest thread takes."""
    down = ceil(ceil(rows / tile.rows) / tile.shares)
    across = ceil(ceil(panels / tile.panels) / (threads // tile.shares))
    sums = tile.rows * tile.panels
    step = max(sums, LOAD * (tile.rows + tile.panels), LATENCY)
    epilogue = EPILOGUE + REMOTE * (1 - tile.shares / threads)
    compute = down * across * (steps * step + epilogue * sums + STARTUP)
    return compute + across * steps * FETCH
