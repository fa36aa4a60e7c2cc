"""What an op reads of each operand when only a part of a result is wanted.

`wants` answers with one `Want` an operand, or with None where the op cannot compute just that part:
the result is then computed whole. A wanted part is exactly what `clone` then gives the operand.
Attention, fused or spelled out, is in demand_attention.py; ops that move, select or join positions
are in demand_moves.py.
"""

from dataclasses import dataclass, field, replace
from functools import singledispatch

from ...graph import Op
from ...graph.ops import Affine, Elementwise, Linear
from ..axes import carried
from .off import Masks
from .selection import Box, Choice, Chosen, Positions, Selection

BROADCAST = (Elementwise, Affine)


@dataclass(frozen=True)
class Want:
    """What is read of one operand.

    Attributes:
        box: the part.
        lookup: axes on which a choice is then applied to the part, where the operand does not have
            the batch axis that the choice differs along; by the result's axis, with its selection.
        read: false where the part holds nothing.
        number: the operand is this number throughout the part, so that nothing is read.
    """

    box: Box = field(default_factory=dict)
    lookup: "tuple[tuple[int, Chosen], ...]" = ()
    read: bool = True
    number: float | None = None


UNREAD = Want(read=False)
ALL = Want()
Wants = list[Want]


@dataclass(frozen=True)
class Context:
    """What is known beside the op.

    Attributes:
        masks: what the choices of the graph make known.
        enabled: the choice whose dropped positions are not to be computed.
    """

    masks: Masks = field(default_factory=dict)
    enabled: Choice | None = None


def wants(op: Op, result: int, box: Box, context: Context) -> Wants | None:
    """What computing `box` of a result reads of the operands; see the module docstring."""
    if op.outputs[result].shape is None:
        return None
    if any(value is not None and value.shape is None for value in op.inputs):
        return None
    found = wanted(op, result, box, context)
    return None if found is None else [_exact(op, k, want) for k, want in enumerate(found)]


def _exact(op: Op, index: int, want: Want) -> Want:
    """The want without selections of every position of an axis."""
    value = op.operand(index)
    if value is None or value.shape is None or not want.box:
        return want
    shape = value.shape
    box = {a: s for a, s in want.box.items() if isinstance(s, Chosen) or len(s) != shape[a]}
    return replace(want, box=box)


@singledispatch
def wanted(op: Op, result: int, box: Box, context: Context) -> Wants | None:
    """`wants`, by kind of op."""
    return spread(op, result, box, context)


def spread(op: Op, result: int, box: Box, context: Context) -> Wants | None:
    """Every selection goes to the operands that carry its axis."""
    boxes: list[dict[int, Selection]] = [{} for _ in op.inputs]
    lookups: list[list[tuple[int, Chosen]]] = [[] for _ in op.inputs]
    for axis, selection in box.items():
        pairs = carried(op, result, axis)
        if pairs is None:
            return None
        for index, own in pairs:
            moved = _rebatched(op, result, index, selection)
            if moved is not None:
                boxes[index][own] = moved
            elif isinstance(op, BROADCAST) and isinstance(selection, Chosen):
                lookups[index].append((axis, selection))
            else:
                return None
    found = [Want(b, tuple(lookup)) for b, lookup in zip(boxes, lookups, strict=True)]
    return [_numbered(op, k, want, context) for k, want in enumerate(found)]


def _rebatched(op: Op, result: int, operand: int, selection: Selection) -> Selection | None:
    """The selection in an operand's own axes; None where it lacks the batch axis."""
    if isinstance(selection, Positions) or selection.batch is None:
        return selection
    pairs = carried(op, result, selection.batch) or []
    own = next((axis for index, axis in pairs if index == operand), None)
    return None if own is None else Chosen(selection.choice, own)


def _numbered(op: Op, index: int, want: Want, context: Context) -> Want:
    """Note where an operand is one number at all the positions that a choice keeps."""
    value = op.operand(index)
    if value is None or not isinstance(op, Elementwise):
        return want
    known = context.masks.get(value, {})
    for axis, selection in want.box.items():
        off = known.get(axis)
        if off is None or off.on is None or not isinstance(selection, Chosen):
            continue
        if off.choice is selection.choice and off.batch == selection.batch and not off.choice.ties:
            return Want(read=False, number=off.on)
    return want


@wanted.register
def _(op: Linear, result: int, box: Box, context: Context) -> Wants | None:
    """Features are selected by cutting the weight, where it is a constant."""
    last = (op.output.rank or 0) - 1
    features = box.get(last)
    constant = op.weight.constant is not None and (op.bias is None or op.bias.constant is not None)
    if features is not None and not (isinstance(features, Positions) and constant):
        return None
    return spread(op, result, {k: v for k, v in box.items() if k != last}, context)
