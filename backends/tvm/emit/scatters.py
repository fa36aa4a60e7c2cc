"""How scatters are spelled: one kernel that copies x, then writes the updates one after the other.

Serial, so that the last of several updates of one element stays, whatever the machine.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

from ....graph.ops import Put, Scatter
from .dims import Extent
from .indexing import inside
from .movement import broadcast

if TYPE_CHECKING:
    from tvm import relax

    from .emitter import Emitter

Combine = Callable[[Any, Any], Any]
COMBINE: dict[str, Combine] = {
    "none": lambda old, new: new,
    "add": lambda old, new: old + new,
    "mul": lambda old, new: old * new,
}
"""What an element becomes, from what it was and its update."""


def scatter(emitter: "Emitter", op: Scatter) -> "list[relax.Expr]":
    """x with single elements replaced."""
    updates = emitter.cast(emitter[op.updates], emitter.dtype(op.output))
    if not op.updates.rank:
        updates = broadcast(emitter, updates, emitter.extents(emitter[op.indices]))
    return [scattered(emitter, emitter[op.x], emitter[op.indices], updates, op.axis)]


def scattered(
    emitter: "Emitter",
    x: "relax.Expr",
    indices: "relax.Expr",
    updates: "relax.Expr",
    axis: int,
    mode: str = "none",
) -> "relax.Expr":
    """y[.., indices[i], ..] = updates[i], the index standing on `axis`."""
    from tvm import relax

    if emitter.machine.kind == "cuda":  # TVM's kernel for GPUs, serial along this axis alone
        how = "update" if mode == "none" else mode
        return emitter.emit(relax.op.scatter_elements(x, indices, updates, axis, reduction=how))

    def write(
        target: Any, places: Any, new: Any, shape: Sequence[Any], many: Sequence[Any]
    ) -> None:
        from tvm.script.ir_builder import tirx as T

        with T.serial(0, prod(many)) as n:
            at = 0
            for k, (stride, own) in enumerate(zip(_strides(shape), _strides(many), strict=True)):
                place = n // own % many[k]
                if k == axis:
                    place = inside(places[n].astype("int64"), shape[axis])
                at = at + place * stride
            target[at] = COMBINE[mode](target[at], new[n])

    return _written(emitter, write, x, indices, updates)


def scattered_rows(
    emitter: "Emitter",
    x: "relax.Expr",
    indices: "relax.Expr",
    updates: "relax.Expr",
    mode: str = "none",
) -> "relax.Expr":
    """y[indices[i]] = updates[i]: the last axis of `indices` [.., K] names the first K axes."""
    count = emitter.extents(indices)[-1]
    if not isinstance(count, int):
        raise ValueError("expected to know how many axes the indices name")

    def write(
        target: Any, places: Any, new: Any, shape: Sequence[Any], many: Sequence[Any]
    ) -> None:
        from tvm.script.ir_builder import tirx as T

        width, strides = prod(shape[count:]), _strides(shape)
        with T.serial(0, prod(many[:-1])) as n, T.serial(0, width) as j:
            at = j
            for k in range(count):
                place = places[n * count + k].astype("int64")
                at = at + inside(place, shape[k]) * strides[k]
            target[at] = COMBINE[mode](target[at], new[n * width + j])

    return _written(emitter, write, x, indices, updates)


def put(emitter: "Emitter", op: Put) -> "list[relax.Expr]":
    """First which update each position takes, if any; then each element from x or its update.

    The second step is a kernel like any other that works element by element.
    """
    from tvm import relax, te, tirx

    x, updates, axis, batch = emitter[op.x], emitter[op.updates], op.axis, op.batch
    shape, chosen = emitter.extents(x), emitter.extents(emitter[op.indices])
    none = relax.op.full([chosen[0], shape[axis]], emitter.number(-1, "int32"), "int32")
    order = emitter.call_te(
        lambda: te.compute(chosen, lambda b, j: j.astype("int32"), name="order"), name="order"
    )
    source = scattered(emitter, emitter.emit(none), emitter[op.indices], order, 1)

    def compute(data: Any, new: Any, sources: Any) -> Any:
        def element(*i: Any) -> Any:
            j = sources(i[batch], i[axis])
            place = tirx.max(j, tirx.const(0, "int32"))
            return tirx.if_then_else(j >= 0, new(*i[:axis], place, *i[axis + 1 :]), data(*i))

        return te.compute(shape, element, name="put")

    return [emitter.call_te(compute, x, updates, source, name="put")]


def _written(
    emitter: "Emitter",
    write: Callable[..., None],
    x: "relax.Expr",
    indices: "relax.Expr",
    updates: "relax.Expr",
) -> "relax.Expr":
    """A copy of x that `write` has written to; it sees all three as flat."""
    from tvm import te, tirx
    from tvm.script.ir_builder import IRBuilder
    from tvm.script.ir_builder import tirx as T

    def compute(data: Any, places: Any, new: Any) -> Any:
        def body(inputs: Any, outputs: Any) -> Any:
            source, where, what, target = map(T.buffer_proxy, [*inputs, *outputs])
            with IRBuilder() as copy, T.serial(0, prod(data.shape)) as i:
                target[i] = source[i]
            with IRBuilder() as change:
                write(target, where, what, data.shape, places.shape)
            return tirx.SeqStmt([copy.get(), change.get()])

        held = tirx.decl_buffer(data.shape, data.dtype, "written", layout=None)
        operands, dtype = [data, places, new], data.dtype
        return te.extern(
            [data.shape], operands, body, dtype=dtype, out_buffers=[held], name="scatter"
        )

    return emitter.call_te(compute, x, indices, updates, name="scatter")


def _strides(shape: Sequence[Extent]) -> list[Extent]:
    return [prod(shape[k + 1 :]) for k in range(len(shape))]
