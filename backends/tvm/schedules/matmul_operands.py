"""How a product reads b: in place, or from a copy whose registers of columns are neighbours."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..machine import Machine
from .expressions import loads_of, number_of, substituted, variables_of
from .matmul_form import Axis, Product
from .matmul_loops import block, flat, serial, shared

if TYPE_CHECKING:
    from tvm import tirx

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
    """

    lanes: int
    count: Any
    width: Any
    start: Callable[[Any], Any]
    whole: Callable[[Any], Any]


def with_columns(product: Product, machine: Machine) -> "tuple[Product, Columns, list[tirx.Stmt]]":
    """The product, the way to read its b, and what to run first.

    In place and overlapping: neighbours everywhere, so the last register begins early enough to
    end with the last column. In place and padded: neighbours from multiples of `lanes` on, and the
    buffer has room for whole registers. Else from a copy, which is padded.
    """
    from tvm import tirx

    width = product.n.extent
    known = number_of(width)
    lanes = machine.lanes(BITS.get(product.dtype, 32))
    while known and lanes > max(known, NARROWEST) and _neighbours(product, 2, aligned=False):
        lanes //= 2
    count: Any = -(-known // lanes) if known else tirx.floordiv(width + (lanes - 1), lanes)
    fits = known is not None and known % lanes == 0

    def plain(register: Any) -> Any:
        return register * lanes

    def early(register: Any) -> Any:
        return tirx.min(register * lanes, width - lanes)

    def always(start: Any) -> bool:
        return True

    def inside(start: Any) -> Any:
        return start + lanes <= width

    padded = Columns(lanes, count, width, plain, always if fits else inside)
    if fits and _neighbours(product, lanes, aligned=True):
        return product, padded, []
    if known and known > lanes and _neighbours(product, lanes, aligned=False):
        return product, replace(padded, start=early, whole=always), []
    if known and _neighbours(product, lanes, aligned=True) and _room(product, count * lanes):
        return product, padded, []
    copied, copy = _copied(product, lanes, count)
    return copied, padded, [copy]


def _copied(product: Product, lanes: int, count: Any) -> "tuple[Product, tirx.Stmt]":
    """The product with b in registers of columns, [batch, count, k, lanes].

    Lanes beyond the last column repeat it.
    """
    from tvm import tirx

    found = variables_of(product.b)
    axes = [axis for axis in product.batch if axis.var in found]
    index = product.index
    number = tirx.Var("register", index)
    extent = tirx.const(count, index) if isinstance(count, int) else count
    shape = [*(axis.extent for axis in axes), extent, product.k.extent, tirx.const(lanes, index)]
    buffer = tirx.decl_buffer(shape, product.dtype, "columns")
    batch = [axis.var for axis in axes]
    n, k = product.n.var, product.k.var
    copy = shared([*axes, Axis(number, extent)], _register(product, buffer, batch, number, lanes))
    at = [*batch, tirx.floordiv(n, lanes), k, tirx.floormod(n, lanes)]
    read = tirx.BufferLoad(buffer, at)
    return replace(product, b=read, buffers=(*product.buffers, buffer)), copy


def _register(
    product: Product, buffer: Any, batch: list[Any], number: Any, lanes: int
) -> "Callable[[dict[Any, Any]], tirx.Stmt]":
    """Copies one register of columns for all k.

    Where columns lie at uneven places (the pixels of an image under a kernel), each one's place
    relative to the first is looked up in a table, which is the same for all k.
    """
    from tvm import tirx

    size = tirx.const(lanes, product.index)

    def column(lane: Any) -> Any:
        return tirx.min(number * lanes + lane, product.n.extent - 1)

    def elements(value: Callable[[Any], Any]) -> "tirx.Stmt":
        def element(k: Any, lane: Any) -> "tirx.Stmt":
            here = substituted(value(lane), {product.k.var: k})
            return tirx.BufferStore(buffer, here, [*batch, number, k, lane])

        return serial(product.k.extent, lambda k: serial(size, lambda lane: element(k, lane)), "k")

    def plain(lane: Any) -> Any:
        return substituted(product.b, {product.n.var: column(lane)})

    if not _uneven(product):
        return lambda places: substituted(elements(plain), places)
    load, first = _load(product), column(tirx.const(0, product.index))
    table = tirx.decl_buffer([size], product.index, "places", scope="local")
    *outer, last = (substituted(i, {product.n.var: first}) for i in load.indices)

    def place(lane: Any) -> "tirx.Stmt":
        zero = {product.k.var: tirx.const(0, product.index)}
        here, start = (
            substituted(flat(load), {**zero, product.n.var: n}) for n in (column(lane), first)
        )
        return tirx.BufferStore(table, here - start, [lane])

    def looked_up(lane: Any) -> Any:
        moved = [*outer, last + tirx.BufferLoad(table, [lane])]
        return tirx.BufferLoad(load.source, moved).astype(product.dtype)

    body = tirx.SeqStmt([serial(size, place), elements(looked_up)])
    return lambda places: substituted(block("register", body, [table]), places)


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
    step = analyzer.simplify(substituted(index, {n: n + 1}) - index)
    other = tirx.Var("other", product.index)
    across = analyzer.simplify(substituted(index, {n: other}) - index)
    return n in variables_of(step) and k not in variables_of(across)


def _neighbours(product: Product, lanes: int, *, aligned: bool) -> bool:
    """Whether b's elements of `lanes` columns are neighbours, from any column or multiples on."""
    from tvm import ir, sym, tirx

    value = _load(product)
    if len(loads_of(product.b)) != 1 or not isinstance(value, ir.TensorLoad):
        return False
    first, lane = (tirx.Var(name, product.index) for name in ("first", "lane"))
    analyzer = sym.Analyzer()
    analyzer.bind(lane, ir.Range(0, lanes))
    start = first * lanes if aligned else first
    at = [
        substituted(flat(value), {product.n.var: start + offset})
        for offset in (lane, tirx.const(0, product.index))
    ]
    return bool(analyzer.can_prove(at[0] - at[1] == lane))


def _room(product: Product, columns: int) -> bool:
    """Whether the buffer behind b has elements for this many columns."""
    from tvm import ir, sym, tirx

    (load,) = loads_of(product.b)
    analyzer = sym.Analyzer()
    for axis in (product.k, *product.batch):
        analyzer.bind(axis.var, ir.Range(0, axis.extent))
    last = {product.n.var: tirx.const(columns - 1, product.index)}
    return all(
        analyzer.can_prove(substituted(index, last) < extent)
        for index, extent in zip(load.indices, load.source.shape, strict=True)
    )
