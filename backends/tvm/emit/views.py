"""Where the elements of a value that was only moved come from.

A kernel that reads q as [B, H, S, D] need not wait for a transpose, a split and a reshape to write
it: it reads the elements from where they were computed. A view follows such ops up to the value
they start from.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from ....graph import Dim, Op, Shape, Value
from ....graph.ops import (
    Expand,
    Gather,
    Identity,
    Reshape,
    Slice,
    Split,
    Squeeze,
    Transpose,
    Unbind,
    Unsqueeze,
)
from ....graph.shapes import reshape_groups

if TYPE_CHECKING:
    from .emitter import Emitter

Index = list[Any]
Step = Callable[["Emitter", Index], Index]
"""From the index of an element to that of where it comes from."""


@dataclass(frozen=True)
class View:
    """A value as elements of another.

    Attributes:
        base: the value that they are elements of.
        steps: from the value's index to the base's, one for each op between them.
        between: the values on the way, the first included, the base not.
    """

    base: Value
    steps: tuple[Step, ...] = ()
    between: tuple[Value, ...] = ()

    def index(self, emitter: "Emitter", index: Sequence[Any]) -> Index:
        """The base's index of the element that the value has at `index`."""
        found = list(index)
        for step in self.steps:
            found = step(emitter, found)
        return found


def view_of(value: Value) -> View:
    """The longest view of a value."""
    view = View(value)
    while view.base.producer is not None:
        step = _step(view.base.producer, view.base)
        if step is None:
            break
        base = view.base.producer.require(0)
        view = View(base, (*view.steps, step), (*view.between, view.base))
    return view


def _step(op: Op, value: Value) -> Step | None:
    """How an element of one result of an op is found in its operand; None for other ops."""
    if op.operand(0) is None or op.require(0).constant is not None:
        return None
    maker = STEPS.get(type(op))
    return None if maker is None else maker(op, value)


def _transpose(op: Transpose, value: Value) -> Step:
    order = [op.perm.index(axis) for axis in range(len(op.perm))]
    return lambda _, index: [index[k] for k in order]


def _squeeze(op: Squeeze, value: Value) -> Step:
    def step(_: "Emitter", index: Index) -> Index:
        found = list(index)
        for axis in sorted(op.axes):
            found.insert(axis, 0)
        return found

    return step


def _unsqueeze(op: Unsqueeze, value: Value) -> Step:
    return lambda _, index: [i for k, i in enumerate(index) if k not in op.axes]


def _slice(op: Slice, value: Value) -> Step | None:
    if op.starts is None or op.steps is None or min((*op.starts, *op.steps), default=0) < 0:
        return None
    scaled = dict(zip(op.axes, zip(op.starts, op.steps, strict=True), strict=True))

    def step(_: "Emitter", index: Index) -> Index:
        return [
            i * scaled[axis][1] + scaled[axis][0] if axis in scaled else i
            for axis, i in enumerate(index)
        ]

    return step


def _split(op: Split, value: Value) -> Step:
    start = sum(op.sizes[: op.outputs.index(value)])
    return lambda _, index: [i + start if k == op.axis else i for k, i in enumerate(index)]


def _unbind(op: Unbind, value: Value) -> Step:
    position = op.outputs.index(value)
    return lambda _, index: [*index[: op.axis], position, *index[op.axis :]]


def _expand(op: Expand, value: Value) -> Step | None:
    before, after = op.require(0).shape, value.shape
    if before is None or after is None:
        return None
    lead = len(after) - len(before)
    repeated = [old == 1 != new for old, new in zip(before, after[lead:], strict=True)]
    if any(
        old != new and not r for old, new, r in zip(before, after[lead:], repeated, strict=True)
    ):
        return None
    return lambda _, index: [0 if r else i for r, i in zip(repeated, index[lead:], strict=True)]


def _gather(op: Gather, value: Value) -> Step | None:
    """One entry along an axis, which is dropped."""
    index, shape = op.indices, op.x.shape
    if index.constant is None or index.shape != () or shape is None:
        return None
    position, extent = int(index.array()), shape[op.axis]
    if position < 0:
        if not isinstance(extent, int):
            return None
        position += extent
    return lambda _, i: [*i[: op.axis], position, *i[op.axis :]]


def _reshape(op: Reshape, value: Value) -> Step | None:
    before, after = op.require(0).shape, value.shape
    groups = None if before is None or after is None else _groups(before, after)
    if groups is None:
        return None

    def step(emitter: "Emitter", index: Index) -> Index:
        found: Index = []
        for old, new in groups:
            extents = [emitter.dims(dim) for dim in new]
            flat: Any = 0
            for extent, i in zip(extents, index[: len(new)], strict=True):
                flat = flat * extent + i
            index = index[len(new) :]
            found += _unflattened(flat, [emitter.dims(dim) for dim in old])
        return found

    return step


def _unflattened(flat: Any, extents: Sequence[Any]) -> Index:
    """The index in a shape of the element at one position of it."""
    from tvm import tirx

    found: Index = []
    for place in range(len(extents) - 1, 0, -1):
        found.insert(0, tirx.floormod(flat, extents[place]))
        flat = tirx.floordiv(flat, extents[place])
    return [flat, *found] if extents else found


def _groups(before: Shape, after: Shape) -> list[tuple[list[Dim], list[Dim]]] | None:
    """The extents of both shapes in groups of as many elements; None where they do not line up."""
    groups = [
        ([before[k] for k in group.before], [after[k] for k in group.after])
        for group in reshape_groups(before, after)
    ]
    return groups if all(_count(old) == _count(new) for old, new in groups) else None


def _count(dims: Sequence[Dim]) -> tuple[int, list[str]]:
    """The number of elements: the product of the numbers, and the names."""
    numbers = prod(dim for dim in dims if isinstance(dim, int))
    return numbers, sorted(dim for dim in dims if isinstance(dim, str))


STEPS: dict[type[Op], Callable[[Any, Value], Step | None]] = {
    Expand: _expand,
    Gather: _gather,
    Identity: lambda op, value: lambda _, index: index,
    Reshape: _reshape,
    Slice: _slice,
    Split: _split,
    Squeeze: _squeeze,
    Transpose: _transpose,
    Unbind: _unbind,
    Unsqueeze: _unsqueeze,
}
