"""Bounds of slices: where they start, their step, and how many elements they hold."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ....graph import Value
from ....graph.ops import Slice
from .dims import Dims, Extent, Unknown

if TYPE_CHECKING:
    from .emitter import Emitter

Bounds = tuple[Extent, int, Extent]
"""Start, step and count."""
FAR = 1 << 31
"""A bound from here on is beyond any extent."""


def slice_bounds(
    emitter: "Emitter", op: Slice
) -> Iterator[tuple[int, Extent | None, Extent | None, int]]:
    """Axis, start, end and step of each restriction; None for a bound that is not given.

    Raises:
        Unknown: a bound depends on the elements of the inputs.
    """
    if op.starts is not None and op.ends is not None:
        yield from zip(op.axes, op.starts, op.ends, op.steps or (1,) * len(op.axes), strict=True)
        return
    if hasattr(op.source, "kwargs"):
        start, end, step = (_torch_bound(emitter, op, k) for k in (2, 3, 4))
        yield op.axes[0], start, end, _step(1 if step is None else step)
        return
    starts, ends = (emitter.contents.extents(op.require(k)) for k in (1, 2))
    given = op.operand(4)
    steps = [1] * len(op.axes) if given is None else emitter.contents.extents(given)
    yield from zip(op.axes, starts, ends, map(_step, steps), strict=True)


def clamped(
    dims: Dims, start: Extent | None, end: Extent | None, step: int, extent: Extent
) -> Bounds:
    """The bounds of a slice of an axis, as Python takes them."""
    if step < 0:
        first = _within(dims, extent - 1 if start is None else start, extent, -1, extent - 1)
        last = -1 if end is None else _within(dims, end, extent, -1, extent - 1)
        count = dims.simple((first - last - step - 1) // -step)
    else:
        first = _within(dims, 0 if start is None else start, extent, 0, extent)
        last = _within(dims, FAR if end is None else end, extent, 0, extent)
        count = dims.simple((last - first + step - 1) // step)
    return first, step, dims.largest(count, 0)


def _within(dims: Dims, bound: Extent, extent: Extent, low: Extent, high: Extent) -> Extent:
    """A bound that may count from the end, moved between `low` and `high`."""
    if isinstance(bound, int):
        if bound >= FAR:
            return high
        if bound <= -FAR:
            return low
    if dims.at_least(-1, bound) is True:
        bound = dims.simple(bound + extent)
    elif dims.at_least(bound, 0) is None:
        bound = _from_front(bound, extent)
    return dims.smallest(dims.largest(bound, low), high)


def _from_front(bound: Any, extent: Extent) -> Extent:
    """A bound that only the run tells the sign of."""
    from tvm import tirx

    return tirx.Select(bound < 0, bound + extent, bound)


def _step(step: Extent) -> int:
    if not isinstance(step, int):
        raise Unknown(f"step {step}")
    return step


def _torch_bound(emitter: "Emitter", op: Slice, position: int) -> Extent | None:
    """An argument of `aten.slice(x, dim, start, end, step)`: a number, or one of the operands."""
    arguments: Any = op.source.args
    name = ("start", "end", "step")[position - 2]
    found = arguments[position] if position < len(arguments) else op.source.kwargs.get(name)
    if found is None or isinstance(found, int):
        return found
    value = next(v for v in op.inputs if isinstance(v, Value) and v.origin is found)
    (extent,) = emitter.contents.extents(value)
    return extent
