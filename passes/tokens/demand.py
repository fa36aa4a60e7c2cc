"""What an op reads of each operand when only a part of a result is wanted.

`wants` answers with one `Want` an operand, or with None where the op cannot compute just that part:
the result is then computed whole. A wanted part is exactly what `clone` then gives the operand.
Ops that move, select or join positions are in demand_moves.py.
"""

from dataclasses import dataclass, field, replace
from functools import singledispatch

from ...graph import Op
from ...graph.ops import Affine, Attention, Elementwise, Linear, MatMul, Softmax
from ..axes import carried
from .masks import Masks, Off
from .numbers import MASKED
from .selection import WHOLE, Box, Choice, Chosen, Positions, Selection

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
def _(op: Attention, result: int, box: Box, context: Context) -> Wants | None:
    found = spread(op, result, box, context)
    if found is None:
        return None
    keys = attended(op, box, context.masks, context.enabled)
    if keys is None:
        return None
    for index in (1, 2):
        found[index] = Want({**found[index].box, **keys})
    mask = op.operand(3)
    if mask is None or mask.shape is None:
        return found
    last = len(mask.shape) - 1
    if 2 in keys and mask.shape[last] != 1:
        found[3] = _of_mask(Want({**found[3].box, last: keys[2]}), context.masks.get(mask, {}), last)
    return found


def _of_mask(want: Want, known: dict[int, Off], last: int) -> Want:
    """The mask's part; nothing is read of a mask that lets all keys pass that are left."""
    selection, off = want.box[last], known.get(last)
    if off is None or not isinstance(selection, Chosen) or off.choice is not selection.choice:
        return want
    neutral = 0.0 if _low(off.off) else 1.0
    if off.on == neutral and not off.choice.ties:
        return Want(read=False, number=neutral)
    return want


def attended(op: Attention, box: Box, masks: Masks, enabled: Choice | None) -> Box | None:
    """Which keys the wanted queries see: a box for k and v; None where that cannot be told.

    Causal attention sees no later key. Masks drop the keys that a choice drops.
    """
    queries, keys = box.get(2), _unmasked(op, masks, enabled)
    if not op.causal:
        return keys
    if queries is None:
        return WHOLE
    if isinstance(queries, Chosen):
        return keys if keys.get(2) == Chosen(queries.choice, queries.batch) else None
    rows, columns = (op.require(k).shape[2] for k in (0, 1))  # type: ignore[index]
    if not isinstance(rows, int) or not isinstance(columns, int):
        return WHOLE if rows == columns and queries == Positions.of([-1]) else None
    if keys:
        return keys if min(queries.index) >= columns - 1 else None
    seen = Positions.of(range(min(max(queries.index) + 1, columns)))
    return {2: seen} if len(seen) < columns else WHOLE


def _unmasked(op: Attention, masks: Masks, enabled: Choice | None) -> Box:
    """The keys that the mask leaves, where it drops those that the enabled choice drops."""
    mask, k = op.operand(3), op.require(1)
    if mask is None or mask.shape is None or enabled is None:
        return WHOLE
    off = masks.get(mask, {}).get(len(mask.shape) - 1)
    if off is None or off.choice is not enabled or k.shape is None:
        return WHOLE
    masked = off.off == 0.0 if mask.dtype is not None and mask.dtype.kind == "b" else _low(off.off)
    if not masked or (off.batch is not None and len(mask.shape) != 4):
        return WHOLE
    return {2: Chosen(enabled, off.batch)}


def _low(number: float | None) -> bool:
    return number is not None and number <= MASKED


@wanted.register
def _(op: MatMul, result: int, box: Box, context: Context) -> Wants | None:
    """Where one factor is 0 at what a choice drops, along the axis summed over, so is the sum."""
    found = spread(op, result, box, context)
    if found is None or context.enabled is None:
        return found
    summed = {0: (op.require(0).rank or 0) - 1, 1: (op.require(1).rank or 0) - 2}
    for index, axis in summed.items():
        off = context.masks.get(op.require(index), {}).get(axis)
        if off is None or off.choice is not context.enabled or off.off != 0.0:
            continue
        chosen = _both(op, summed, index, off.batch, context.enabled)
        if chosen is not None:
            return [
                Want({**found[k].box, summed[k]: chosen[k]}) if k < 2 else found[k]
                for k in range(len(found))
            ]
    return found


def _both(
    op: MatMul, summed: dict[int, int], index: int, batch: int | None, choice: Choice
) -> list[Chosen] | None:
    """The choice on both factors, each with its own batch axis."""
    if batch is None:
        return [Chosen(choice)] * 2
    rank = op.output.rank or 0
    result = batch + rank - (op.require(index).rank or 0)
    pairs = dict(carried(op, 0, result) or [])
    return [Chosen(choice, pairs[k]) for k in (0, 1)] if len(pairs) == 2 else None


@wanted.register
def _(op: Softmax, result: int, box: Box, context: Context) -> Wants | None:
    """Along its own axis, a softmax may leave out what is masked out."""
    selection = box.get(op.axis)
    if selection is None:
        return spread(op, result, box, context)
    off = context.masks.get(op.require(0), {}).get(op.axis)
    rest = {axis: chosen for axis, chosen in box.items() if axis != op.axis}
    found = spread(op, result, rest, context)
    if off is None or found is None or not isinstance(selection, Chosen) or not _low(off.off):
        return None
    if off.choice is not selection.choice or off.batch != selection.batch:
        return None
    return [Want({**found[0].box, op.axis: selection}), *found[1:]]


@wanted.register
def _(op: Linear, result: int, box: Box, context: Context) -> Wants | None:
    """Features are selected by cutting the weight, where it is a constant."""
    last = (op.output.rank or 0) - 1
    features = box.get(last)
    constant = op.weight.constant is not None and (op.bias is None or op.bias.constant is not None)
    if features is not None and not (isinstance(features, Positions) and constant):
        return None
    return spread(op, result, {k: v for k, v in box.items() if k != last}, context)
