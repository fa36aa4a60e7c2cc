"""Apply selections: cut a part out of a value, take the rows that a choice keeps, put them back."""

import numpy as np

from ...graph import Graph, Op, Shape, Value
from ...graph.ops import (
    Gather,
    Put,
    Slice,
    Squeeze,
    Take,
    Transpose,
    Unsqueeze,
)
from ..triangles import sides
from .indices import INT64, Indices
from .place import Place
from .selection import Box, Chosen, Positions, Selection, shape_of

END = np.iinfo(np.int64).max
COMPARED_BYTES = 1 << 20
"""Tables up to this size are looked up once if they are equal."""


class Cutter:
    """Cuts parts out of values and puts rows back."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.graph: Graph = place.graph
        self.indices = Indices(place)
        self.looked_up: dict[object, Value] = {}

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
        if not places:
            op = Slice(inputs=[value], axes=(axis,), starts=(0,), ends=(0,), steps=(1,))
        elif places == list(range(places[0], places[0] + len(places))):
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
        key = (_content(value), rank, axes)
        if key not in self.looked_up:
            self.looked_up[key] = self._looked_up(self._aligned(value, rank), axes)
        return self.looked_up[key]

    def _looked_up(self, value: Value, axes: "tuple[tuple[int, Chosen], ...]") -> Value:
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
        if value.constant is not None:
            return self.graph.constant(value.array()[(None,) * missing], f"{value.name}_wide")
        shape = (1,) * missing + (value.shape or ())
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
        return self.place.add(Transpose(inputs=[value], perm=tuple(perm)), final, value.dtype, name)

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

        A constant whose last two axes tell only whether the column is before or after the row, cut
        to the same choice on both, is the same kind of constant, whatever is chosen.
        """
        rank = value.rank or 0
        rows, columns = box.get(rank - 2), box.get(rank - 1)
        if rank < 2 or len(box) != 2:
            return None
        if (
            not isinstance(rows, Chosen)
            or rows != columns
            or not isinstance(rows.choice.count, int)
        ):
            return None
        found = sides(value)
        if found is None:
            return None
        cut = found.square(rows.choice.count).astype(value.dtype)
        return self.graph.constant(cut, f"{value.name}_causal")


def _content(value: Value) -> object:
    """What tells a table apart: queries and keys often have equal ones of their own."""
    payload = value.constant
    if payload is None or payload.nbytes > COMPARED_BYTES:
        return value
    return payload.shape, payload.dtype, payload.array().tobytes()
