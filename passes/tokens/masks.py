"""Find the masks that a top-k makes, and follow what they make known of other values.

`find_masks` walks the graph once. Where a value is one known number at every position that a choice
drops, along some axis, it notes that number (`off`), and the one at the positions kept where there
is one (`on`): a mask is 0 and 1, mask·w·f(x) is 0 and unknown, a mask of scores is −∞ and 0.
"""

from functools import partial
from math import inf

from ...graph import Graph, Op
from ...graph.ops import (
    Affine,
    Cast,
    Concat,
    Elementwise,
    Expand,
    Gather,
    Identity,
    Reshape,
    Scatter,
    Slice,
    Softmax,
    Split,
    Squeeze,
    Transpose,
    Unbind,
    Unsqueeze,
)
from ..axes import carried
from ..numbers import MASKED, Evaluate, Number, affine, apply, uniform
from .choices import Choices, kth_value, top_of
from .off import Known, Masks, Off, aside, cast

_MOVES = (
    Identity,
    Cast,
    Reshape,
    Squeeze,
    Unsqueeze,
    Transpose,
    Expand,
    Slice,
    Split,
    Unbind,
    Gather,
)


COMPARED = {
    "greater_equal": (0, 0.0),
    "less_equal": (1, 0.0),
    "less": (0, 1.0),
    "greater": (1, 1.0),
}
"""Comparisons with the k-th score: which operand the scores are, and what a dropped one gives."""


def find_masks(graph: Graph) -> Masks:
    """What the choices of the graph make known, by value and axis."""
    return _Finder().run(graph)


class _Finder:
    def __init__(self) -> None:
        self.masks: Masks = {}
        self.choices = Choices()

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

    def _scattered(self, op: Scatter) -> Known:
        """One number written into another's tensor at the indices of a top-k."""
        off, top, shape = uniform(op.x), top_of(op.indices), op.output.shape
        if off is None or top is None or op.axis != top.axis or shape != top.require(0).shape:
            return {}
        choice = self.choices.of(top, op.indices)
        if choice is None:
            return {}
        return {op.axis: Off(choice, choice.batch, off, uniform(op.updates))}

    def _threshold(self, op: Elementwise) -> Known:
        """Scores compared with the k-th of them."""
        if op.fn not in COMPARED:
            return {}
        index, off = COMPARED[op.fn]
        scores, cut = op.require(index), op.require(1 - index)
        found = kth_value(cut, scores)
        if found is None or scores.shape != op.output.shape:
            return {}
        choice = self.choices.of(found[0], found[0].outputs[1], found[1])
        return {} if choice is None else {choice.axis: Off(choice, choice.batch, off, 1.0 - off)}

    def _pointwise(self, op: Elementwise | Affine, evaluate: Evaluate) -> Known:
        if not any(value in self.masks for value in op.inputs):
            return {}
        found: Known = {}
        for axis in range(op.output.rank or 0):
            for held in self._along(op, axis):
                off = self._evaluated(op, evaluate, axis, held)
                if off is not None:
                    found[axis] = off
                    break
        return found

    def _evaluated(
        self, op: Elementwise | Affine, evaluate: Evaluate, axis: int, held: Off
    ) -> Off | None:
        """What the op makes of what is known of its operands along one axis."""
        batch = self._batch(op, axis, held)
        if held.batch is not None and batch is None:
            return None
        operands = range(len(op.inputs))
        pairs = [self._numbers(op, k, axis, held) for k in operands]
        off, on = (evaluate([pair[k] for pair in pairs]) for k in (0, 1))
        conditions = {self._condition(op, k, axis) for k in operands} - {None}
        if len(conditions) > 1:
            return None
        given = conditions.pop() if conditions else None
        if off is None and axis == (op.output.rank or 0) - 1 and given in (None, axis - 1):
            beside = [aside(op.operand(k)) for k in operands]
            some = [p[0] if a is None else a for p, a in zip(pairs, beside, strict=True)]
            off, given = evaluate(some), axis - 1 if given is None else given
        return None if off is None else Off(held.choice, batch, off, on, given)

    def _condition(self, op: Op, index: int, axis: int) -> int | None:
        """The result's axis that an operand's number is given for."""
        value = op.operand(index)
        shift = (op.output.rank or 0) - (0 if value is None else value.rank or 0)
        known = self.masks.get(value, {}).get(axis - shift) if value is not None else None
        return None if known is None or known.given is None else known.given + shift

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
        """The result's axis along which the choice differs; None if there is not just one."""
        found = set()
        for operand, own in carried(op, 0, axis) or []:
            known = self.masks.get(op.require(operand), {}).get(own)
            if known is None or known.choice is not held.choice:
                continue
            for candidate in range(op.output.rank or 0):
                if (operand, known.batch) in (carried(op, 0, candidate) or []):
                    found.add(candidate)
        return found.pop() if len(found) == 1 else None

    def _normalised(self, op: Softmax) -> Known:
        """Where scores are masked out along the softmax's axis, probabilities are 0.

        But in a row that sees no kept key a finite mask hides nothing: a kept row sees itself.
        """
        known = self.masks[op.require(0)].get(op.axis)
        if known is None or known.off is None or known.off > MASKED:
            return {}
        given = known.given
        if known.off > -inf and given is None:
            given = op.axis - 1
        return {op.axis: Off(known.choice, known.batch, 0.0, None, given)}

    def _moved(self, op: Op, result: int) -> Known:
        known, found = self.masks.get(op.require(0), {}), {}
        whence = [carried(op, result, k) or [] for k in range(op.outputs[result].rank or 0)]
        place = {own: k for k, pairs in enumerate(whence) for index, own in pairs if index == 0}
        for axis, off in known.items():
            needed = [k for k in (axis, off.batch, off.given) if k is not None]
            if all(k in place for k in needed):
                batch, given = (None if k is None else place[k] for k in (off.batch, off.given))
                found[place[axis]] = Off(off.choice, batch, *cast(op, off), given)
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
                if all(off == offs[0] for off in offs) and offs[0].batch != op.axis:
                    found[axis] = offs[0]
        return found

    def _composed(self, op: Concat) -> Off | None:
        """Parts with a choice of their own beside parts that are kept whole."""
        values = [op.require(k) for k in range(len(op.inputs))]
        offs = [self.masks.get(value, {}).get(op.axis) for value in values]
        held = [off for off in offs if off is not None]
        if (
            not held
            or len({(off.off, off.batch, off.given) for off in held}) > 1
            or held[0].given is not None
        ):
            return None
        extents = [value.shape[op.axis] for value in values if value.shape is not None]
        if len(extents) < len(values):
            return None
        parts = tuple(
            (None if off is None else off.choice, extent)
            for off, extent in zip(offs, extents, strict=True)
        )
        choice = self.choices.joined(op, parts, held[0].choice)
        if choice is None:
            return None
        ons = [uniform(v) if off is None else off.on for v, off in zip(values, offs, strict=True)]
        on = ons[0] if all(number == ons[0] for number in ons) else None
        return Off(choice, held[0].batch, held[0].off, on)
