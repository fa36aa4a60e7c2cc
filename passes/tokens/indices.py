"""The positions that a choice keeps, as one tensor of indices in ascending order."""

import numpy as np

from ...graph import Dim, Value
from ...graph.ops import (
    Cast,
    Concat,
    Elementwise,
    Expand,
    Range,
    Ref,
    ShapeOf,
    Slice,
    Sort,
    Squeeze,
    Transpose,
    Unsqueeze,
)
from .place import Place
from .selection import Choice

INT64 = np.dtype(np.int64)


class Indices:
    """The kept positions of every choice that a rewrite uses, in ascending order."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.made: dict[Choice, Value] = {}

    def of(self, choice: Choice) -> Value:
        """int64 [B, k], or [k] where all share one choice."""
        if choice not in self.made:
            self.made[choice] = self._joined(choice) if choice.parts else self._single(choice)
        return self.made[choice]

    def _single(self, choice: Choice) -> Value:
        """A top-k's own indices, on the axes that are wanted, sorted."""
        value, shape = choice.indices, choice.indices.shape
        assert shape is not None
        if value.dtype != INT64:
            value = self.place.add(Cast(inputs=[value], dtype=INT64), shape, INT64, "kept")
        if shape[choice.axis] != choice.count:
            assert isinstance(choice.count, int)
            first = Slice(
                inputs=[value], axes=(choice.axis,), starts=(0,), ends=(choice.count,), steps=(1,)
            )
            shape = tuple(choice.count if k == choice.axis else d for k, d in enumerate(shape))
            value = self.place.add(first, shape, INT64, "kept")
        kept = [axis for axis in (choice.batch, choice.axis) if axis is not None]
        idle = tuple(axis for axis in range(len(shape)) if axis not in kept)
        if idle:
            shape = tuple(dim for axis, dim in enumerate(shape) if axis not in idle)
            value = self.place.add(Squeeze(inputs=[value], axes=idle), shape, INT64, "kept")
        if kept != sorted(kept):
            shape = shape[::-1]
            value = self.place.add(Transpose(inputs=[value], perm=(1, 0)), shape, INT64, "kept")
        return self.place.add(Sort(inputs=[value]), shape, INT64, "kept")

    def _joined(self, choice: Choice) -> Value:
        """The choices on the parts of an axis, each moved to where its part begins."""
        some = next(self.of(part) for part, _ in choice.parts if part is not None)
        start, found = 0, []
        for (part, extent), (value, axis) in zip(choice.parts, choice.joined, strict=True):
            if part is None:
                found.append(self._all(start, extent, some, value, axis))
            else:
                found.append(self._moved(self.of(part), start))
            start += extent if isinstance(extent, int) else 0
        shape = (*(some.shape or ())[:-1], choice.count)
        joined = Concat(inputs=list(found), axis=len(shape) - 1)
        return self.place.add(joined, shape, INT64, "kept")

    def _moved(self, value: Value, start: int) -> Value:
        if not start:
            return value
        offset = self.place.graph.constant(np.array(start, INT64), "start")
        moved = Elementwise(inputs=[value, offset], fn="add")
        return self.place.add(moved, value.shape or (), INT64, "kept")

    def _all(self, start: int, extent: Dim, like: Value, value: Value, axis: int) -> Value:
        """Every position of a part, the same for each batch element: [n], or [B, n]."""
        rows = (like.shape or ())[:-1]
        known = [dim for dim in rows if isinstance(dim, int)]
        if isinstance(extent, int) and len(known) == len(rows):
            numbers = np.arange(start, start + extent, dtype=INT64)
            return self.place.graph.constant(np.tile(numbers, (*known, 1)), "rest")
        numbers_of = self._extent(value, axis)
        counted = self.place.add(Range(inputs=[numbers_of], start=start), (extent,), INT64, "rest")
        if not rows:
            return counted
        table = self.place.add(Unsqueeze(inputs=[counted], axes=(0,)), (1, extent), INT64, "rest")
        spread = Expand(inputs=[table, self._extent(like, 0)], dims=(Ref(1), -1))
        return self.place.add(spread, (*rows, extent), INT64, "rest")

    def _extent(self, value: Value, axis: int) -> Value:
        asked = ShapeOf(inputs=[value], axes=(axis,), scalar=True)
        return self.place.add(asked, (), INT64, "extent")
