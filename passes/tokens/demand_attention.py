"""What kept queries read of keys and values: attention as one op, or as products and a softmax."""

from math import inf

from ...graph.ops import Attention, MatMul, Softmax
from ..axes import carried
from ..numbers import MASKED
from .demand import Context, Want, Wants, spread, wanted
from .off import Masks, Off
from .selection import WHOLE, Box, Choice, Chosen, Positions, Selection


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
        found[3] = _of_mask(
            Want({**found[3].box, last: keys[2]}), context.masks.get(mask, {}), last
        )
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
    queries, keys = box.get(2), _unmasked(op, box, masks, enabled)
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


def _unmasked(op: Attention, box: Box, masks: Masks, enabled: Choice | None) -> Box:
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
    chosen = Chosen(enabled, off.batch)
    return {2: chosen} if box.get(2) == chosen or _hides_from_all(off) else WHOLE


def _hides_from_all(off: Off) -> bool:
    """Whether dropped keys are hidden from whichever query.

    A finite mask hides nothing in a row whose keys are all masked, as causal attention may have
    before the first kept token.
    """
    finite = off.off is not None and -inf < off.off <= MASKED
    return off.given is None and not (finite and off.on != 0.0)


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
        if off.given is not None and not _is_cut(found[index].box.get(off.given), off):
            continue
        chosen = _both(op, summed, index, off.batch, context.enabled)
        if chosen is not None:
            return [
                Want({**found[k].box, summed[k]: chosen[k]}) if k < 2 else found[k]
                for k in range(len(found))
            ]
    return found


def _is_cut(selection: Selection | None, off: Off) -> bool:
    return isinstance(selection, Chosen) and selection.choice is off.choice


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
    if off.given is not None and not _is_cut(box.get(off.given), off):
        return None
    return [Want({**found[0].box, op.axis: selection}), *found[1:]]
