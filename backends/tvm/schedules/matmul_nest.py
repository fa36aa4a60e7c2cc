"""The loop nest of a matrix product: tiles of C in registers, shared out to the threads.

    for task in parallel(batch, groups of columns, rows):    # contiguous ranges of it per thread
        sums[rows, registers] = 0                            # registers
        for k: sums[i, v] += a[m + i, k]·b[k, n + v]
        output = write(sums)

Rows: the last tile begins early enough to end with the last row, so some rows are computed twice
(to the same value) and no read or write needs a guard. A count known only at run time picks among
tiles of several heights, the last of them one row high. Columns go by whole registers; those left
over by the tile's width get a narrower tile, and the columns of a last, partly filled register are
written one by one. The output is never an operand (`tirx.noalias`), so writing twice is sound.
"""

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from ..machine import Machine
from .expressions import calls_of, number_of, substituted, with_loads
from .matmul_form import Product
from .matmul_loops import block, either, parallel, serial, unrolled, vectorized
from .matmul_operands import Columns
from .tiles import Tile, tile_of, tiles_of

if TYPE_CHECKING:
    from tvm import ir, tirx

SMALL = 1 << 16
"""Multiply-adds of a product that is not worth waking another thread for."""
UNROLLED = 512
"""Multiply-adds of registers in a loop over k that is written out: the taps of a small kernel."""

GUESS = 16
"""Registers of columns of a product whose width is known only at run time."""


@dataclass(frozen=True)
class Place:
    """One tile: its first row, its first register of columns, and how many of each it has."""

    row: Any
    register: Any
    tile: Tile


