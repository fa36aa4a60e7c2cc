"""Apply selections: cut a part out of a value, take the rows that a choice keeps, put them back."""

import numpy as np

from ...graph import Dim, Graph, Op, Shape, Value
from ...graph.ops import (
    Cast,
    Concat,
    Elementwise,
    Expand,
    Gather,
    Put,
    Ref,
    ShapeOf,
    Slice,
    Sort,
    Squeeze,
    Take,
    Transpose,
    Unsqueeze,
)
from ..triangles import sides, triangle
from .clone import Place
from .selection import Box, Choice, Chosen, Positions, Selection, shape_of

INT64 = np.dtype(np.int64)
END = np.iinfo(np.int64).max


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
        for part, extent in choice.parts:
            if part is None:
                found.append(self._all(start, extent, choice, some))
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

    def _all(self, start: int, extent: Dim, choice: Choice, like: Value) -> Value:
        """Every position of a part, the same for each batch element."""
        shape = like.shape or ()
        batch = shape[0] if len(shape) > 1 else None
        assert isinstance(extent, int)
        numbers = np.arange(start, start + extent, dtype=INT64)
        if batch is None:
            return self.place.graph.constant(numbers, "rest")
        if isinstance(batch, int):
            return self.place.graph.constant(np.tile(numbers, (batch, 1)), "rest")
        table = self.place.graph.constant(numbers[None], "rest")
        asked = ShapeOf(inputs=[like], axes=(0,), scalar=True)
        rows = self.place.add(asked, (), INT64, "batch")
        spread = Expand(inputs=[table, rows], dims=(Ref(1), extent))
        return self.place.add(spread, (batch, extent), INT64, "rest")


