"""What ops that move, select, join or regroup positions read when a part of a result is wanted."""

from math import prod

from ...graph import Op
from ...graph.ops import Concat, Expand, Gather, Reshape, Slice, Split, Squeeze, Unbind, Unsqueeze
from ...graph.shapes import reshape_groups
from ..axes import carried
from ..canonical.moves import UNBOUNDED
from .demand import ALL, UNREAD, Context, Want, Wants, spread, wanted
from .regroup import regrouped
from .selection import Box, Chosen, Positions, Selection


def _fixed(selection: Selection | None, extent: int | str) -> Positions | None:
    """The positions of an axis, all of them where nothing is selected; None where unknown."""
    if isinstance(selection, Positions):
        return selection
    if selection is None and isinstance(extent, int):
        return Positions(range(extent))
    return None


def _rest(box: Box, axis: int) -> Box:
    return {k: v for k, v in box.items() if k != axis}


@wanted.register
def _(op: Slice, result: int, box: Box, context: Context) -> Wants | None:
    found = spread(op, result, {k: v for k, v in box.items() if k not in op.axes}, context)
    if found is None:
        return None
    kept: dict[int, Selection] = dict(found[0].box)
    for axis in op.axes:
        if _is_unbounded(op, axis):
            kept |= {axis: box[axis]} if axis in box else {}
            continue
        source = sliced(op, axis)
        if source is None:
            return None
        part = box.get(axis)
        if isinstance(part, Chosen) or (part is not None and min(part.index, default=0) < 0):
            return None
        taken = source.index if part is None else [source.index[p] for p in part.index]
        kept[axis] = Positions.of(taken)
    return [Want(kept), *found[1:]]


def _is_unbounded(op: Slice, axis: int) -> bool:
    """Whether a Slice takes all of an axis, whatever its extent."""
    if op.starts is None or op.ends is None or op.steps is None or op.axes.count(axis) > 1:
        return False
    k = op.axes.index(axis)
    return op.starts[k] == 0 and op.steps[k] == 1 and op.ends[k] >= UNBOUNDED


def sliced(op: Slice, axis: int) -> Positions | None:
    """The positions that a Slice takes of an axis, in ascending order; None where unknown."""
    if op.starts is None or op.ends is None or op.steps is None:
        return None
    k = op.axes.index(axis)
    start, end, step = op.starts[k], op.ends[k], op.steps[k]
    extent = op.require(0).shape[axis]  # type: ignore[index]
    if step < 1 or op.axes.count(axis) > 1:
        return None
    if isinstance(extent, int):
        return Positions.of(range(extent)[start:end:step])
    kept = op.output.shape[axis]  # type: ignore[index]
    if step != 1:
        return None
    if start < 0 and (end >= UNBOUNDED or start < end < 0):
        return Positions(range(start, min(end, 0)))
    if start >= 0 and isinstance(kept, int) and kept == end - start:
        return Positions.of(range(start, end))
    return None


@wanted.register
def _(op: Gather, result: int, box: Box, context: Context) -> Wants | None:
    """With known indices a Gather selects; with computed ones it looks up in a whole table."""
    inserted = op.indices.rank or 0
    axes = range(op.axis, op.axis + inserted)
    positions = gathered(op)
    if positions is None:
        return spread(op, result, box, context)
    if any(axis in box and not isinstance(box[axis], Positions) for axis in axes):
        return None
    if inserted > 1 and any(axis in box for axis in axes):
        return None
    found = spread(op, result, {k: v for k, v in box.items() if k not in axes}, context)
    if found is None:
        return None
    part = box.get(op.axis) if inserted == 1 else None
    if isinstance(part, Positions):
        if min(part.index, default=0) < 0:
            return None
        positions = [positions[p] for p in part.index]
    return [Want({**found[0].box, op.axis: Positions.of(positions)}), Want(read=False)]


