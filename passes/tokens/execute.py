"""Carry out a plan: write the parts, put the wholes together, and drop what nobody reads then."""

import numpy as np

from ...graph import Graph, Op, Value
from ...graph.ops import Affine, Attention, Elementwise, Expand, Ref, ShapeOf
from . import clone_moves
from .choose import Cutter
from .clone import clone
from .demand import Want
from .place import Place
from .plan import Plan
from .selection import WHOLE, Box, Chosen, covers, same, shape_of

_ = clone_moves  # importing it fills the table of `clone`

Key = tuple[Value, frozenset[object]]


def execute(graph: Graph, plan: Plan) -> None:
    """Edit the graph as the plan says."""
    _Rewriter(graph, plan).run()


class _Rewriter:
    def __init__(self, graph: Graph, plan: Plan) -> None:
        self.graph, self.plan = graph, plan
        self.place = Place(graph)
        self.cutter = Cutter(self.place)
        self.parts: dict[Key, Value] = {}

    def run(self) -> None:
        ops = self.plan.ops
        self._prepare()
        for op in ops:
            self._settle(op)
            for result, value in enumerate(op.outputs):
                for box, reads in self.plan.reads.get((op, result), ()):
                    self._write(op, result, value, box, reads)
        for op in ops:
            self._retarget(op)
        for op in reversed(ops):
            if not op.erased:
                self.graph.prune(op)

    def _prepare(self) -> None:
        """Compute the indices of the choice right after what they need."""
        choice = self.plan.context.enabled
        if choice is not None:
            self.place.cursor = self.plan.after
            self.cutter.indices.of(choice)

    def _settle(self, op: Op) -> None:
        """New ops stand where the old one does, but not before the indices are known."""
        self.place.before = None if self.plan.is_early(op) else op

    def _write(self, op: Op, result: int, value: Value, box: Box, reads: list[Want]) -> None:
        spread = self.plan.spreads.get(value)
        if not box and spread is not None:
            return  # put together once its part is known
        if not box and not self._must_rebuild(op, reads):
            return
        parts = [self._operand(op, index, want) for index, want in enumerate(reads)]
        new = clone(op, result, box, parts, reads, self.place)
        if box:
            self.parts[self._key(value, box)] = new
        else:
            self._replace(value, new)
        if spread is not None and same(box, spread.box):
            self._put_together(op, value, new)

    def _put_together(self, op: Op, value: Value, part: Value) -> None:
        """The base with the part in it, for those who read the whole."""
        spread = self.plan.spreads[value]
        ((axis, chosen),) = spread.box.items()
        assert isinstance(chosen, Chosen)
        base = self._part(op.require(spread.base), WHOLE)
        whole = self.cutter.put(base, axis, chosen, self._wide(part, value, spread.box), op.name)
        self._replace(value, whole)
        self.parts[self._key(whole, spread.box)] = part

    def _replace(self, old: Value, new: Value) -> None:
        """Readers that are not planned read the new value, and so do later parts of the old one."""
        self.graph.replace(old, new)
        self.parts[self._key(old, WHOLE)] = new

    def _must_rebuild(self, op: Op, reads: list[Want]) -> bool:
        """Whether an operand is no longer there whole."""
        return any(
            not self.plan.has_whole(value)
            for value, want in zip(op.inputs, reads, strict=True)
            if value is not None
        )

    # -- parts -----------------------------------------------------------------------------------

    def _operand(self, op: Op, index: int, want: Want) -> Value | None:
        value = op.operand(index)
        if value is None or not want.read:
            return None
        part = self._part(value, want.box)
        if want.lookup:
            part = self.cutter.lookup(part, op.output.rank or 0, want.lookup)
        tolerant = isinstance(op, Elementwise | Affine) or (
            isinstance(op, Attention) and index == 3
        )
        return part if tolerant or want.lookup else self._wide(part, value, want.box)

    def _part(self, value: Value, box: Box) -> Value:
        key = self._key(value, box)
        if key in self.parts:
            return self.parts[key]
        if not box:
            return value
        held = self._holder(value, box)
        source = self._part(value, held)
        self.parts[key] = self.cutter.cut(source, held, box)
        return self.parts[key]

    def _holder(self, value: Value, box: Box) -> Box:
        """The version of a value that a part is cut from."""
        versions = self.plan.versions.get(value, [WHOLE])
        held = [version for version in versions if version and covers(version, box)]
        return held[0] if held else WHOLE

    def _wide(self, part: Value, value: Value, box: Box) -> Value:
        """A part that is thin along the batch, at its full extents."""
        shape = shape_of(value.shape or (), box)
        if part.shape == shape or value.shape is None:
            return part
        inputs: list[Value | None] = [part]
        dims: list[int | Ref] = [dim if isinstance(dim, int) else -1 for dim in shape]
        for axis, (own, dim) in enumerate(zip(part.shape or (), shape, strict=True)):
            if own != dim and isinstance(dim, str):
                inputs.append(self._batch_extent())
                dims[axis] = Ref(len(inputs) - 1)
        wide = Expand(inputs=inputs, dims=tuple(dims))
        return self.place.add(wide, shape, part.dtype, f"{part.name}_wide")

    def _batch_extent(self) -> Value:
        """How many batch elements there are; what a choice is looked up for differs along them."""
        choice = self.plan.context.enabled
        assert choice is not None, "only a choice can be thin along the batch"
        asked = ShapeOf(inputs=[self.cutter.indices.of(choice)], axes=(0,), scalar=True)
        return self.place.add(asked, (), np.dtype(np.int64), "batch")

    def _key(self, value: Value, box: Box) -> Key:
        return value, frozenset(box.items())

    # -- what asks for extents only --------------------------------------------------------------

    def _retarget(self, op: Op) -> None:
        for value in op.outputs:
            if self.plan.has_whole(value):
                continue
            for reader in [r for r in value.readers if isinstance(r, ShapeOf)]:
                self._answer(reader, value)

    def _answer(self, reader: ShapeOf, value: Value) -> None:
        """Extents that are known, or that a part has too."""
        shape, version = value.shape or (), self.plan.versions[value][0]
        if all(isinstance(shape[axis], int) for axis in reader.axes):
            numbers = np.array([shape[axis] for axis in reader.axes], np.int64)
            known = self.graph.constant(
                numbers.reshape(()) if reader.scalar else numbers, "extents"
            )
            self.graph.replace(reader.output, known)
            self.graph.prune(reader)
        else:
            self.graph.set_input(reader, 0, self._part(value, version))
