"""The loops of a product of bytes: tiles of sums in registers, then the stages on each tile.

    parallel for share:
        for panel: for row:                   the weights of a panel stay in the cache
            sums[r][c] = 0
            for k: for r, c: sums[r][c] += codes[row + r, 4k..] · panels[panel + c, k]
            for r: for c: for lane (vector): stages of (row + r, column of the panel + lane)

The last tile along either axis is moved back to end with the last row or panel, so that every tile
is whole. It makes some elements again, to the same values, which is harmless while no stage reads
what the kernel writes. Of a panel that is cut short, only the columns that there are get stages.
Where the number of rows is found at run time and is less than a tile has, tiles of one row take
over.
"""

from typing import Any

from ..vnni import GROUP, Dot
from .finish import Finish
from .integer_match import Product
from .integer_tile import Tile
from .integer_vectors import calls_functions
from .loops import index, over_tasks, part_of, ramp, sequence, serial


class Kernel:
    """One product being written; see the module docstring."""

    def __init__(self, product: Product, dot: Dot, threads: int) -> None:
        self.product = product
        self.threads = threads
        self.dot = dot
        self.panels = int(product.panels.shape[0])
        self.rest = product.columns % dot.lanes
        self.finish = Finish(product.staged)
        values = [stage.value for stage in product.staged.stages]
        self.is_long = not self.finish.in_vectors or calls_functions(values)

    def body(self, tile: Tile) -> Any:
        """The whole kernel as a statement."""
        from tvm import tirx

        rows = self.finish.rows
        main = self._tiles(tile, rows)
        if tile.rows == 1 or isinstance(rows, tirx.IntImm):
            return main
        few = self._tiles(Tile(1, tile.panels), rows)
        return tirx.IfThenElse(rows >= index(tile.rows), main, few)

    def _tiles(self, tile: Tile, rows: Any) -> Any:
        """Every tile, shared out among the threads; the rows vary fastest."""
        from tvm import tirx

        down = tirx.floordiv(rows + index(tile.rows - 1), index(tile.rows))
        across = index(-(-self.panels // tile.panels))
        abreast = max(1, self.threads // tile.shares)

        def made(across_at: Any, down_at: Any) -> Any:
            row, panel = tirx.Var("row", "int64"), tirx.Var("panel", "int64")
            first_panel = self._first(across_at, tile.panels, index(self.panels))
            return sequence(
                [
                    tirx.Bind(row, self._first(down_at, tile.rows, rows)),
                    tirx.Bind(panel, first_panel),
                    *self._tile(tile, row, panel),
                ]
            )

        def share(task: Any) -> Any:
            by_row = part_of(down, task // abreast, tile.shares)
            by_panel = part_of(across, task % abreast, abreast)
            return serial(*by_panel, lambda p: serial(*by_row, lambda r: made(p, r)))

        return over_tasks(tile.shares * abreast, share)

    def _first(self, tile: Any, size: int, extent: Any) -> Any:
        """Where a tile begins along an axis."""
        from tvm import tirx

        whole = isinstance(extent, tirx.IntImm) and int(extent) % size == 0
        return tile * size if whole else tirx.min(tile * size, extent - size)

    def _tile(self, tile: Tile, row: Any, panel: Any) -> list[Any]:
        """One tile: its sums, and the stages on them."""
        from tvm import tirx

        sums = [
            tirx.decl_buffer((size,), "int32", name="tile_sums", scope="local")
            for size in self._sizes(tile)
        ]
        zeros = tirx.Broadcast(tirx.const(0, "int32"), self.dot.lanes)
        start = []
        for buffer in sums:
            for offset in range(0, int(buffer.shape[0]), self.dot.lanes):
                start.append(tirx.BufferStore(buffer, zeros, [ramp(offset, self.dot.lanes)]))
        walk = serial(
            index(0),
            index(self.product.steps),
            lambda k: sequence(self._step(tile, sums, row, panel, k)),
        )
        return [*map(tirx.AllocBuffer, sums), *start, walk, *self._finish(tile, sums, row, panel)]

    def _sizes(self, tile: Tile) -> list[int]:
        """Elements of the buffers of sums: one per row, or one for all rows.

        What LLVM can keep in registers until the stages have read it has to be in small buffers.
        """
        row = tile.panels * self.dot.lanes
        return [row * tile.rows] if self.is_long else [row] * tile.rows

    def _step(self, tile: Tile, sums: list[Any], row: Any, panel: Any, k: Any) -> list[Any]:
        """One group of four along k, for every row and panel of the tile."""
        from tvm import tirx

        width, zero = f"int8x{GROUP * self.dot.lanes}", index(0)
        weights = [
            self.product.panels.vload([panel + c, k, zero, zero], width) for c in range(tile.panels)
        ]
        stores = []
        for r in range(tile.rows):
            codes = self.product.codes.vload(
                [*self.finish.at(row + r), k * GROUP], f"uint8x{GROUP}"
            )
            for c, weight in enumerate(weights):
                buffer, offset = self._place(tile, sums, r, c)
                at = [ramp(offset, self.dot.lanes)]
                after = self.dot.step(tirx.BufferLoad(buffer, at), codes, weight)
                stores.append(tirx.BufferStore(buffer, after, at))
        return stores

    def _place(self, tile: Tile, sums: list[Any], row: Any, panel: int) -> tuple[Any, Any]:
        """The buffer of the sums of a row and a panel, and where they begin in it."""
        if len(sums) > 1:
            return sums[row], panel * self.dot.lanes
        return sums[0], (row * tile.panels + panel) * self.dot.lanes

    def _finish(self, tile: Tile, sums: list[Any], row: Any, panel: Any) -> list[Any]:
        """The stages on every element of the tile."""
        if not self.is_long:
            rows = [self._finish_row(tile, sums, row, panel, r) for r in range(tile.rows)]
            return [statement for statements in rows for statement in statements]

        def one(r: Any) -> Any:
            return sequence(self._finish_row(tile, sums, row, panel, r))

        return [serial(index(0), index(tile.rows), one)]

    def _finish_row(self, tile: Tile, sums: list[Any], row: Any, panel: Any, r: Any) -> list[Any]:
        """The stages on one row of the tile, panel by panel."""
        from tvm import tirx

        found = []
        for c in range(tile.panels):
            start = (panel + c) * self.dot.lanes
            total = self._place(tile, sums, r, c)
            whole = self._lanes(total, self.finish.at(row + r), start, 0, self.dot.lanes)
            if self.rest and c == tile.panels - 1:
                cut = sequence(self._cut_short(total, self.finish.at(row + r), start))
                whole = tirx.IfThenElse(panel + c == self.panels - 1, cut, whole)
            found.append(whole)
        return found

    def _cut_short(self, total: tuple[Any, Any], row: list[Any], start: Any) -> list[Any]:
        """The stages on the last panel, in vectors that have a power of two of lanes."""
        done, found = 0, []
        while done < self.rest:
            width = 1 << (self.rest - done).bit_length() - 1
            found.append(self._lanes(total, row, start, done, width))
            done += width
        return found

    def _lanes(
        self, total: tuple[Any, Any], row: list[Any], start: Any, first: int, count: int
    ) -> Any:
        """The stages on neighbouring columns of a row."""
        from tvm import tirx

        buffer, offset = total
        lane = tirx.Var("lane", "int64")
        held = tirx.BufferLoad(buffer, [lane + offset + first])
        body = sequence(self.finish.element([*row, start + first + lane], held))
        kind = tirx.ForKind.VECTORIZED if self.finish.in_vectors else tirx.ForKind.SERIAL
        return tirx.For(lane, index(0), index(count), kind, body)