def gathered(op: Gather) -> list[int] | None:
    """The positions that constant indices name, in their order; None where they are computed."""
    extent = None if op.x.shape is None else op.x.shape[op.axis]
    if op.indices.constant is None or prod(op.indices.constant.shape) > 1 << 16:
        return None
    if op.x.constant is not None:
        return None
    numbers = [int(n) for n in op.indices.array().reshape(-1)]
    if isinstance(extent, int):
        return [n + extent if n < 0 else n for n in numbers]
    return numbers


@wanted.register
def _(op: Split, result: int, box: Box, context: Context) -> Wants | None:
    found = spread(op, result, _rest(box, op.axis), context)
    part = _fixed(box.get(op.axis), op.sizes[result])
    if found is None or part is None or min(part.index, default=0) < 0:
        return None
    start = sum(op.sizes[:result])
    kept = Positions.of(p + start for p in part.index)
    return [Want({**found[0].box, op.axis: kept}), *found[1:]]


@wanted.register
def _(op: Unbind, result: int, box: Box, context: Context) -> Wants | None:
    found = spread(op, result, box, context)
    if found is None:
        return None
    return [Want({**found[0].box, op.axis: Positions.of([result])}), *found[1:]]


@wanted.register
def _(op: Concat, result: int, box: Box, context: Context) -> Wants | None:
    found = spread(op, result, _rest(box, op.axis), context)
    part = box.get(op.axis)
    if found is None or part is None:
        return found
    if isinstance(part, Chosen):
        return None
    cuts = pieces(op, part)
    if cuts is None:
        return None
    return [
        UNREAD if not len(cut) else Want({**want.box, op.axis: cut})
        for want, cut in zip(found, cuts, strict=True)
    ]


def pieces(op: Concat, part: Positions) -> list[Positions] | None:
    """The positions of each operand that make up some positions of the result."""
    extents = [value.shape[op.axis] for value in op.inputs if value is not None and value.shape]
    if min(part.index, default=0) < 0 or len(extents) < len(op.inputs):
        return None
    cuts, start, left = [], 0, list(part.index)
    for extent in extents:
        if not isinstance(extent, int):
            if left:
                return None
            cuts.append(Positions(range(0)))
            continue
        cuts.append(Positions.of(p - start for p in left if p < start + extent))
        left = [p for p in left if p >= start + extent]
        start += extent
    return cuts


@wanted.register
def _(op: Expand, result: int, box: Box, context: Context) -> Wants | None:
    found = spread(op, result, box, context)
    if found is None:
        return None
    for axis, dim in enumerate(op.output.shape or ()):
        own = carried(op, result, axis)
        if not own and not isinstance(dim, int) and op.dims is None:
            return None
    if any(isinstance(s, Chosen) and carried(op, 0, axis) == [] for axis, s in box.items()):
        return None
    return found


@wanted.register(Reshape)
@wanted.register(Squeeze)
@wanted.register(Unsqueeze)
def _(op: Op, result: int, box: Box, context: Context) -> Wants | None:
    before, after = op.require(0).shape, op.output.shape
    assert before is not None
    assert after is not None
    if isinstance(op, Reshape) and not _restorable(op, box):
        return None
    found: dict[int, Selection] = {}
    for group in reshape_groups(before, after):
        inside = {axis: box[axis] for axis in group.after if axis in box}
        if not inside:
            continue
        moved = regrouped(group, inside, before, after)
        if moved is None:
            return None
        found.update(moved)
    for axis, selection in found.items():
        if isinstance(selection, Chosen) and selection.batch is not None:
            pairs = carried(op, result, selection.batch)
            if not pairs:
                return None
            found[axis] = Chosen(selection.choice, pairs[0][1])
    return [Want(found), *[ALL] * (len(op.inputs) - 1)]


def _restorable(op: Reshape, box: Box) -> bool:
    """Whether the target's extents can be spelled: at most one is unknown, or all are somewhere."""
    shape = op.output.shape or ()
    names = [axis for axis, dim in enumerate(shape) if isinstance(dim, str) or axis in box]
    if sum(not (axis in box and isinstance(box[axis], Positions)) for axis in names) <= 1:
        return True
    return all(carried(op, 0, axis) or op.dims is not None for axis in names)
