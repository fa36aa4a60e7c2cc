"""Spellings that operators outside the vocabulary share: padding, repeating, scans, extrema."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .dims import Extent
from .expressions import dtype_of, moved, widened
from .movement import cut, joined, reshaped

if TYPE_CHECKING:
    from tvm import relax

    from .emitter import Emitter


def padded(
    emitter: "Emitter",
    x: "relax.Expr",
    pads: Sequence[tuple[Extent, Extent]],
    number: float = 0.0,
    mode: str = "constant",
) -> "relax.Expr":
    """x with elements added before and after each axis; negative numbers of them cut some off.

    Modes as in torch: "constant", "reflect", "replicate", "circular".
    """
    from tvm import te, tirx

    before, dtype = emitter.extents(x), dtype_of(x)
    shape = [
        emitter.dims.simple(low + extent + high)
        for extent, (low, high) in zip(before, pads, strict=True)
    ]

    def source(i: Any, k: int) -> Any:
        place, extent = i - pads[k][0], before[k]
        if mode == "reflect":
            place = tirx.abs(place)
            return tirx.Select(place >= extent, 2 * (extent - 1) - place, place)
        if mode == "replicate":
            return tirx.max(tirx.min(place, extent - 1), 0)
        return tirx.floormod(place, extent) if mode == "circular" else place

    def compute(data: Any) -> Any:
        def element(*i: Any) -> Any:
            moves = [k for k, pair in enumerate(pads) if pair != (0, 0)]
            place = [source(j, k) if k in moves else j for k, j in enumerate(i)]
            if mode != "constant":
                return data(*place)
            tests = [tirx.all(place[k] >= 0, place[k] < before[k]) for k in moves]
            if not tests:
                return data(*place)
            return tirx.if_then_else(tirx.all(*tests), data(*place), tirx.const(number, dtype))

        return te.compute(shape, element, name="pad")

    return emitter.call_te(compute, x, name="pad")


def tiled(emitter: "Emitter", x: "relax.Expr", counts: Sequence[Extent]) -> "relax.Expr":
    """x repeated as a whole along each axis; more counts than axes add leading ones."""
    before = emitter.extents(x)
    lead = len(counts) - len(before)
    shape = [
        emitter.dims.simple(count * (before[k - lead] if k >= lead else 1))
        for k, count in enumerate(counts)
    ]

    def index(*i: Any) -> list[Any]:
        return [j % extent for j, extent in zip(i[lead:], before, strict=True)]

    return moved(emitter, "tile", x, shape, index)


def repeated_each(emitter: "Emitter", x: "relax.Expr", count: int, axis: int) -> "relax.Expr":
    """Each entry along an axis, several times over."""
    shape = emitter.extents(x)
    shape[axis] = emitter.dims.simple(shape[axis] * count)
    return moved(
        emitter, "repeat", x, shape, lambda *i: [*i[:axis], i[axis] // count, *i[axis + 1 :]]
    )


def flipped(emitter: "Emitter", x: "relax.Expr", axes: Sequence[int]) -> "relax.Expr":
    """x in reverse order along some axes."""
    shape = emitter.extents(x)
    return moved(
        emitter,
        "flip",
        x,
        shape,
        lambda *i: [shape[k] - 1 - j if k in axes else j for k, j in enumerate(i)],
    )


def rolled(
    emitter: "Emitter", x: "relax.Expr", shifts: Sequence[Extent], axes: Sequence[int]
) -> "relax.Expr":
    """x shifted along some axes, what leaves at one end coming back at the other."""
    shape, by = emitter.extents(x), dict(zip(axes, shifts, strict=True))

    def index(*i: Any) -> list[Any]:
        return [(j - by[k] + shape[k]) % shape[k] if k in by else j for k, j in enumerate(i)]

    return moved(emitter, "roll", x, shape, index)


def cumulated(
    emitter: "Emitter",
    x: "relax.Expr",
    axis: int,
    dtype: str,
    *,
    exclusive: bool = False,
    reverse: bool = False,
) -> "relax.Expr":
    """Sums of all entries up to each; without it if `exclusive`, from the end if `reverse`."""
    from tvm import relax

    wide = emitter.cast(x, widened(dtype))
    turned = flipped(emitter, wide, [axis]) if reverse else wide
    call = relax.op.cumsum(turned, axis=axis, dtype=dtype_of(wide), exclusive=exclusive)
    found = emitter.emit(call)
    return emitter.cast(flipped(emitter, found, [axis]) if reverse else found, dtype)


def extremum_at(
    emitter: "Emitter", x: "relax.Expr", axis: int | None, *, largest: bool, keepdims: bool
) -> "relax.Expr":
    """Where the largest (smallest) entry along an axis stands, the first of several: int64."""
    from tvm import relax

    if dtype_of(x) == "bool":
        x = emitter.cast(x, "int8")
    if axis is None:
        total = emitter.dims.product(emitter.extents(x))
        rank = len(emitter.extents(x))
        flat = extremum_at(
            emitter, reshaped(emitter, x, [total]), 0, largest=largest, keepdims=False
        )
        return reshaped(emitter, flat, [1] * rank) if keepdims else flat
    operator = relax.op.argmax if largest else relax.op.argmin
    return emitter.cast(emitter.emit(operator(x, axis=axis, keepdims=keepdims)), "int64")


def stacked(emitter: "Emitter", parts: "Sequence[relax.Expr]", axis: int) -> "relax.Expr":
    """Tensors of one shape along a new axis."""
    lone = []
    for part in parts:
        shape = emitter.extents(part)
        lone.append(reshaped(emitter, part, [*shape[:axis], 1, *shape[axis:]]))
    return joined(emitter, lone, axis)


def differences(emitter: "Emitter", x: "relax.Expr", axis: int) -> "relax.Expr":
    """Each entry along an axis less the one before."""
    from tvm import relax

    count = emitter.dims.simple(emitter.extents(x)[axis] - 1)
    later, earlier = (cut(emitter, x, {axis: (start, 1, count)}) for start in (1, 0))
    if dtype_of(x) == "bool":
        return emitter.emit(relax.op.not_equal(later, earlier))
    return emitter.emit(relax.op.subtract(later, earlier))