class Nest:
    """Writes the loops of one product for one machine; see the module docstring."""

    def __init__(self, product: Product, columns: Columns, machine: Machine) -> None:
        self.product = product
        self.columns = columns
        self.machine = machine
        self.lanes = columns.lanes
        self.brief = columns.whole(0) is True and not calls_of(product.write)

    def statement(self) -> "tirx.Stmt":
        """The whole product."""
        rows, count = self.product.m.extent, self.columns.count
        guess, known = count if isinstance(count, int) else GUESS, number_of(rows)
        if known is not None:
            return self._tiled(tile_of(known, guess, self.machine, self._repeats()))
        body = None
        for tile in reversed(tiles_of(guess, self.machine, self._repeats())):
            tiled = self._tiled(tile)
            body = tiled if body is None else either(rows >= tile.rows, _just(tiled), _just(body))
        return body

    def _tiled(self, tile: Tile) -> "tirx.Stmt":
        """All tasks, with tiles of this size; there are at least as many rows as it has."""
        rows = self.product.m.extent
        known = number_of(rows)
        down = _ceil(rows if known is None else known, tile.rows)
        groups = _ceil(self.columns.count, tile.registers)
        total = groups * down
        for axis in self.product.batch:
            total = total * axis.extent

        def task(var: "ir.Var") -> "tirx.Stmt":
            rest, number = _divmod(var, down)
            rest, group = _divmod(rest, groups)
            return substituted(self._group(tile, group, self._row(tile, number)), self._batch(rest))

        return (serial if self._is_small() else parallel)(total, task)

    def _batch(self, rest: Any) -> dict[Any, Any]:
        """Where along the batch axes a task is."""
        places: dict[Any, Any] = {}
        for axis in reversed(self.product.batch):
            rest, places[axis.var] = _divmod(rest, axis.extent)
        return places

    def _group(self, tile: Tile, group: Any, row: Any) -> "tirx.Stmt":
        """One tile, with as many registers of columns as are left at the edge."""
        count = self.columns.count
        left = count % tile.registers if isinstance(count, int) else 0
        first = group * tile.registers

        def wide(registers: int) -> "tirx.Stmt":
            return self._at(Place(row, first, Tile(tile.rows, registers)))

        if not left or count < tile.registers:
            return wide(left or tile.registers)
        whole = group < count // tile.registers
        return either(whole, lambda: wide(tile.registers), lambda: wide(left))

    def _row(self, tile: Tile, number: Any) -> Any:
        """First row of a tile: the last one ends with the last row."""
        from tvm import tirx

        rows = self.product.m.extent
        known = number_of(rows)
        if known is not None and known % tile.rows == 0:
            return number * tile.rows
        return tirx.min(number * tile.rows, rows - tile.rows)

    def _at(self, place: Place) -> "tirx.Stmt":
        """One tile: zero the sums, add up, write.

        The sums stay in registers only if nothing indexes them by a loop's variable. So they are
        written from where they are if that takes few instructions; else they are put down first.
        """
        from tvm import tirx

        size = place.tile.rows * place.tile.registers * self.lanes
        sums, done = (
            tirx.decl_buffer([size], self.product.dtype, name, scope="local")
            for name in ("sums", "done")
        )
        zero = tirx.const(0, self.product.dtype)
        start = self._all(place.tile, lambda i, v, lane, at: tirx.BufferStore(sums, zero, [at]))
        along = self._along(place.tile, lambda k: self._step(place, sums, k))
        if self.brief:
            write = self._write(place, sums, unrolled)
            return block("tile", tirx.SeqStmt([start, along, write]), [sums])
        keep = self._all(
            place.tile,
            lambda i, v, lane, at: tirx.BufferStore(done, tirx.BufferLoad(sums, [at]), [at]),
        )
        write = self._write(place, done, serial)
        return block("tile", tirx.SeqStmt([start, along, keep, write]), [sums, done])

    def _along(self, tile: Tile, step: Any) -> "tirx.Stmt":
        """The loop over k, or over its parts and in each; a short one is written out."""
        extent, part = self.product.k.extent, self.product.part
        if part:
            inner = self.index(part)
            return serial(
                self.index(extent.value // part),
                lambda number: serial(inner, lambda rest: step(number * part + rest), "k"),
                "part",
            )
        work = getattr(extent, "value", UNROLLED) * tile.rows * tile.registers
        return (unrolled if work <= UNROLLED else serial)(extent, step, "k")

    def _step(self, place: Place, sums: Any, k: Any) -> "tirx.Stmt":
        """sums[i, v] += a[row + i, k]·b[k, column + v]."""
        from tvm import tirx

        product = self.product

        def add(i: Any, v: Any, lane: Any, at: Any) -> "tirx.Stmt":
            a = substituted(product.a, {product.m.var: place.row + i, product.k.var: k})
            column = self.columns.start(place.register + v) + lane
            places = {product.n.var: column, product.k.var: k, product.m.var: place.row + i}
            b = substituted(product.b, places)
            return tirx.BufferStore(sums, tirx.BufferLoad(sums, [at]) + a * b, [at])

        return self._all(place.tile, add)

    def _write(self, place: Place, done: Any, down: Any) -> "tirx.Stmt":
        """The output's elements of one tile, from the sums in `done`, in a loop `down` the rows."""
        width = self.columns.width

        def row(i: Any, v: Any) -> "tirx.Stmt":
            start = self.columns.start(place.register + v)

            def lane(j: Any) -> "tirx.Stmt":
                at = (i * place.tile.registers + v) * self.lanes + j
                return self._store(place.row + i, start + j, done, at)

            def some() -> "tirx.Stmt":
                return serial(width - start, lane)

            whole = self.columns.whole(start)
            return either(whole, lambda: vectorized(self.index(self.lanes), lane), some)

        registers = self.index(place.tile.registers)
        return down(self.index(place.tile.rows), lambda i: unrolled(registers, lambda v: row(i, v)))

    def _store(self, row: Any, column: Any, done: Any, at: Any) -> "tirx.Stmt":
        """The last statement of the kernel with C's element replaced by its sum."""
        from tvm import tirx

        product = self.product

        def sum_of(load: Any) -> Any:
            if not load.source.same_as(product.result):
                return load
            value = tirx.BufferLoad(done, [at])
            narrow = str(product.result.dtype)
            return value if narrow == product.dtype else value.astype(narrow)

        write = with_loads(product.write, sum_of)
        return substituted(write, {product.m.var: row, product.n.var: column})

    def _all(self, tile: Tile, make: Any) -> "tirx.Stmt":
        """A statement for every element of a tile, written out but for the lanes."""
        rows, registers = self.index(tile.rows), self.index(tile.registers)
        lanes = self.index(self.lanes)

        def at(i: Any, v: Any, lane: Any) -> Any:
            return make(i, v, lane, (i * tile.registers + v) * self.lanes + lane)

        return unrolled(
            rows,
            lambda i: unrolled(registers, lambda v: vectorized(lanes, lambda lane: at(i, v, lane))),
        )

    def index(self, number: int) -> Any:
        from tvm import tirx

        return tirx.const(number, self.product.index)

    def _repeats(self) -> int:
        """How many products there are, where that is known."""
        return prod(getattr(axis.extent, "value", 1) for axis in self.product.batch)

    def _is_small(self) -> bool:
        axes = [self.product.m, self.product.n, self.product.k, *self.product.batch]
        return prod(getattr(axis.extent, "value", SMALL) for axis in axes) < SMALL


def _just(statement: "tirx.Stmt") -> Any:
    return lambda: statement


def _ceil(count: Any, by: int) -> Any:
    if isinstance(count, int):
        return -(-count // by)
    from tvm import tirx

    return tirx.floordiv(count + (by - 1), by)


def _divmod(value: Any, by: Any) -> tuple[Any, Any]:
    from tvm import tirx

    return tirx.floordiv(value, by), tirx.floormod(value, by)