class Cutter:
    """Cuts parts out of values and puts rows back."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.graph: Graph = place.graph
        self.indices = Indices(place)

    def cut(self, value: Value, held: Box, box: Box) -> Value:
        """The part `box` out of a value that holds the part `held`."""
        triangle = self._triangle(value, box) if not held else None
        if triangle is not None:
            return triangle
        for axis in sorted(box):
            selection = box[axis]
            if axis not in held:
                value = self._selected(value, axis, selection)
            elif held[axis] != selection:
                have = held[axis]
                assert isinstance(have, Positions)
                assert isinstance(selection, Positions)
                value = self._positions(value, axis, have.places(selection))
        return value

    def _selected(self, value: Value, axis: int, selection: Selection) -> Value:
        if isinstance(selection, Chosen):
            return self.take(value, axis, selection)
        return self._positions(value, axis, list(selection.index))

    def _positions(self, value: Value, axis: int, places: list[int]) -> Value:
        assert value.shape is not None
        shape = shape_of(value.shape, {axis: Positions(tuple(places))})
        if value.constant is not None:
            rows = np.take(value.array(), places, axis)
            return self.graph.constant(rows, f"{value.name}_part")
        op: Op
        if places == list(range(places[0], places[0] + len(places))):
            end = places[-1] + 1 or END
            op = Slice(inputs=[value], axes=(axis,), starts=(places[0],), ends=(end,), steps=(1,))
        else:
            rows = np.array(places, INT64)
            extent = value.shape[axis]
            if isinstance(extent, int):
                rows = np.where(rows < 0, rows + extent, rows)
            op = Gather(inputs=[value, self.graph.constant(rows, "positions")], axis=axis)
        return self.place.add(op, shape, value.dtype, f"{value.name}_part")

    def take(self, value: Value, axis: int, chosen: Chosen) -> Value:
        """The rows of a value that a choice keeps."""
        assert value.shape is not None
        indices, shape = self.indices.of(chosen.choice), shape_of(value.shape, {axis: chosen})
        op: Op = Gather(inputs=[value, indices], axis=axis)
        if chosen.batch is not None:
            op = Take(inputs=[value, indices], axis=axis, batch=chosen.batch)
        return self.place.add(op, shape, value.dtype, f"{value.name}_kept")

    def lookup(self, value: Value, rank: int, axes: "tuple[tuple[int, Chosen], ...]") -> Value:
        """The rows that choices keep of a value that is the same for each batch element.

        The value broadcasts to a result of this rank, and the axes are the result's.
        """
        value = self._aligned(value, rank)
        triangle = self._triangle(value, dict(axes))
        if triangle is not None:
            return triangle
        (axis, chosen), *rest = axes
        value = self._first_lookup(value, axis, chosen)
        for axis, chosen in rest:
            value = self.take(value, axis, chosen)
        return value

    def _aligned(self, value: Value, rank: int) -> Value:
        missing = rank - (value.rank or 0)
        if not missing:
            return value
        shape = (1,) * missing + (value.shape or ())
        if value.constant is not None:
            return self.graph.constant(value.array().reshape(shape), f"{value.name}_wide")
        wide = Unsqueeze(inputs=[value], axes=tuple(range(missing)))
        return self.place.add(wide, shape, value.dtype, f"{value.name}_wide")

    def _first_lookup(self, value: Value, axis: int, chosen: Chosen) -> Value:
        """[.., 1 at batch, .., n at axis, ..] to [.., B, .., k, ..]."""
        shape, batch = value.shape, chosen.batch
        assert shape is not None
        assert batch is not None
        indices = self.indices.of(chosen.choice)
        thin = (*shape[:batch], *shape[batch + 1 :])
        name = f"{value.name}_kept"
        value = self.place.add(Squeeze(inputs=[value], axes=(batch,)), thin, value.dtype, name)
        own = axis - (axis > batch)
        rows = (*thin[:own], *(indices.shape or ()), *thin[own + 1 :])
        gather = Gather(inputs=[value, indices], axis=own)
        value = self.place.add(gather, rows, value.dtype, name)
        perm = [k for k in range(len(rows)) if k != own]
        perm.insert(batch, own)
        if perm == sorted(perm):
            return value
        final: Shape = tuple(rows[k] for k in perm)
        return self.place.add(
            Transpose(inputs=[value], perm=tuple(perm)), final, value.dtype, name
        )

    def put(self, base: Value, axis: int, chosen: Chosen, updates: Value, name: str) -> Value:
        """The base with the rows that a choice keeps replaced."""
        indices = self.indices.of(chosen.choice)
        batch = chosen.batch
        if batch is None:
            return self._put_shared(base, axis, indices, updates, name)
        op = Put(inputs=[base, indices, updates], axis=axis, batch=batch)
        return self.place.add(op, base.shape or (), base.dtype, name)

    def _put_shared(
        self, base: Value, axis: int, indices: Value, updates: Value, name: str
    ) -> Value:
        """`put` where all share one choice: there is one batch element, or no batch axis."""
        one = (1, *(indices.shape or ()))
        indices = self.place.add(Unsqueeze(inputs=[indices], axes=(0,)), one, INT64, "kept_row")
        shape = base.shape or ()
        batch = next((k for k, dim in enumerate(shape) if k != axis and dim == 1), None)
        if batch is not None:
            op: Op = Put(inputs=[base, indices, updates], axis=axis, batch=batch)
            return self.place.add(op, shape, base.dtype, name)
        wide = [
            self.place.add(Unsqueeze(inputs=[v], axes=(0,)), (1, *(v.shape or ())), v.dtype, name)
            for v in (base, updates)
        ]
        op = Put(inputs=[wide[0], indices, wide[1]], axis=axis + 1, batch=0)
        whole = self.place.add(op, (1, *shape), base.dtype, name)
        return self.place.add(Squeeze(inputs=[whole], axes=(0,)), shape, base.dtype, name)

    def _triangle(self, value: Value, box: Box) -> Value | None:
        """A causal mask over positions in ascending order is one over any of them.

        A constant whose last two axes tell only whether the column is after the row, cut to the
        same choice on both, is the same kind of constant, whatever is chosen.
        """
        rank = value.rank or 0
        rows, columns = box.get(rank - 2), box.get(rank - 1)
        if value.constant is None or rank < 2 or len(box) != 2:
            return None
        if not isinstance(rows, Chosen) or rows != columns or not isinstance(rows.choice.count, int):
            return None
        found = sides(value)
        if found is None:
            return None
        cut = triangle(found, rows.choice.count).astype(value.dtype)
        return self.graph.constant(cut, f"{value.name}_causal")
