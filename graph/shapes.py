"""Shape arithmetic that lifts and passes share: broadcasting, and which axes a reshape touches."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from math import prod

from .value import Dim, Shape


def broadcast(*shapes: Shape) -> Shape:
    """The shape of a pointwise op over operands of these shapes, numpy's rule.

    A symbolic extent wins over 1 and over another name; a number above 1 wins over a name.
    """
    rank = max(len(shape) for shape in shapes)
    padded = [(1,) * (rank - len(shape)) + tuple(shape) for shape in shapes]
    return tuple(_widest(dims) for dims in zip(*padded, strict=True))


def _widest(dims: Sequence[Dim]) -> Dim:
    numbers = [dim for dim in dims if isinstance(dim, int) and dim != 1]
    names = [dim for dim in dims if not isinstance(dim, int)]
    return (numbers or names or [1])[0]


def normal_axis(axis: int, rank: int) -> int:
    """A possibly negative axis as a position from the front."""
    return axis + rank if axis < 0 else axis


@dataclass(frozen=True)
class AxisGroup:
    """Consecutive axes of a reshape's input, and those of its result that hold the same elements.

    Either side may be empty (an axis of extent 1 that appears or vanishes).
    """

    before: tuple[int, ...]
    after: tuple[int, ...]


def reshape_groups(before: Shape, after: Shape) -> list[AxisGroup]:
    """Split a reshape into the finest independent groups of axes, left to right.

    Where symbolic extents hide the factors, what cannot be matched from either end becomes one
    group in the middle.
    """
    left, i, j = _match(before, after)
    right, di, dj = _match(before[i:][::-1], after[j:][::-1])
    n, m = len(before), len(after)
    mirrored = [
        AxisGroup(
            tuple(n - 1 - k for k in reversed(group.before)),
            tuple(m - 1 - k for k in reversed(group.after)),
        )
        for group in reversed(right)
    ]
    middle = AxisGroup(tuple(range(i, n - di)), tuple(range(j, m - dj)))
    return [*left, *([middle] if middle.before or middle.after else []), *mirrored]


def _match(before: Shape, after: Shape) -> tuple[list[AxisGroup], int, int]:
    """Groups matched from the left, and how many axes of each side they cover."""
    groups: list[AxisGroup] = []
    i = j = 0
    while i < len(before) and j < len(after):
        found = _next_group(before, after, i, j)
        if found is None:
            break
        groups.append(found)
        i, j = i + len(found.before), j + len(found.after)
    while i < len(before) and before[i] == 1 and j == len(after):
        groups.append(AxisGroup((i,), ()))
        i += 1
    while j < len(after) and after[j] == 1 and i == len(before):
        groups.append(AxisGroup((), (j,)))
        j += 1
    return groups, i, j


def _next_group(before: Shape, after: Shape, i: int, j: int) -> AxisGroup | None:
    if before[i] == after[j]:
        return AxisGroup((i,), (j,))
    if before[i] == 1:
        return AxisGroup((i,), ())
    if after[j] == 1:
        return AxisGroup((), (j,))
    for end_i, end_j in _growing(before, after, i, j):
        left, right = before[i:end_i], after[j:end_j]
        if _size(left) is not None and _size(left) == _size(right):
            return AxisGroup(tuple(range(i, end_i)), tuple(range(j, end_j)))
    return None


def _growing(before: Shape, after: Shape, i: int, j: int) -> "Sequence[tuple[int, int]]":
    """Pairs of ends to try: always widen the side whose product is smaller."""
    ends = []
    end_i, end_j = i + 1, j + 1
    for _ in count():
        left, right = _size(before[i:end_i]), _size(after[j:end_j])
        if left is None or right is None or left == right:
            break
        if left < right:
            end_i += 1
        else:
            end_j += 1
        if end_i > len(before) or end_j > len(after):
            break
        ends.append((end_i, end_j))
    return ends


def _size(dims: Shape) -> int | None:
    numbers = [dim for dim in dims if isinstance(dim, int)]
    return prod(numbers) if len(numbers) == len(dims) else None
