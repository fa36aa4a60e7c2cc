"""How a product reads its operands: in place, or through a copy that suits the loops."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..machine import Machine
from .matmul_form import Product
from .matmul_loops import loads, serial, substitute, variables

if TYPE_CHECKING:
    from tvm import ir, tirx

BITS = {"float64": 64, "int64": 64, "float16": 16, "bfloat16": 16, "int8": 8, "uint8": 8}

NARROWEST = 4
"""Lanes of the narrowest register, which serves rows shorter than the widest."""


@dataclass(frozen=True)
class Columns:
    """The columns of b, counted by registers of `lanes` of them.

    Attributes:
        lanes: columns of one register.
        count: registers; an expression where the width is.
        width: columns, an expression.
        start: first column of a register.
        whole: whether all lanes of the register that starts at a column are columns.
        staged: copies the columns of some registers for all k; None where b is read in place.
    """

    lanes: int
    count: Any
    width: Any
    start: Callable[[Any], Any]
    whole: Callable[[Any], Any]
    staged: "Callable[[Any, int], tuple[list[ir.Var], tirx.Stmt]] | None"


def columns_of(product: Product, machine: Machine) -> Columns:
    """The way to read b.

    In place and overlapping: neighbours everywhere, so the last register begins early enough to
    end with the last column. In place and padded: neighbours from multiples of `lanes` on, and the
    buffer has room for whole registers. Else through a copy.
    """
    from tvm import tirx

    width = product.n.extent
    known = width.value if isinstance(width, tirx.IntImm) else None
    lanes = machine.lanes(BITS.get(product.dtype, 32))
    while known and lanes > max(known, NARROWEST) and _neighbours(product, 2, aligned=False):
        lanes //= 2
    count: Any = -(-known // lanes) if known else tirx.floordiv(width + (lanes - 1), lanes)

    def plain(register: Any) -> Any:
        return register * lanes

    def early(register: Any) -> Any:
        return tirx.min(register * lanes, width - lanes)

    def always(start: Any) -> bool:
        return True

    def inside(start: Any) -> Any:
        return start + lanes <= width

    if known and known % lanes == 0 and _neighbours(product, lanes, aligned=True):
        return Columns(lanes, count, width, plain, always, None)
    if known and known > lanes and _neighbours(product, lanes, aligned=False):
        return Columns(lanes, count, width, early, always, None)
    if known and _neighbours(product, lanes, aligned=True) and _room(product, count * lanes):
        return Columns(lanes, count, width, plain, inside, None)
    whole = always if known and known % lanes == 0 else inside
    return Columns(lanes, count, width, plain, whole, _Stage(product, lanes))


@dataclass(frozen=True)
class _Stage:
    """Copies columns of b to a buffer [k, columns]; lanes beyond the last column repeat it.

    Where columns lie at uneven places (the pixels of an image under a kernel), each column's place
    relative to the first is looked up in a table, which is the same for all k.
    """

    product: Product
    lanes: int

    def __call__(self, register: Any, registers: int) -> "tuple[list[ir.Var], tirx.Stmt]":
        from tvm import tirx

        product = self.product
        size = tirx.const(registers * self.lanes, product.index)
        buffer = tirx.decl_buffer([product.k.extent, size], product.dtype, "columns")
        first = register * self.lanes
        if not _uneven(product):
            copy = self._copy(buffer, size, lambda j: self._b(first + j))
            return [buffer], copy
        table = tirx.decl_buffer([size], product.index, "places")
        value = _load(product)
        start = tirx.min(first, product.n.extent - 1)

        def place(j: Any) -> Any:
            column = tirx.min(first + j, product.n.extent - 1)
            zero = tirx.const(0, product.index)
            at = [
                substitute(flat(value), {product.n.var: n, product.k.var: zero})
                for n in (column, start)
            ]
            return at[0] - at[1]

        fill = serial(size, lambda j: tirx.BufferStore(table, place(j), [j]))
        *outer, last = (substitute(i, {product.n.var: start}) for i in value.indices)
        copy = self._copy(
            buffer,
            size,
            lambda j: tirx.BufferLoad(
                value.source, [*outer, last + tirx.BufferLoad(table, [j])]
            ).astype(product.dtype),
        )
        return [buffer, table], tirx.SeqStmt([fill, copy])

    def _b(self, column: Any) -> Any:
        from tvm import tirx

        clamped = tirx.min(column, self.product.n.extent - 1)
        return substitute(self.product.b, {self.product.n.var: clamped})

    def _copy(self, buffer: Any, size: Any, value: Callable[[Any], Any]) -> "tirx.Stmt":
        from tvm import tirx

        product = self.product

        def element(k: Any, j: Any) -> "tirx.Stmt":
            return tirx.BufferStore(buffer, substitute(value(j), {product.k.var: k}), [k, j])

        return serial(product.k.extent, lambda k: serial(size, lambda j: element(k, j)), "k")


def _load(product: Product) -> Any:
    from tvm import tirx

    return product.b.value if isinstance(product.b, tirx.Cast) else product.b


def _uneven(product: Product) -> bool:
    """Whether b is one load whose place is a sum of one along k and an uneven one along n."""
    from tvm import ir, sym, tirx

    value, n, k = _load(product), product.n.var, product.k.var
    if not isinstance(value, ir.TensorLoad):
        return False
    index = flat(value)
    analyzer = sym.Analyzer()
    step = analyzer.simplify(substitute(index, {n: n + 1}) - index)
    other = tirx.Var("other", product.index)
    across = analyzer.simplify(substitute(index, {n: other}) - index)
    return n in variables(step) and k not in variables(across)


def _neighbours(product: Product, lanes: int, *, aligned: bool) -> bool:
    """Whether b's elements of `lanes` columns are neighbours, from any column or multiples on."""
    from tvm import ir, sym, tirx

    found = loads(product.b)
    value = _load(product)
    if len(found) != 1 or not isinstance(value, ir.TensorLoad):
        return False
    first, lane = (tirx.Var(name, product.index) for name in ("first", "lane"))
    analyzer = sym.Analyzer()
    analyzer.bind(lane, ir.Range(0, lanes))
    start = first * lanes if aligned else first
    at = [
        substitute(flat(value), {product.n.var: start + offset})
        for offset in (lane, tirx.const(0, product.index))
    ]
    return bool(analyzer.can_prove(at[0] - at[1] == lane))


def _room(product: Product, columns: int) -> bool:
    """Whether the buffer behind b has elements for this many columns."""
    from tvm import ir, sym, tirx

    (load,) = loads(product.b)
    analyzer = sym.Analyzer()
    analyzer.bind(product.k.var, ir.Range(0, product.k.extent))
    for axis in product.batch:
        analyzer.bind(axis.var, ir.Range(0, axis.extent))
    last = {product.n.var: tirx.const(columns - 1, product.index)}
    return all(
        analyzer.can_prove(substitute(index, last) < extent)
        for index, extent in zip(load.indices, load.source.shape, strict=True)
    )


def flat(load: "ir.TensorLoad") -> Any:
    """Position of an element in its buffer."""
    position: Any = None
    for index, extent in zip(load.indices, load.source.shape, strict=True):
        position = index if position is None else position * extent + index
    return position
