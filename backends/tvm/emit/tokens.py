"""How ops that choose positions at run time are spelled: gathers, top-k; and tensors made anew."""

from typing import TYPE_CHECKING, Any

import numpy as np

from ....graph.ops import Fill, Gather, Range, Sort, Take, TopK, Triangle
from .dims import Extent, Unknown
from .expressions import dtype_of, moved, pointwise, read
from .indexing import inside, picked_along
from .movement import picked, reshaped, targets

if TYPE_CHECKING:
    from tvm import relax

    from .emitter import Emitter


def gather(emitter: "Emitter", op: Gather) -> "list[relax.Expr]":
    """Entries of x along one axis; an index may count from the end."""
    x, axis = emitter[op.x], op.axis
    known = emitter.contents.get(op.indices)
    if known is not None and known.size == 1:
        (position,) = emitter.contents.extents(op.indices)
        chosen = picked(emitter, x, axis, position)
        return [_with_ones(emitter, chosen, axis, known.ndim)]
    return [taken(emitter, x, emitter[op.indices], axis)]


def taken(emitter: "Emitter", x: "relax.Expr", indices: "relax.Expr", axis: int) -> "relax.Expr":
    """x at computed positions of an axis, which the axes of `indices` replace."""
    from tvm import te

    before, chosen = emitter.extents(x), emitter.extents(indices)
    shape = [*before[:axis], *chosen, *before[axis + 1 :]]
    end = axis + len(chosen)

    def compute(data: Any, positions: Any) -> Any:
        return te.compute(
            shape,
            lambda *i: data(*i[:axis], inside(positions(*i[axis:end]), before[axis]), *i[end:]),
            name="gather",
        )

    return emitter.call_te(compute, x, indices, name="gather")


def take(emitter: "Emitter", op: Take) -> "list[relax.Expr]":
    """y[b, .., j, ..] = x[b, .., indices[b, j], ..]."""
    from tvm import te

    x, indices = emitter[op.x], emitter[op.indices]
    shape, axis, batch = emitter.extents(x), op.axis, op.batch
    extent, shape[axis] = shape[axis], emitter.extents(indices)[1]

    def compute(data: Any, positions: Any) -> Any:
        def element(*i: Any) -> Any:
            place = inside(positions(i[batch], i[axis]), extent)
            return data(*i[:axis], place, *i[axis + 1 :])

        return te.compute(shape, element, name="take")

    return [emitter.call_te(compute, x, indices, name="take")]


def top_k(emitter: "Emitter", op: TopK) -> "list[relax.Expr]":
    """The first k of an order in which equal entries stay as they stand, and NaN is the largest."""
    x = emitter[op.require(0)]
    k = op.k
    if k is None:
        (found,) = emitter.contents.extents(op.require(1))
        if not isinstance(found, int):
            raise Unknown(f"k = {found}")
        k = found
    indices = order(emitter, x, op.axis, largest=op.largest)
    first = emitter.extents(indices)
    first[op.axis] = k
    chosen = moved(emitter, "first", indices, first, lambda *i: i)
    return [picked_along(emitter, x, chosen, op.axis), chosen]


def sort(emitter: "Emitter", op: Sort) -> "list[relax.Expr]":
    """x in ascending order along its last axis, NaNs last."""
    x = emitter[op.require(0)]
    axis = (op.require(0).rank or 1) - 1
    return [picked_along(emitter, x, order(emitter, x, axis, largest=False), axis)]


def order(emitter: "Emitter", x: "relax.Expr", axis: int, *, largest: bool) -> "relax.Expr":
    """Positions of x's entries along an axis in order, int64; equal ones as they stand."""
    from tvm import relax

    key = pointwise(emitter, "sort_key", lambda e: _sort_key(e, dtype_of(x), largest), x)
    return emitter.emit(relax.op.argsort(key, axis=axis, descending=False, dtype="int64"))


def integers(emitter: "Emitter", op: Range) -> "list[relax.Expr]":
    """start, start + 1, .., n of them."""
    (count,) = emitter.contents.extents(op.require(0))
    return [counted(emitter, op.start, 1, count, "int64")]


def counted(
    emitter: "Emitter", start: Extent, step: Extent, count: Extent, dtype: str
) -> "relax.Expr":
    """start, start + step, .., `count` of them."""
    from tvm import te

    if all(isinstance(bound, int) for bound in (start, step, count)):
        known: Any = start + step * np.arange(count)
        return emitter.constant(known.astype(dtype), "range")
    return emitter.call_te(
        lambda: te.compute([count], lambda i: (start + i * step).astype(dtype), name="range"),
        name="range",
    )


def stepped(
    emitter: "Emitter", start: Extent, end: Extent, step: Extent, dtype: str
) -> "relax.Expr":
    """start, start + step, .. up to `end`, which is not reached."""
    if not isinstance(step, int):
        raise ValueError("expected a known step")
    count = emitter.dims.simple((end - start + step - (1 if step > 0 else -1)) // step)
    return counted(emitter, start, step, count, dtype)


def fill(emitter: "Emitter", op: Fill) -> "list[relax.Expr]":
    """One number throughout; of a shape that is asked for, or that of an operand."""
    from tvm import relax

    dtype = emitter.dtype(op.output)
    like = op.dims is None and emitter.graph.binding.frontend == "fx"
    shape = emitter.shape(op.require(0)) if like else targets(emitter, op, op.dims, 0)
    return [emitter.emit(relax.op.full(shape, emitter.number(op.number, dtype), dtype))]


def triangle(emitter: "Emitter", op: Triangle) -> "list[relax.Expr]":
    """0 on one side of a diagonal of the last two axes."""
    from tvm import te, tirx

    x, dtype = emitter[op.require(0)], emitter.dtype(op.output)
    shape = emitter.extents(x)

    def element(data: Any, *i: Any) -> Any:
        past = i[-1] - i[-2]
        kept = past >= op.diagonal if op.upper else past <= op.diagonal
        return tirx.Select(kept, read(data, i), tirx.const(0, dtype))

    return [
        emitter.call_te(
            lambda data: te.compute(shape, lambda *i: element(data, *i), name="triangle"),
            x,
            name="triangle",
        )
    ]


def _with_ones(emitter: "Emitter", x: "relax.Expr", axis: int, count: int) -> "relax.Expr":
    if not count:
        return x
    shape = emitter.extents(x)
    return reshaped(emitter, x, [*shape[:axis], *[1] * count, *shape[axis:]])


def _sort_key(element: Any, dtype: str, largest: bool) -> Any:
    """A number that ascends in the order wanted; of floats, their bits, with NaN at one end."""
    from tvm import tirx

    if dtype in ("float16", "bfloat16"):
        element, dtype = element.astype("float32"), "float32"
    if dtype in ("float32", "float64"):
        kind = dtype.replace("float", "int")
        zero = tirx.const(0, dtype)
        bits = tirx.reinterpret(kind, tirx.Select(element.equal(zero), zero, element))  # no −0
        top = tirx.max_value(kind)
        key = tirx.Select(bits < 0, bits ^ top, bits)
        key = tirx.Select(tirx.isnan(element), top, key)
    else:
        key = element.astype("int64")
    return -1 - key if largest else key
