"""Find the masks that a top-k makes, and follow what they make known of other values.

`find_masks` walks the graph once. Where a value is one known number at every position that a choice
drops, along some axis, it notes that number (`off`), and the one at the positions kept where there
is one (`on`): a mask is 0 and 1, mask·w·f(x) is 0 and unknown, a mask of scores is −∞ and 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from ...graph import Dim, Graph, Op, Value
from ...graph.ops import (
    Affine,
    Cast,
    Concat,
    Elementwise,
    Expand,
    Gather,
    Identity,
    Reduce,
    Reshape,
    Scatter,
    Slice,
    Softmax,
    Sort,
    Split,
    Squeeze,
    TopK,
    Transpose,
    Unbind,
    Unsqueeze,
)
from ..axes import carried
from .numbers import MASKED, Evaluate, Number, affine, apply, uniform
from .selection import Choice


@dataclass(frozen=True)
class Off:
    """What is known of a value along one axis.

    Attributes:
        batch: the value's axis along which the choice differs; None where all share one.
        off, on: the number at positions dropped, and kept.
    """

    choice: Choice
    batch: int | None
    off: Number
    on: Number


Known = dict[int, Off]
Masks = dict[Value, Known]

_MOVES = (Identity, Cast, Reshape, Squeeze, Unsqueeze, Transpose, Expand, Slice, Split, Unbind)


def find_masks(graph: Graph) -> Masks:
    """What the choices of the graph make known, by value and axis."""
    return _Finder().run(graph)


class _Finder:
    def __init__(self) -> None:
        self.masks: Masks = {}
        self.choices: dict[object, Choice] = {}

    def run(self, graph: Graph) -> Masks:
        for op in graph.ops:
            for index, value in enumerate(op.outputs):
                known = self._known(op, index)
                if known:
                    self.masks[value] = known
        return self.masks

    def _known(self, op: Op, result: int) -> Known:
        if isinstance(op, Scatter):
            return self._scattered(op)
        if isinstance(op, Elementwise):
            return self._threshold(op) or self._pointwise(op, partial(apply, op.fn))
        if not any(value in self.masks for value in op.inputs):
            return {}
        match op:
            case Affine():
                scaled, shifted = op.scale is not None, op.shift is not None
                return self._pointwise(op, partial(affine, scaled, shifted))
            case Concat():
                return self._joined(op)
            case Softmax():
                return self._normalised(op)
        return self._moved(op, result) if isinstance(op, _MOVES) else {}

    # -- where a choice begins -------------------------------------------------------------------

    def _choice(self, top: TopK, indices: Value, count: Dim | None = None) -> Choice | None:
        """The choice that a top-k makes; its scores have one axis besides the batch.

        A mask that compares with the k-th score names how many positions it means to keep.
        """
        key = (top, indices, count)
        if key in self.choices:
            return self.choices[key]
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
        self.choices[key] = made
        return made

    def _scattered(self, op: Scatter) -> Known:
        """One number written into another's tensor at the indices of a top-k."""
        off, top, shape = uniform(op.x), _top_of(op.indices), op.output.shape
        if off is None or top is None or op.axis != top.axis or shape != top.require(0).shape:
            return {}
        choice = self._choice(top, op.indices)
        if choice is None:
            return {}
        return {op.axis: Off(choice, choice.batch, off, uniform(op.updates))}

    def _threshold(self, op: Elementwise) -> Known:
        """Scores compared with the k-th of them."""
        kept = {"greater_equal": (0, 1), "less_equal": (1, 0)}
        dropped = {"less": (0, 1), "greater": (1, 0)}
        for table, off in ((kept, 0.0), (dropped, 1.0)):
            if op.fn in table:
                scores, cut = (op.require(index) for index in table[op.fn])
                found = _kth_value(cut, scores)
                if found is None or scores.shape != op.output.shape:
                    continue
                choice = self._choice(found[0], found[0].outputs[1], found[1])
                if choice is not None:
                    return {choice.axis: Off(choice, choice.batch, off, 1.0 - off)}
        return {}

    # -- where it goes ---------------------------------------------------------------------------

    def _pointwise(self, op: Elementwise | Affine, evaluate: Evaluate) -> Known:
        if not any(value in self.masks for value in op.inputs):
            return {}
        found: Known = {}
        for axis in range(op.output.rank or 0):
            for held in self._along(op, axis):
                pairs = [self._numbers(op, k, axis, held) for k in range(len(op.inputs))]
                off, on = (evaluate([pair[k] for pair in pairs]) for k in (0, 1))
                batch = self._batch(op, axis, held)
                if off is not None and (held.batch is None or batch is not None):
                    found[axis] = Off(held.choice, batch, off, on)
                    break
        return found

    def _along(self, op: Op, axis: int) -> list[Off]:
        """What is known of the operands along a result's axis, one entry a choice."""
        pairs = carried(op, 0, axis) or []
        held = [self.masks.get(op.require(k), {}).get(own) for k, own in pairs]
        return list({off.choice: off for off in held if off is not None}.values())

    def _numbers(self, op: Op, index: int, axis: int, held: Off) -> tuple[Number, Number]:
        value = op.operand(index)
        own = axis - ((op.output.rank or 0) - (0 if value is None else value.rank or 0))
        known = self.masks.get(value, {}).get(own) if value is not None else None
        if known is not None and known.choice is held.choice:
            return known.off, known.on
        number = uniform(value)
        return number, number

    def _batch(self, op: Op, axis: int, held: Off) -> int | None:
        """The result's axis along which the choice differs."""
        for operand, own in carried(op, 0, axis) or []:
            known = self.masks.get(op.require(operand), {}).get(own)
            if known is None or known.choice is not held.choice or known.batch is None:
                continue
            for candidate in range(op.output.rank or 0):
                if (operand, known.batch) in (carried(op, 0, candidate) or []):
                    return candidate
        return None

    def _normalised(self, op: Softmax) -> Known:
        """Where scores are masked out along the softmax's axis, probabilities are 0."""
        known = self.masks[op.require(0)].get(op.axis)
        if known is None or known.off is None or known.off > MASKED:
            return {}
        return {op.axis: Off(known.choice, known.batch, 0.0, None)}

    def _moved(self, op: Op, result: int) -> Known:
        known, found = self.masks.get(op.require(0), {}), {}
        whence = [carried(op, result, k) or [] for k in range(op.outputs[result].rank or 0)]
        place = {own: k for k, pairs in enumerate(whence) for index, own in pairs if index == 0}
        for axis, off in known.items():
            if axis in place and (off.batch is None or off.batch in place):
                batch = None if off.batch is None else place[off.batch]
                found[place[axis]] = Off(off.choice, batch, *_cast(op, off))
        return found

    def _joined(self, op: Concat) -> Known:
        found = {}
        for axis in range(op.output.rank or 0):
            if axis == op.axis:
                whole = self._composed(op)
                if whole is not None:
                    found[axis] = whole
            elif all(axis in self.masks.get(op.require(k), {}) for k in range(len(op.inputs))):
                offs = [self.masks[op.require(k)][axis] for k in range(len(op.inputs))]
                if all(off == offs[0] for off in offs):
                    found[axis] = offs[0]
        return found

    def _composed(self, op: Concat) -> Off | None:
        """Parts with a choice of their own beside parts that are kept whole."""
        values = [op.require(k) for k in range(len(op.inputs))]
        offs = [self.masks.get(value, {}).get(op.axis) for value in values]
        held = [off for off in offs if off is not None]
        if not held or len({(off.off, off.batch) for off in held}) > 1:
            return None
        extents = [None if value.shape is None else value.shape[op.axis] for value in values]
        parts = tuple(
            (None if off is None else off.choice, extent)
            for off, extent in zip(offs, extents, strict=True)
        )
        choice = self._interned(op, parts, held[0].choice)
        if choice is None:
            return None
        ons = [uniform(v) if off is None else off.on for v, off in zip(values, offs, strict=True)]
        on = ons[0] if all(number == ons[0] for number in ons) else None
        return Off(choice, held[0].batch, held[0].off, on)

    def _interned(self, op: Concat, parts: tuple, first: Choice) -> Choice | None:  # type: ignore[type-arg]
        if any(choice is None and not isinstance(extent, int) for choice, extent in parts):
            return None
        if len({choice.batch is None for choice, _ in parts if choice is not None}) > 1:
            return None
        if parts not in self.choices:
            total = _total([extent for _, extent in parts])
            kept = _total([e if choice is None else choice.count for choice, e in parts])
            ties = any(choice is not None and choice.ties for choice, _ in parts)
            self.choices[parts] = Choice(
                first.top, first.indices, first.batch, first.axis, total, kept, ties, parts
            )
        return self.choices[parts]


