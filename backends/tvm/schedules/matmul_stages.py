"""The loops around a product: operands computed before it, and what reads its result as a whole."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..machine import Machine
from .expressions import calls_of, nodes_of, substituted, variables_of
from .matmul_form import Axis, Product, dtype_of, is_one
from .matmul_loops import block, flat, in_parts, serial, shared, vectorized
from .matmul_operands import BITS

if TYPE_CHECKING:
    from tvm import s_tir, tirx


def stage(made: "s_tir.SBlock", machine: Machine) -> "tirx.Stmt":
    """Loops over an elementwise block: outer axes shared out, the last by registers if it fits."""
    from tvm import tirx

    axes = [Axis(axis.var, axis.dom.extent) for axis in made.iter_vars]
    if not axes:
        return made.body
    *outer, last = axes
    lanes = machine.lanes(BITS.get(str(made.body.buffer.dtype), 32))
    even = isinstance(last.extent, tirx.IntImm) and last.extent.value % lanes == 0
    fits = even and not calls_of(made.body)
    known = all(isinstance(axis.extent, tirx.IntImm) for axis in axes)
    loop = in_parts if known else serial  # TVM cuts no loops between open extents

    def inner(places: dict[Any, Any]) -> "tirx.Stmt":
        if not fits:
            return loop(last.extent, lambda j: substituted(made.body, {**places, last.var: j}))
        return serial(
            last.extent // lanes,
            lambda j: vectorized(
                tirx.const(lanes, dtype_of(last.extent)),
                lambda lane: substituted(made.body, {**places, last.var: j * lanes + lane}),
            ),
        )

    return shared(outer, inner)


def with_direct_rows(product: Product) -> "tuple[Product, list[tirx.Stmt]]":
    """The product with rows of `a` that cost no more than a load each, copied first if need be.

    A load is direct if its place in the buffer moves evenly along k, or along parts of k (rows
    gathered from heads, or from a patch's lines). An operand that is computed is computed once, not
    once per register of columns.
    """
    from tvm import ir, tirx

    value = product.a.value if isinstance(product.a, tirx.Cast) else product.a
    if isinstance(value, ir.TensorLoad):
        if _even(flat(value), product.k.var, None):
            return product, []
        part = _even_part(value, product.k)
        if part:
            return replace(product, part=part), []
    return _copied(product)


def with_rows_of_b(product: Product) -> Product:
    """A product of one row with an axis of b alone for rows: more sums at a time.

    The factor a is then the same in all rows (a kernel's tap over the lines of an image).
    """
    if not is_one(product.m.extent):
        return product
    left, right = variables_of(product.a), variables_of(product.b)
    lone = [axis for axis in product.batch if axis.var in right and axis.var not in left]
    if not lone:
        return product
    rest = tuple(axis for axis in product.batch if axis is not lone[-1])
    return replace(product, m=lone[-1], batch=rest)


def _copied(product: Product) -> "tuple[Product, list[tirx.Stmt]]":
    """The product with all of `a` computed before it, to a buffer [batch, m, k]."""
    from tvm import tirx

    axes = [*product.batch, product.m, product.k]
    buffer = tirx.decl_buffer([axis.extent for axis in axes], product.dtype, "rows")
    indices = [axis.var for axis in axes]

    def inner(places: dict[Any, Any]) -> "tirx.Stmt":
        def at(k: Any) -> "tirx.Stmt":
            store = tirx.BufferStore(buffer, product.a, indices)
            return substituted(store, {**places, product.k.var: k})

        return serial(product.k.extent, at)

    copy = block("rows", shared(axes[:-1], inner))
    direct = tirx.BufferLoad(buffer, indices)
    return replace(product, a=direct, buffers=(*product.buffers, buffer)), [copy]


def _even(index: Any, var: Any, extent: int | None) -> bool:
    """Whether an index moves by the same step all along a variable (below `extent`)."""
    from tvm import ir, sym

    analyzer = sym.Analyzer()
    if extent is not None:
        analyzer.bind(var, ir.Range(0, extent - 1))
    step = analyzer.simplify(substituted(index, {var: var + 1}) - index)
    return var not in variables_of(step)


def _even_part(load: Any, k: Axis) -> int:
    """The longest part of k that a load moves evenly along, from multiples of it on; 0 if none."""
    from tvm import tirx

    if not isinstance(k.extent, tirx.IntImm):
        return 0
    index, whole = flat(load), k.extent.value
    divided = nodes_of(index, (tirx.FloorDiv, tirx.FloorMod))
    found = {getattr(node.b, "value", 0) for node in divided}
    number, rest = (tirx.Var(name, dtype_of(k.extent)) for name in ("part", "rest"))
    for size in sorted(found, reverse=True):
        if size > 1 and whole % size == 0:
            moved = substituted(index, {k.var: number * size + rest})
            if _even(moved, rest, size):
                return size
    return 0
