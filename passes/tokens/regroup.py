"""Selections on axes that a reshape joins or splits."""

from math import prod

from ...graph import Shape
from ...graph.shapes import AxisGroup
from .selection import Box, Chosen, Positions, Selection


def regrouped(group: AxisGroup, inside: Box, before: Shape, after: Shape) -> Box | None:
    """Selections on the result's axes of a group as selections on the operand's."""
    if len(group.before) == len(group.after) == 1:
        return {group.before[0]: inside[group.after[0]]}
    if not group.before:
        return {}
    if any(isinstance(selection, Chosen) for selection in inside.values()):
        return None
    extents = [after[axis] for axis in group.after], [before[axis] for axis in group.before]
    if any(not isinstance(dim, int) for side in extents for dim in side):
        return None
    rows, targets = ([int(dim) for dim in side] for side in extents)
    picked = [_numbers(inside.get(axis), rows[k]) for k, axis in enumerate(group.after)]
    flat = _flattened(picked, rows)
    split = _unflattened(flat, targets)
    if split is None:
        return None
    return {
        axis: Positions.of(part)
        for axis, part, extent in zip(group.before, split, targets, strict=True)
        if len(part) < extent
    }


def _numbers(selection: Selection | None, extent: int) -> list[int]:
    return list(selection.index) if isinstance(selection, Positions) else list(range(extent))


def _flattened(picked: list[list[int]], extents: list[int]) -> list[int]:
    """Positions on one axis of what a product of positions on several is."""
    flat = [0]
    for part, extent in zip(picked, extents, strict=True):
        flat = [base * extent + p for base in flat for p in part]
    return flat


def _unflattened(flat: list[int], extents: list[int]) -> list[list[int]] | None:
    """Positions on several axes, if the flat ones are a product of such."""
    left, found = flat, []
    for extent in reversed(extents):
        found.append(sorted({p % extent for p in left}))
        left = sorted({p // extent for p in left})
    found.reverse()
    return found if prod(map(len, found)) == len(flat) else None
