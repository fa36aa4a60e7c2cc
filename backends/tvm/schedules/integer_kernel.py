"""The loops of a product of bytes: tiles of sums in registers, then the stages on each tile.

    parallel for tile:                        panels outside, rows inside: weights stay in the cache
        sums[r][c] = 0
        for k: for r, c: sums[r][c] += codes[row + r, 4k..] · panels[panel + c, k]
        for r: for c: for lane (vector): stages of (row + r, column of the panel + lane)

The last tile along either axis is moved back to end with the last row or panel, so that every tile
is whole. It makes some elements again, to the same values, which is harmless while no stage reads
what the kernel writes. Where the number of rows is found at run time and is less than a tile has,
tiles of one row take over.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..vnni import GROUP, Dot
from .integer_match import Product
from .integer_tile import Tile
from .integer_vectors import are_vectorised, with_round
from .loops import as_index

if TYPE_CHECKING:
    import tvm


class Kernel:
    """One product being written; see the module docstring."""

    def __init__(self, product: Product, dot: Dot) -> None:
        self.product = product
        self.dot = dot
        self.panels = int(product.panels.shape[0])
        self.index = "int64"
        self.leading = [as_index(extent) for extent in product.sums.shape[:-1]]
        self.in_vectors = are_vectorised([stage.value for stage in product.stages])

    def body(self, tile: Tile) -> Any:
        """The whole kernel as a statement."""
        from tvm import tirx

        rows = self._rows()
        main = self._tiles(tile, rows)
        if tile.rows == 1 or isinstance(rows, tirx.IntImm):
            return main
        few = self._tiles(Tile(1, tile.panels), rows)
        return tirx.IfThenElse(rows >= self._int(tile.rows), main, few)

    def _rows(self) -> Any:
        """Number of rows, as the product of the leading extents."""
        from tvm.sym.analyzer import Analyzer

        total: Any = self._int(1)
        for extent in self.leading:
            total = total * extent
        return Analyzer().simplify(total)

    def _tiles(self, tile: Tile, rows: Any) -> Any:
        """Every tile, shared out among the threads."""
        from tvm import tirx

        number = tirx.Var("tile", self.index)
        across = -(-self.panels // tile.panels)
        down = tirx.floordiv(rows + self._int(tile.rows - 1), self._int(tile.rows))
        row = self._first(tirx.floormod(number, down), tile.rows, rows)
        panel = self._first(tirx.floordiv(number, down), tile.panels, self._int(self.panels))
        at_row, at_panel = tirx.Var("row", self.index), tirx.Var("panel", self.index)
        body = _sequence(
            tirx.Bind(at_row, row), tirx.Bind(at_panel, panel), *self._tile(tile, at_row, at_panel)
        )
        kind = tirx.ForKind.PARALLEL
        return tirx.For(number, self._int(0), down * self._int(across), kind, body)

    def _first(self, tile: Any, size: int, extent: Any) -> Any:
        """Where a tile begins along an axis."""
        from tvm import tirx

        whole = isinstance(extent, tirx.IntImm) and int(extent) % size == 0
        return tile * size if whole else tirx.min(tile * size, extent - size)

    def _tile(self, tile: Tile, row: Any, panel: Any) -> list[Any]:
        from tvm import tirx

        sums = tirx.decl_buffer(
            (tile.rows * tile.panels * self.dot.lanes,), "int32", name="tile_sums", scope="local"
        )
        zeros = tirx.Broadcast(tirx.const(0, "int32"), self.dot.lanes)
        places = [(r, c) for r in range(tile.rows) for c in range(tile.panels)]
        start = [tirx.BufferStore(sums, zeros, [self._register(tile, r, c)]) for r, c in places]
        k = tirx.Var("k", self.index)
        step = _sequence(*self._step(tile, sums, row, panel, k))
        walk = tirx.For(k, self._int(0), self._int(self.product.steps), tirx.ForKind.SERIAL, step)
        return [tirx.AllocBuffer(sums), *start, walk, self._finish(tile, sums, row, panel)]

    def _register(self, tile: Tile, row: Any, panel: int) -> Any:
        """Where the sums of a row and a panel of the tile are."""
        from tvm import tirx

        return tirx.Ramp(self._place(tile, row, panel), self._int(1), self.dot.lanes)

    def _place(self, tile: Tile, row: Any, panel: int) -> Any:
        if isinstance(row, int):
            return self._int((row * tile.panels + panel) * self.dot.lanes)
        return (row * tile.panels + panel) * self.dot.lanes

    def _step(self, tile: Tile, sums: Any, row: Any, panel: Any, k: Any) -> list[Any]:
        """One group of four along k, for every row and panel of the tile."""
        from tvm import tirx

        width = f"int8x{GROUP * self.dot.lanes}"
        zero = self._int(0)
        weights = [
            self.product.panels.vload([panel + c, k, zero, zero], width) for c in range(tile.panels)
        ]
        stores = []
        for r in range(tile.rows):
            codes = self.product.codes.vload([*self.at(row + r), k * GROUP], f"uint8x{GROUP}")
            for c, weight in enumerate(weights):
                place = self._register(tile, r, c)
                before = tirx.BufferLoad(sums, [place])
                stores.append(
                    tirx.BufferStore(sums, self.dot.step(before, codes, weight), [place])
                )
        return stores

    def _finish(self, tile: Tile, sums: Any, row: Any, panel: Any) -> Any:
        """The stages on every element of the tile."""
        from tvm import tirx

        kind = tirx.ForKind.VECTORIZED if self.in_vectors else tirx.ForKind.SERIAL
        r = tirx.Var("r", self.index)
        loops = []
        for c in range(tile.panels):
            lane = tirx.Var("lane", self.index)
            start = self._start(panel + c)
            total = tirx.BufferLoad(sums, [self._place(tile, r, c) + lane])
            body = _sequence(*self._element([*self.at(row + r), start + lane], total))
            extent = self._int(self.dot.lanes)
            loops.append(tirx.For(lane, self._int(0), extent, kind, body))
        extent = self._int(tile.rows)
        return tirx.For(r, self._int(0), extent, tirx.ForKind.SERIAL, _sequence(*loops))

    def _start(self, panel: Any) -> Any:
        """The first column of a panel."""
        from tvm import tirx

        start, lanes = panel * self.dot.lanes, self.dot.lanes
        columns = self.product.columns
        return tirx.min(start, columns - lanes) if columns % lanes else start

    def _element(self, place: list[Any], total: Any) -> list[Any]:
        """The stages of one element of the result, each computed once."""
        from tvm import tirx

        product, statements = self.product, []
        held: list[tuple[Any, Any]] = []
        for buffer, indices, value in [(product.sums, [], total), *self._stages()]:
            value = substituted(value, list(zip(indices, place, strict=False)), held)
            name = tirx.Var("x", str(value.ty))
            statements.append(tirx.Bind(name, value))
            held.append((buffer, name))
            if buffer in product.outputs:
                statements.append(tirx.BufferStore(buffer, name, place))
        return statements

    def _stages(self) -> list[tuple[Any, Sequence[Any], Any]]:
        stages = self.product.stages
        return [(stage.buffer, stage.indices, with_round(stage.value)) for stage in stages]

    def at(self, row: Any) -> list[Any]:
        """Position on every leading axis of a row of the whole product."""
        from tvm import tirx
        from tvm.sym.analyzer import Analyzer

        found: list[Any] = []
        for position, extent in reversed(list(enumerate(self.leading))):
            outermost = all(_is_one(e) for e in self.leading[:position])
            found.append(row if outermost else tirx.floormod(row, extent))
            row = self._int(0) if outermost else tirx.floordiv(row, extent)
        return [Analyzer().simplify(index) for index in reversed(found)]

    def _int(self, number: int) -> Any:
        from tvm import tirx

        return tirx.const(number, self.index)


def substituted(
    value: Any, variables: Sequence[tuple[Any, Any]], buffers: Sequence[tuple[Any, Any]]
) -> Any:
    """An expression with variables replaced, and loads from some buffers by what they hold."""
    import tvm_ffi
    from tvm import ir, tirx

    def load(node: Any) -> Any:
        return next((held for buffer, held in buffers if node.source.same_as(buffer)), node)

    def variable(node: Any) -> Any:
        return next((new for old, new in variables if node.same_as(old)), node)

    return tvm_ffi.structural_map(value, [(ir.TensorLoad, load), (tirx.Var, variable)])


def scheduled(function: "tvm.tirx.PrimFunc") -> "tvm.s_tir.Schedule":
    """The schedule that consists of a function as it is."""
    import tvm
    from tvm import s_tir

    root = s_tir.SBlock([], [], [], "root", function.body)
    made = function.with_body(s_tir.SBlockRealize([], True, root))
    return s_tir.Schedule(tvm.IRModule({"main": made}))


def _sequence(*statements: Any) -> Any:
    from tvm import tirx

    return statements[0] if len(statements) == 1 else tirx.SeqStmt(list(statements))


def _is_one(extent: Any) -> bool:
    from tvm import tirx

    return isinstance(extent, tirx.IntImm) and int(extent) == 1
