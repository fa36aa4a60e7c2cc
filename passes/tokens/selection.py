"""Which part of a value is meant: a selection per axis, and what one costs to compute.

A `Box` maps axes to selections; an axis that it does not name is whole, so the empty box is the
whole value. Positions count from the front where the extent is known, else they may be negative and
count from the end.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from ...graph import Dim, Op, Shape, Value

UNKNOWN_EXTENT = 1024
"""What a symbolic extent counts as when two ways to compute a value are compared."""
KEPT_SHARE = 7 / 8
"""Positions that are more than this share of an axis count as the whole: cutting costs a copy."""


@dataclass(frozen=True)
class Positions:
    """Fixed positions of an axis, in order and without repeats.

    Attributes:
        index: a range where they are consecutive.
    """

    index: range | tuple[int, ...]

    @classmethod
    def of(cls, index: Iterable[int]) -> "Positions":
        ordered = sorted(set(index), key=lambda p: (p < 0, p))
        if ordered and ordered == list(range(ordered[0], ordered[-1] + 1)):
            return cls(range(ordered[0], ordered[-1] + 1))
        return cls(tuple(ordered))

    def __len__(self) -> int:
        return len(self.index)

    def places(self, part: "Positions") -> list[int]:
        """Where the positions of a part stand among these."""
        if isinstance(self.index, range):
            return [position - self.index.start for position in part.index]
        where = {position: k for k, position in enumerate(self.index)}
        return [where[position] for position in part.index]

    def covers(self, part: "Positions") -> bool:
        held = self.index if isinstance(self.index, range) else set(self.index)
        return all(position in held for position in part.index)


@dataclass(frozen=True, eq=False)
class Choice:
    """Positions of an axis that a top-k keeps at run time, the same number for each batch element.

    Attributes:
        indices: int64, what the top-k gives; in parts, where it chooses from a part of the axis.
        batch: the axis of `indices` that runs along the batch; None where all share one choice.
        axis: the axis of `indices` that runs along what is kept.
        extent, count: positions there are, and kept.
        ties: whether a mask keeps more than `count` positions where scores tie at the cut.
        parts: for an axis joined from several, the choice on each (None: all of it) and its extent.
        joined: those parts of a value, and their axis; what they are cut from is not read.
    """

    top: Op
    indices: Value
    batch: int | None
    axis: int
    extent: Dim
    count: Dim
    ties: bool = False
    parts: "tuple[tuple[Choice | None, Dim], ...]" = ()
    joined: "tuple[tuple[Value, int], ...]" = ()

    @property
    def tops(self) -> list[Op]:
        """The ops that choose."""
        if not self.parts:
            return [self.top]
        return [top for part, _ in self.parts if part is not None for top in part.tops]


@dataclass(frozen=True)
class Chosen:
    """The positions of a choice.

    Attributes:
        batch: the axis of the value that the choice differs along; None where all share one.
    """

    choice: Choice
    batch: int | None = None

    def __len__(self) -> int:
        return self.choice.count if isinstance(self.choice.count, int) else UNKNOWN_EXTENT // 2


Selection = Positions | Chosen
Box = Mapping[int, Selection]
WHOLE: Box = {}


def count(selection: Selection) -> Dim:
    """How many positions are selected."""
    return len(selection) if isinstance(selection, Positions) else selection.choice.count


def shape_of(shape: Shape, box: Box) -> Shape:
    """The shape of a part of a value."""
    return tuple(count(box[axis]) if axis in box else dim for axis, dim in enumerate(shape))


def normal(box: Box, shape: Shape) -> Box:
    """The box without selections that are nearly all of their axis."""
    return {axis: chosen for axis, chosen in box.items() if not _nearly_all(chosen, shape[axis])}


def _nearly_all(selection: Selection, extent: Dim) -> bool:
    if not isinstance(extent, int) or not isinstance(selection, Positions):
        return False
    return len(selection) > KEPT_SHARE * extent


def same(left: Box, right: Box) -> bool:
    """Whether two boxes are equal."""
    return dict(left) == dict(right)


def covers(whole: Box, part: Box) -> bool:
    """Whether a value computed for one box holds the other."""
    return all(axis in part and _within(chosen, part[axis]) for axis, chosen in whole.items())


def _within(held: Selection, part: Selection) -> bool:
    if isinstance(held, Positions) and isinstance(part, Positions):
        return held.covers(part)
    return held == part


def merged(boxes: Sequence[Box], shape: Shape) -> list[Box]:
    """The boxes to compute so that each given one is part of one of them, at the least cost."""
    found: list[Box] = []
    for box in boxes:
        new = normal(box, shape)
        joined = True
        while joined:
            joined = False
            for other in found:
                hull = _hull(new, other)
                if volume(hull, shape) <= volume(new, shape) + volume(other, shape):
                    found.remove(other)
                    new, joined = normal(hull, shape), True
                    break
        found.append(new)
    return found


def _hull(left: Box, right: Box) -> Box:
    """The smallest box that covers both."""
    found = {}
    for axis in left.keys() & right.keys():
        a, b = left[axis], right[axis]
        if a == b:
            found[axis] = a
        elif isinstance(a, Positions) and isinstance(b, Positions):
            found[axis] = Positions.of([*a.index, *b.index])
    return found


def volume(box: Box, shape: Shape) -> int:
    """Elements of a part of a value, as far as extents are known."""
    extents = [len(box[axis]) if axis in box else dim for axis, dim in enumerate(shape)]
    return prod(dim if isinstance(dim, int) else UNKNOWN_EXTENT for dim in extents)
