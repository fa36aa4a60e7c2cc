"""See a matrix product in a kernel: what it multiplies, and what happens to the result.

A fused kernel is a row of blocks: some that make operands, one that sums products, some that read
the sum. What only moves elements is inlined into the product, what follows it into one statement
that writes the output, so that what is left is

    C[batch, m, n] = Σ_k a(batch, m, k)·b(batch, k, n)
    output[..] = write(C, batch, m, n)

over axes batch, m, n, k: `a` does not know n, and `b` does not know m (but see `with_rows_of_b`).
Blocks that compute an operand run before; a block that cannot be turned into `write` (its output
has more elements than C) runs after.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .matmul_loops import loads, substitute, variables

if TYPE_CHECKING:
    from tvm import ir, s_tir, tirx

WIDER = {"float16": "float32", "bfloat16": "float32"}
"""Types whose sums are kept in a wider one."""


@dataclass(frozen=True)
class Axis:
    """A variable and how far it runs, an expression of the index type."""

    var: "ir.Var"
    extent: Any


@dataclass(frozen=True)
class Product:
    """A kernel with one matrix product; see the module docstring.

    Attributes:
        function: the kernel as it was, for its parameters.
        batch: axes that the product is repeated along.
        m, n, k: axes of the product; n is the one along which the output is contiguous.
        a, b: the factors, in the type of the sum.
        dtype: type of the sum.
        result: buffer C, for reference in `write`.
        write: what is done with one element of C.
        before: blocks that make operands, in order.
        after: blocks that read C as a whole, in order.
        buffers: buffers of `before` and `after`.
        part: length of the parts of k along which `a` is read evenly; 0 for all of it.
    """

    function: "tirx.PrimFunc"
    batch: tuple[Axis, ...]
    m: Axis
    n: Axis
    k: Axis
    a: Any
    b: Any
    dtype: str
    result: "ir.Var"
    write: "tirx.Stmt"
    before: "tuple[s_tir.SBlock, ...]"
    after: "tuple[s_tir.SBlock, ...]"
    buffers: "tuple[ir.Var, ...]"
    part: int = 0

    @property
    def index(self) -> str:
        """Type of every index."""
        return dtype_of(self.n.extent)


def dtype_of(expression: Any) -> str:
    return str(expression.ty.dtype)


def product_of(function: "tirx.PrimFunc") -> Product | None:
    """The matrix product that a kernel is; None where it is something else."""
    from tvm import s_tir

    if not isinstance(getattr(function.body, "block", None), s_tir.SBlock):
        return None
    schedule = s_tir.Schedule(function)
    blocks = schedule.get_child_blocks(schedule.get_sblock("root"))
    at = [i for i, name in enumerate(blocks) if _sums(schedule.get(name))]
    if len(at) != 1:
        return None
    before, product, after = blocks[: at[0]], blocks[at[0]], blocks[at[0] + 1 :]
    if not _factors(schedule.get(product)):
        return None
    _inline_moves(schedule, before, product)
    last = _single_writer(schedule, product, after)
    return _read(function, schedule, product, last)


def _sums(block: "s_tir.SBlock") -> bool:
    return any(int(axis.iter_type) == 2 for axis in block.iter_vars)


def _factors(block: "s_tir.SBlock") -> tuple[Any, Any] | None:
    """The factors of C[s] = C[s] + a·b that starts at 0, over one axis, each its own index."""
    from tvm import ir, tirx

    store, init = block.body, block.init
    if not isinstance(store, tirx.BufferStore) or not isinstance(init, tirx.BufferStore):
        return None
    spatial = [axis.var for axis in block.iter_vars if int(axis.iter_type) == 0]
    if len(spatial) != len(block.iter_vars) - 1 or not isinstance(store.value, tirx.Add):
        return None
    start = init.value
    if not isinstance(start, tirx.FloatImm | tirx.IntImm) or start.value != 0:
        return None
    if len(store.indices) != len(spatial) or not all(
        isinstance(i, ir.Var) and i.same_as(var)
        for i, var in zip(store.indices, spatial, strict=True)
    ):
        return None
    total, term = store.value.a, store.value.b
    if not isinstance(total, ir.TensorLoad) or not total.source.same_as(store.buffer):
        return None
    return (term.a, term.b) if isinstance(term, tirx.Mul) else None


def _inline_moves(schedule: Any, before: Sequence[Any], product: Any) -> None:
    """Inline what the product does not read, or reads through a plain move of elements."""
    from tvm import ir

    for name in before:
        block = schedule.get(name)
        target = block.body.buffer
        read = any(load.source.same_as(target) for load in loads(schedule.get(product).body))
        fed = any(
            load.source.same_as(target)
            for other in before
            if not other.same_as(name) and _alive(schedule, other)
            for load in loads(schedule.get(other).body)
        )
        if isinstance(block.body.value, ir.TensorLoad) or not (read or fed):
            schedule.compute_inline(name)


def _alive(schedule: Any, name: Any) -> bool:
    return any(
        schedule.get(name).same_as(schedule.get(other))
        for other in schedule.get_child_blocks(schedule.get_sblock("root"))
    )


def _single_writer(schedule: Any, product: Any, after: Sequence[Any]) -> Any:
    """The block that takes C elementwise to the output, or a copy of C where there is none."""
    from tvm.s_tir import ScheduleError

    copy = schedule.cache_write(product, 0, "global")
    for name in after[:-1]:
        schedule.compute_inline(name)
    if after and _covers(schedule.get(after[-1]), schedule.get(copy).body.buffer):
        try:
            schedule.reverse_compute_inline(after[-1])
        except ScheduleError:
            return copy  # the output has elements that are no element of C alone
    return copy


def _covers(last: "s_tir.SBlock", result: Any) -> bool:
    """Whether every axis of a block along which there is more than one element leads through C."""
    read = [load for load in loads(last.body) if load.source.same_as(result)]
    led = set().union(*(variables(index) for load in read for index in load.indices))
    return all(axis.var in led or is_one(axis.dom.extent) for axis in last.iter_vars)


def _read(function: Any, schedule: Any, product: Any, last: Any) -> Product | None:
    """Name the axes by which factor uses them."""
    block = schedule.get(product)
    factors = _factors(block)
    if factors is None:
        return None
    left, right = (variables(factor) for factor in factors)
    axes = [Axis(axis.var, axis.dom.extent) for axis in block.iter_vars]
    k = next(Axis(i.var, i.dom.extent) for i in block.iter_vars if int(i.iter_type) == 2)
    axes = [axis for axis in axes if not axis.var.same_as(k.var)]
    a, b = factors
    columns = [axis for axis in axes if axis.var in right and axis.var not in left]
    rows = [axis for axis in axes if axis.var in left and axis.var not in right]
    if rows and (not columns or axes.index(rows[-1]) > axes.index(columns[-1])):
        a, b, rows, columns = b, a, columns, rows
    if not columns or k.var not in left or k.var not in right:
        return None
    return _named(function, schedule, block, last, axes, rows, columns[-1], k, (a, b))


def _named(
    function: Any,
    schedule: Any,
    block: Any,
    last: Any,
    axes: list[Axis],
    rows: list[Axis],
    n: Axis,
    k: Axis,
    factors: tuple[Any, Any],
) -> Product | None:
    from tvm import tirx

    write = _write(schedule.get(last), block, axes)
    if write is None:
        return None
    result = block.body.buffer
    m, places = _joined(rows, dtype_of(n.extent))
    rest = [x for x in axes if x.var not in places and not x.var.same_as(n.var)]
    places |= {x.var: tirx.const(0, dtype_of(n.extent)) for x in rest if is_one(x.extent)}
    batch = tuple(x for x in rest if not is_one(x.extent))
    root = schedule.get(schedule.get_sblock("root"))
    names = schedule.get_child_blocks(schedule.get_sblock("root"))
    around = [schedule.get(name) for name in names]
    position = next(i for i, other in enumerate(around) if other.same_as(block))
    dtype = WIDER.get(str(result.dtype), str(result.dtype))
    a, b = (_cast(substitute(f, places), dtype) for f in factors)
    return Product(
        function,
        batch,
        m,
        n,
        k,
        a,
        b,
        dtype,
        result,
        substitute(write, places),
        tuple(around[:position]),
        tuple(around[position + 2 :]),
        tuple(x for x in root.alloc_buffers if not x.same_as(result)),
    )


def _joined(rows: list[Axis], index: str) -> tuple[Axis, dict[Any, Any]]:
    """One axis for the trailing ones of `rows`, and what each of them is in terms of it.

    An axis is joined to those before it only if its extent is known: the quotient and the
    remainder by it are taken at every row.
    """
    from tvm import tirx

    var = tirx.Var("m", index)
    taken: list[Axis] = []
    for axis in reversed([x for x in rows if not is_one(x.extent)]):
        if taken and not isinstance(taken[-1].extent, tirx.IntImm):
            break
        taken.append(axis)
    extent: Any = tirx.const(1, index)
    places: dict[Any, Any] = {x.var: tirx.const(0, index) for x in rows if is_one(x.extent)}
    for axis in taken:
        whole = tirx.floordiv(var, extent)
        places[axis.var] = whole if axis is taken[-1] else tirx.floormod(whole, axis.extent)
        extent = extent * axis.extent
    return Axis(var, extent), places


def _write(last: "s_tir.SBlock", block: "s_tir.SBlock", axes: list[Axis]) -> Any:
    """The statement of the last block in terms of the product's axes."""
    from tvm import ir, tirx

    read = [load for load in loads(last.body) if load.source.same_as(block.body.buffer)]
    places: dict[Any, Any] = {}
    for load in read:
        for index, axis in zip(load.indices, axes, strict=True):
            if isinstance(index, ir.Var):
                if not places.setdefault(index, axis.var).same_as(axis.var):
                    return None
            elif not isinstance(index, tirx.IntImm) or index.value != 0:
                return None
    for own in last.iter_vars:
        if own.var not in places:
            if not is_one(own.dom.extent):
                return None
            places[own.var] = tirx.const(0, dtype_of(own.var))
    return substitute(last.body, places)


def is_one(extent: Any) -> bool:
    return getattr(extent, "value", None) == 1


def _cast(expression: Any, dtype: str) -> Any:
    return expression if dtype_of(expression) == dtype else expression.astype(dtype)
