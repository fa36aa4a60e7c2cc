"""How reads by several index tensors are spelled: one kernel each."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .dims import Extent
from .expressions import align, broadcast_shape, read

if TYPE_CHECKING:
    from tvm import relax

    from .emitter import Emitter


def inside(index: Any, extent: Extent) -> Any:
    """An index counted from the front, and within the axis whatever it is."""
    from tvm import tirx

    wrapped = tirx.Select(index < 0, index + extent, index)
    return tirx.max(tirx.min(wrapped, extent - 1), 0)


def indexed(
    emitter: "Emitter", x: "relax.Expr", indices: "Sequence[relax.Expr | None]"
) -> "relax.Expr":
    """x[i₀, :, i₂, ..] as torch and numpy have it: the indices are broadcast to one shape.

    Its axes stand where the first index does, or in front where the indexed axes are apart.
    """
    from tvm import te

    before = emitter.extents(x)
    axes = [axis for axis, index in enumerate(indices) if index is not None]
    tensors = align(emitter, *(index for index in indices if index is not None))
    chosen = broadcast_shape(emitter, tensors)
    adjacent = axes == list(range(axes[0], axes[-1] + 1))
    front = axes[0] if adjacent else 0
    kept = [axis for axis in range(len(before)) if axis not in axes]
    shape = [before[axis] for axis in kept]
    shape[front:front] = chosen

    def compute(data: Any, *positions: Any) -> Any:
        def element(*i: Any) -> Any:
            inner = i[front : front + len(chosen)]
            rest = iter([*i[:front], *i[front + len(chosen) :]])
            named = iter(positions)
            place = [
                inside(read(next(named), inner), before[axis]) if axis in axes else next(rest)
                for axis in range(len(before))
            ]
            return data(*place)

        return te.compute(shape, element, name="index")

    return emitter.call_te(compute, x, *tensors, name="index")


def gathered(
    emitter: "Emitter", x: "relax.Expr", indices: "relax.Expr", batch: int = 0
) -> "relax.Expr":
    """y[b, i] = x[b, indices[b, i]]: the last axis of `indices` [.., K] names K axes of x.

    `batch` leading axes are common to both (ONNX GatherND).
    """
    from tvm import te

    before, many = emitter.extents(x), emitter.extents(indices)
    count = many[-1]
    if not isinstance(count, int):
        raise ValueError("expected to know how many axes the indices name")
    lead = len(many) - 1
    shape = [*many[:-1], *before[batch + count :]]

    def compute(data: Any, positions: Any) -> Any:
        def element(*i: Any) -> Any:
            found = [inside(positions(*i[:lead], k), before[batch + k]) for k in range(count)]
            return data(*i[:batch], *found, *i[lead:])

        return te.compute(shape, element, name="gather_nd")

    return emitter.call_te(compute, x, indices, name="gather_nd")


def picked_along(
    emitter: "Emitter", x: "relax.Expr", indices: "relax.Expr", axis: int
) -> "relax.Expr":
    """y[.., i, ..] = x[.., indices[.., i, ..], ..] along an axis."""
    from tvm import te

    shape, extent = emitter.extents(indices), emitter.extents(x)[axis]

    def compute(data: Any, positions: Any) -> Any:
        return te.compute(
            shape,
            lambda *i: data(*i[:axis], inside(positions(*i), extent), *i[axis + 1 :]),
            name="pick",
        )

    return emitter.call_te(compute, x, indices, name="pick")
