"""Several rows of x times a weight of few bits: a strip of the weight becomes floats, then is used.

    parallel for share of strips:                     a strip is a few panels
        floats[k, c, lane] = W[k, column]             once, into memory of the thread
        for tile of rows:
            sums[r][c] = 0
            for k: for r, c: sums[r][c] += x[row + r, k]·floats[k, c]
            stages of every (row + r, columns of panel c)

The strip stays in the second cache while all rows go by. The last tile of rows, and the last strip,
are moved back to end where the rows and the panels end, so that both are whole; they make some
elements again, to the same values.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .loops import allocate, index, local, over_tasks, part_of, ramp, sequence, serial
from .weight_only_finish import PanelFinish
from .weight_only_format import dtype_of
from .weight_only_match import Product
from .weight_only_vectors import Codes, floats_of

CHAIN = 8
"""Multiply-adds that have to be under way for the unit to be busy."""
WIDEST = 3
"""Panels of a strip at most: one read of x serves them all (two take 1.8 times as long on Zen 4 for
128 rows, as every multiply-add then loads its x), and the strip still fits in the second cache."""
STEP = 2
"""Cycles of a step along k beside its products and loads: the loop, and loads that wait."""


@dataclass(frozen=True)
class Tile:
    """Rows, and registers of columns."""

    rows: int
    panels: int


def tile_for(registers: int, rows: int, panels: int) -> Tile:
    """The tile that takes the fewest cycles for a product of this many rows."""
    fitting = [
        Tile(r, c)
        for c in range(1, min(panels, WIDEST) + 1)
        for r in range(1, min(rows, registers) + 1)
        if r * c + c + 2 <= registers
    ]

    def cycles(tile: Tile) -> float:
        step = max(tile.rows * tile.panels, tile.rows + tile.panels, CHAIN)
        return -(-rows // tile.rows) * (step + STEP) / tile.panels

    return min(fitting, key=cycles)


class Rows:
    """Writes the loops for several rows; see the module docstring."""

    def __init__(self, product: Product, finish: PanelFinish, threads: int) -> None:
        self.product = product
        self.finish = finish
        self.form = product.form
        self.codes = Codes(product.form, product.weight.table)
        self.threads = threads

    def statement(self, tiles: Sequence[Tile]) -> Any:
        """The product; of tiles, the first with no more rows than there are is taken."""
        panels = tiles[0].panels
        strips = -(-self.form.panels // panels)
        tasks = min(self.threads, strips)

        def share(task: Any) -> Any:
            floats = local(
                [self.form.blocks * self.form.block, panels * self.form.lanes], "float32", "floats"
            )
            bounds = part_of(index(strips), task, tasks)
            loop = serial(*bounds, lambda strip: self._strip(strip, floats, panels, tiles))
            return sequence([*allocate([floats]), loop])

        return over_tasks(tasks, share)

    def _strip(self, strip: Any, floats: Any, panels: int, tiles: Sequence[Tile]) -> Any:
        from tvm import tirx

        panel = tirx.Var("panel", "int64")
        first = strip * panels
        if self.form.panels % panels:
            first = tirx.min(first, index(self.form.panels - panels))
        unpack = [self._unpack(panel, c, floats) for c in range(panels)]
        return sequence([tirx.Bind(panel, first), *unpack, self._by_tiles(panel, floats, tiles)])

    def _unpack(self, panel: Any, c: int, floats: Any) -> Any:
        """One panel of the strip as floats."""
        form = self.form

        def block(b: Any) -> Any:
            scaled = self._scaling(panel + c, b)

            def word(w: Any) -> Any:
                return sequence(self._word(panel + c, b * form.block_words + w, c, floats, scaled))

            return sequence([*scaled[1], serial(index(0), index(form.block_words), word)])

        return serial(index(0), index(form.blocks), block)

    def _scaling(self, panel: Any, b: Any) -> tuple[Any, list[Any]]:
        """From a register of codes to that of weights, in one block; and what it needs named."""
        from tvm import tirx

        weight, lanes = self.product.weight, self.form.lanes
        kind, place = f"float32x{lanes}", [panel, b, index(0)]
        scale, shift = tirx.Var("scale", kind), tirx.Var("shift", kind)
        named = [tirx.Bind(scale, floats_of(weight.scale, place, lanes))]
        if weight.shift is None:
            return (lambda code: code * scale), named
        named.append(tirx.Bind(shift, floats_of(weight.shift, place, lanes)))
        if dtype_of(weight.shift) == "int8":
            return (lambda code: (code - shift) * scale), named
        return (lambda code: code * scale + shift), named

    def _word(self, panel: Any, step: Any, c: int, floats: Any, scaled: Any) -> list[Any]:
        from tvm import tirx

        form = self.form
        name = tirx.Var("word", f"int32x{form.lanes}")
        made = [tirx.Bind(name, self.codes.word(self.product.weight.codes, panel, step))]
        for j in range(form.each):
            value = scaled[0](self.codes.exact(name, j))
            place = [step * form.each + j, ramp(c * form.lanes, form.lanes)]
            made.append(tirx.BufferStore(floats, value, place))
        return made

    def _by_tiles(self, panel: Any, floats: Any, tiles: Sequence[Tile]) -> Any:
        """All rows of the strip."""
        from tvm import tirx

        rows = self.finish.rows
        body: Any = None
        for tile in reversed(tiles):
            made = self._tiles(tile, panel, floats)
            body = made if body is None else tirx.IfThenElse(rows >= tile.rows, made, body)
        return body

    def _tiles(self, tile: Tile, panel: Any, floats: Any) -> Any:
        from tvm import tirx

        rows = self.finish.rows
        count = (rows + index(tile.rows - 1)) // index(tile.rows)

        def made(number: Any) -> Any:
            row = tirx.Var("row", "int64")
            first = number * tile.rows
            whole = isinstance(rows, tirx.IntImm) and int(rows) % tile.rows == 0
            start = first if whole else tirx.min(first, rows - tile.rows)
            return sequence([tirx.Bind(row, start), *self._tile(tile, row, panel, floats)])

        return serial(index(0), count, made)

    def _tile(self, tile: Tile, row: Any, panel: Any, floats: Any) -> list[Any]:
        from tvm import tirx

        lanes = self.form.lanes
        sums = tirx.decl_buffer(
            (tile.rows * tile.panels * lanes,), "float32", "sums", scope="local"
        )
        zeros = tirx.Broadcast(tirx.const(0, "float32"), lanes)
        places = [(r, c) for r in range(tile.rows) for c in range(tile.panels)]

        def at(r: int, c: int) -> Any:
            return ramp((r * tile.panels + c) * lanes, lanes)

        def step(k: Any) -> Any:
            stores = []
            for r, c in places:
                x = tirx.BufferLoad(self.product.x, [*self.finish.at(row + r), k])
                weight = tirx.BufferLoad(floats, [k, ramp(c * lanes, lanes)])
                value = tirx.BufferLoad(sums, [at(r, c)]) + tirx.Broadcast(x, lanes) * weight
                stores.append(tirx.BufferStore(sums, value, [at(r, c)]))
            return sequence(stores)

        start = [tirx.BufferStore(sums, zeros, [at(r, c)]) for r, c in places]
        along = serial(index(0), index(self.form.rows), step)
        finish = serial(
            index(0),
            index(tile.rows),
            lambda r: sequence(
                [
                    self.finish.panel(row + r, panel + c, sums, (r * tile.panels + c) * lanes)
                    for c in range(tile.panels)
                ]
            ),
        )
        return [tirx.AllocBuffer(sums), *start, along, finish]