def _total(extents: Sequence[int | str]) -> int | str:
    numbers = sum(extent for extent in extents if isinstance(extent, int))
    names = [extent for extent in extents if isinstance(extent, str)]
    if not names:
        return numbers
    return "+".join([*names, *([str(numbers)] if numbers else [])])


def _cast(op: Op, off: Off) -> tuple[Number, Number]:
    if isinstance(op, Cast) and op.dtype.kind == "b":
        return tuple(None if n is None else float(bool(n)) for n in (off.off, off.on))  # type: ignore[return-value]
    return off.off, off.on


def _top_of(indices: Value) -> TopK | None:
    """The top-k whose indices a value holds, in whatever order; or the first k, if it sorts."""
    while True:
        op = indices.producer
        if isinstance(op, TopK):
            return op if indices is op.outputs[1] else None
        if not isinstance(op, Sort | Cast | Identity | Slice) or not _keeps_first(op):
            return None
        indices = op.require(0)


def _keeps_first(op: Op) -> bool:
    """Whether a Slice keeps the first entries of a top-k, which are the largest."""
    if not isinstance(op, Slice):
        return True
    top = op.require(0).producer
    one_axis = isinstance(top, TopK) and op.axes == (top.axis,)
    return one_axis and op.starts == (0,) and op.steps == (1,)


def _kth_value(value: Value, scores: Value) -> tuple[TopK, Dim] | None:
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
