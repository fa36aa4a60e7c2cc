"""See a matrix product in a kernel: what it multiplies, and what happens to the result.

A fused kernel is a row of blocks: some that make operands, one that sums products, some that read
the sum. What only moves elements is inlined into the product, and what follows it into one
statement that writes the output.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .expressions import loads_of, substituted, variables_of
from .matmul_form import WIDER, Axis, Product, dtype_of, is_one
from .stages import REDUCES

if TYPE_CHECKING:
    from tvm import s_tir, tirx

SPATIAL = 0
"""The iteration type of a block's other axes."""


def product_of(function: "tirx.PrimFunc") -> Product | None:
    """The matrix product that a kernel is; None where it is something else."""
    from tvm import s_tir

    outermost = getattr(function.body, "block", None)
    if not isinstance(outermost, s_tir.SBlock) or outermost.name_hint != "root":
        return None  # a call of the library is a block of its own, with none around it
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
    return bool(_axes(block, REDUCES))


def _factors(block: "s_tir.SBlock") -> tuple[Any, Any] | None:
    """The factors of C[s] = C[s] + a·b that starts at 0, over one axis, each its own index."""
    from tvm import ir, tirx

    store, init = block.body, block.init
    if not isinstance(store, tirx.BufferStore) or not isinstance(init, tirx.BufferStore):
        return None
    spatial = [axis.var for axis in _axes(block, SPATIAL)]
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
        read = any(load.source.same_as(target) for load in loads_of(schedule.get(product).body))
        fed = any(
            load.source.same_as(target)
            for other in before
            if not other.same_as(name) and _alive(schedule, other)
            for load in loads_of(schedule.get(other).body)
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
    read = [load for load in loads_of(last.body) if load.source.same_as(result)]
    led = set().union(*(variables_of(index) for load in read for index in load.indices))
    return all(axis.var in led or is_one(axis.dom.extent) for axis in last.iter_vars)


def _read(function: Any, schedule: Any, product: Any, last: Any) -> Product | None:
    """Name the axes by which factor uses them: rows are m, the last of the columns is n."""
    from tvm import tirx

    block = schedule.get(product)
    roles = _roles(block)
    write = _write(schedule.get(last), block)
    if roles is None or write is None:
        return None
    (a, b), rows, n, k = roles
    index, result = dtype_of(n.extent), block.body.buffer
    m, places = _joined(rows, index)
    rest = [x for x in _axes(block, SPATIAL) if x.var not in places and not x.var.same_as(n.var)]
    places |= {x.var: tirx.const(0, index) for x in rest if is_one(x.extent)}
    root = schedule.get_sblock("root")
    around = [schedule.get(name) for name in schedule.get_child_blocks(root)]
    position = next(i for i, other in enumerate(around) if other.same_as(block))
    dtype = WIDER.get(str(result.dtype), str(result.dtype))
    return Product(
        function=function,
        batch=tuple(x for x in rest if not is_one(x.extent)),
        m=m,
        n=n,
        k=k,
        a=_cast(substituted(a, places), dtype),
        b=_cast(substituted(b, places), dtype),
        dtype=dtype,
        result=result,
        write=substituted(write, places),
        before=tuple(around[:position]),
        after=tuple(around[position + 2 :]),
        buffers=tuple(x for x in schedule.get(root).alloc_buffers if not x.same_as(result)),
    )


def _axes(block: "s_tir.SBlock", kind: int) -> list[Axis]:
    """Axes of a block that are spatial or summed over."""
    return [Axis(i.var, i.dom.extent) for i in block.iter_vars if int(i.iter_type) == kind]


def _roles(
    block: "s_tir.SBlock",
) -> "tuple[tuple[Any, Any], list[Axis], Axis, Axis] | None":
    """The factors, rows of the first one alone, the column axis of the second, and k.

    The second factor is the one with the last axis that the other does not know.
    """
    factors = _factors(block)
    if factors is None:
        return None
    a, b = factors
    (k,), axes = _axes(block, REDUCES), _axes(block, SPATIAL)
    left, right = variables_of(a), variables_of(b)
    if k.var not in left or k.var not in right:
        return None
    columns = [axis for axis in axes if axis.var in right and axis.var not in left]
    rows = [axis for axis in axes if axis.var in left and axis.var not in right]
    if rows and (not columns or axes.index(rows[-1]) > axes.index(columns[-1])):
        a, b, rows, columns = b, a, columns, rows
    return ((a, b), rows, columns[-1], k) if columns else None


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


def _write(last: "s_tir.SBlock", block: "s_tir.SBlock") -> "tirx.Stmt | None":
    """The statement of the last block in terms of the product's axes."""
    from tvm import ir, tirx

    read = [load for load in loads_of(last.body) if load.source.same_as(block.body.buffer)]
    places: dict[Any, Any] = {}
    for load in read:
        for index, axis in zip(load.indices, _axes(block, SPATIAL), strict=True):
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
    return substituted(last.body, places)


def _cast(expression: Any, dtype: str) -> Any:
    return expression if dtype_of(expression) == dtype else expression.astype(dtype)
