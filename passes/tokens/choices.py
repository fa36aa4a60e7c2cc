"""The choices that the top-ks of a graph make, one object each, however many masks they make."""

from collections.abc import Sequence

from ...graph import Dim, Op, Value
from ...graph.ops import (
    Cast,
    Concat,
    Expand,
    Gather,
    Identity,
    Reduce,
    Reshape,
    Slice,
    Sort,
    Squeeze,
    TopK,
    Unsqueeze,
)
from ..numbers import Number, uniform
from .selection import Choice

Parts = tuple[tuple[Choice | None, Dim], ...]


class Choices:
    """The choices found so far."""

    def __init__(self) -> None:
        self.made: dict[object, Choice] = {}

    def of(self, top: TopK, indices: Value, count: Dim | None = None) -> Choice | None:
        """The choice that a top-k makes; its scores have one axis besides the batch.

        A mask that compares with the k-th score names how many positions it means to keep.
        """
        key = (top, indices, count)
        if key in self.made:
            return self.made[key]
        shape, scores = indices.shape, top.require(0).shape
        if shape is None or scores is None or len(shape) != len(scores):
            return None
        wide = [k for k, dim in enumerate(shape) if k != top.axis and dim != 1]
        if len(wide) > 1:
            return None
        batch = wide[0] if wide else None
        kept = shape[top.axis] if count is None else count
        ties = count is not None
        made = Choice(top, indices, batch, top.axis, scores[top.axis], kept, ties)
        self.made[key] = made
        return made

    def joined(self, op: Concat, parts: Parts, first: Choice) -> Choice | None:
        """The choice on an axis joined from parts, of which some are kept whole."""
        if any(not isinstance(extent, int) for _, extent in parts[:-1]):
            return None  # where a later part begins is not known
        if len({choice.batch is None for choice, _ in parts if choice is not None}) > 1:
            return None
        if parts not in self.made:
            total = _total([extent for _, extent in parts])
            kept = _total([e if choice is None else choice.count for choice, e in parts])
            ties = any(choice is not None and choice.ties for choice, _ in parts)
            values = tuple((op.require(k), op.axis) for k in range(len(op.inputs)))
            self.made[parts] = Choice(
                first.top, first.indices, first.batch, first.axis, total, kept, ties, parts, values
            )
        return self.made[parts]


def _total(extents: Sequence[Dim]) -> Dim:
    numbers = sum(extent for extent in extents if isinstance(extent, int))
    names = [extent for extent in extents if isinstance(extent, str)]
    if not names:
        return numbers
    return "+".join([*names, *([str(numbers)] if numbers else [])])


def top_of(indices: Value) -> TopK | None:
    """The top-k whose indices a value holds, in whatever order; or the first k, if it sorts."""
    while True:
        op = indices.producer
        if isinstance(op, TopK) and indices is op.outputs[1]:
            return op
        if isinstance(op, TopK) and _sorts(op):
            indices = op.require(0)
            continue
        if not isinstance(op, Sort | Cast | Identity | Slice) or not _keeps_first(op):
            return None
        indices = op.require(0)


def _sorts(op: TopK) -> bool:
    """Whether the values of a top-k are its operand in another order."""
    shape = op.require(0).shape
    return shape is not None and op.k == shape[op.axis]


def _keeps_first(op: Op) -> bool:
    """Whether a Slice keeps the first entries of a top-k, which are the largest."""
    if not isinstance(op, Slice):
        return True
    top = op.require(0).producer
    one_axis = isinstance(top, TopK) and op.axes == (top.axis,)
    return one_axis and op.starts == (0,) and op.steps == (1,)


def kth_value(value: Value, scores: Value) -> tuple[TopK, Dim] | None:
    """The top-k over `scores` that this is the k-th value of, spread over the axis; and k."""
    op = value.producer
    while isinstance(op, Unsqueeze | Squeeze | Reshape | Expand | Identity):
        op = op.require(0).producer
    if not isinstance(op, Slice | Gather | Reduce):
        return None
    top = op.require(0).producer
    if not isinstance(top, TopK) or not top.largest or top.require(0) is not scores:
        return None
    if op.require(0) is not top.outputs[0] or top.output.shape is None:
        return None
    kth = _place(op, top.axis, top.output.shape[top.axis])
    return None if kth is None else (top, kth)


def _place(op: Slice | Gather | Reduce, axis: int, extent: Dim) -> Dim | None:
    """How many entries along the axis come up to the one that the op gives, itself included."""
    start: Number = None
    match op:
        case Reduce() if op.fn == "min" and op.axes == (axis,):
            return extent
        case Gather() if op.axis == axis:
            start = uniform(op.indices)
        case Slice() if op.axes == (axis,) and op.starts is not None and op.output.shape:
            start = op.starts[0] if op.output.shape[axis] == 1 else None
    if start is None or not (start >= 0 or isinstance(extent, int) or start == -1):
        return None
    if start < 0:
        return extent if start == -1 else int(extent) + int(start) + 1
    return int(start) + 1
