"""The one view of a model that every pass reads and edits: values, ops, and edit primitives.

A `Graph` wraps a program of another IR (an ExportedProgram, an ONNX model). Lifting makes one `Op`
per node and copies no weights; lowering (`graph.binding.lower`) copies every node that no pass has
edited, and writes the edited ones anew. Ops form a doubly linked list in topological order, so an
edit costs O(1) and a walk stays valid while the op it stands on is erased.
"""

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

from .binding import Binding, Compute
from .value import Constant, Op, Shape, Value

OpT = TypeVar("OpT", bound=Op)


class Graph:
    """A program in SSA form with edit primitives. See the module docstring."""

    def __init__(self, binding: Binding, name: str = "graph") -> None:
        self.binding = binding
        self.name = name
        self.inputs: list[Value] = []
        self.outputs: list[Value] = []
        self.output_names: list[str] = []
        self.pinned: set[Value] = set()
        """Values read from outside the op list (by a control-flow body): as fixed as outputs."""
        self._first: Op | None = None
        self._last: Op | None = None
        self._names: dict[str, int] = {}

    # -- reading ---------------------------------------------------------------------------------

    @property
    def ops(self) -> Iterator[Op]:
        """Every op in topological order; the current op may be erased while walking."""
        op = self._first
        while op is not None:
            if not op.erased:
                yield op
            op = op.next  # an erased op still points to what followed it

    def walk(self, kind: type[OpT]) -> Iterator[OpT]:
        """Every op of one kind, in topological order."""
        for op in self.ops:
            if isinstance(op, kind):
                yield op

    def is_output(self, value: Value) -> bool:
        """Whether something outside the op list reads the value."""
        return value in self.pinned or any(value is output for output in self.outputs)

    def only_reader(self, value: Value) -> Op | None:
        """The single op that reads `value` once, if the value is read nowhere else."""
        if len(value.uses) != 1 or self.is_output(value):
            return None
        return next(iter(value.uses))[0]

    def constants(self) -> list[Value]:
        """Every constant that something reads, in order of first use."""
        found = dict.fromkeys(v for op in self.ops for v in op.inputs if v is not None)
        found.update(dict.fromkeys(self.outputs))
        return [value for value in found if value.constant is not None]

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Execute the graph as it stands, with the IR's own reference evaluator."""
        return self.binding.run(self, inputs)

    def probe(self, outputs: Sequence[Value], inputs: Sequence[Value] | None = None) -> Compute:
        """A function from the arrays of `inputs` (the graph's by default) to those of `outputs`.

        It computes what lies between, as the graph is now, and is made once to be called often.
        Constants and inputs may be asked for too.

        Raises:
            ValueError: an output depends on a graph input that `inputs` leaves open.
        """
        return self.binding.probe(self, outputs, self.inputs if inputs is None else inputs)

    # -- editing ---------------------------------------------------------------------------------

    def fresh_name(self, hint: str) -> str:
        """A name that no value of this graph has yet."""
        count = self._names.get(hint)
        if count is None:
            self._names[hint] = 0
            return hint
        self._names[hint] = count + 1
        return self.fresh_name(f"{hint}_{count + 1}")

    def reserve(self, name: str) -> None:
        """Tell the graph that the IR already uses a name."""
        self._names.setdefault(name, 0)

    def constant(self, array: np.ndarray, name: str = "constant") -> Value:
        """A new constant value holding `array`."""
        payload = Constant.of(array)
        return Value(self.fresh_name(name), payload.shape, payload.dtype, constant=payload)

    def append(self, op: OpT) -> OpT:
        """Add an op at the end, with operands and results already in place (used by lifts)."""
        self._link(op, self._last)
        return op

    def add(
        self,
        op: OpT,
        *results: tuple[Shape | None, np.dtype | None],
        after: Op | None = None,
        before: Op | None = None,
        name: str = "",
    ) -> OpT:
        """Insert a new op after or before another (at the end by default) and make its results.

        `results` gives shape and dtype of each result.
        """
        op.name = op.name or self.fresh_name(name or op.kind.lower())
        anchor = before.prev if before is not None else after or self._last
        for position, (shape, dtype) in enumerate(results):
            hint = f"{op.name}_out" if position == 0 else f"{op.name}_out{position}"
            op.outputs.append(Value(self.fresh_name(hint), shape, dtype, producer=op))
        self._link(op, anchor)
        return op

    def prepend(self, op: OpT, *results: tuple[Shape | None, np.dtype | None]) -> OpT:
        """Insert a new op before every other one."""
        if self._first is None:
            return self.add(op, *results)
        return self.add(op, *results, before=self._first)

    def add_behind(
        self, value: Value, op: OpT, *results: tuple[Shape | None, np.dtype | None], name: str = ""
    ) -> OpT:
        """Insert a new op right behind what makes `value`; before every other one if no op does."""
        op.name = op.name or self.fresh_name(name or op.kind.lower())
        if value.producer is None:
            return self.prepend(op, *results)
        return self.add(op, *results, after=value.producer)

    def set_input(self, op: Op, index: int, value: Value | None) -> None:
        """Let one operand of `op` be `value`; absent trailing operands are filled in with None."""
        while len(op.inputs) <= index:
            op.inputs.append(None)
        old = op.inputs[index]
        if old is not None:
            old.uses.pop((op, index), None)
        op.inputs[index] = value
        if value is not None:
            value.uses[(op, index)] = None

    def update(self, op: Op, **attributes: Any) -> None:
        """Change attributes of an op; from then on it is written anew."""
        for name, value in attributes.items():
            if not hasattr(op, name):
                raise AttributeError(f"{op.kind} has no attribute {name!r}")
            setattr(op, name, value)
        op.source = None

    def replace(self, old: Value, new: Value) -> None:
        """Let every reader of `old` read `new`; a graph output keeps its name."""
        if old in self.pinned:
            raise ValueError(f"expected a value that may change, got the pinned {old.name!r}")
        self.redirect(old, new, list(old.uses))

    def redirect(self, old: Value, new: Value, readers: "Sequence[tuple[Op, int]]") -> None:
        """Let these readers of `old`, and the graph's outputs, take `new`.

        Used where `new` is computed from `old`: list the readers before adding the op.
        """
        for op, index in readers:
            self.set_input(op, index, new)
        self.outputs = [new if output is old else output for output in self.outputs]

    def renew(self, value: Value, shape: Shape) -> Value:
        """Let the producer of `value` make a value of another shape; readers keep the old one.

        The old value has no producer until its readers are moved to something else.
        """
        op = value.producer
        if op is None:
            raise ValueError(f"expected a computed value, got {value.name!r}")
        fresh = Value(self.fresh_name(value.name), shape, value.dtype, producer=op)
        op.outputs[op.outputs.index(value)] = fresh
        op.source = None
        value.producer = None
        return fresh

    def erase(self, op: Op) -> None:
        """Remove an op that nothing reads."""
        for output in op.outputs:
            if output.uses or self.is_output(output):
                raise ValueError(f"expected {op.name!r} to be unread, but {output.name!r} is read")
        for index in range(len(op.inputs)):
            self.set_input(op, index, None)
        op.erased = True
        before, after = op.prev, op.next
        if before is None:
            self._first = after
        else:
            before.next = after
        if after is None:
            self._last = before
        else:
            after.prev = before

    def prune(self, op: Op | None) -> None:
        """Erase `op` if nothing reads it, and then whatever it alone kept alive."""
        worklist = [op]
        while worklist:
            current = worklist.pop()
            if current is None or current.erased or current.effectful:
                continue
            if any(out.uses or self.is_output(out) for out in current.outputs):
                continue
            producers = [v.producer for v in current.inputs if v is not None]
            self.erase(current)
            worklist.extend(dict.fromkeys(producers))

    # -- plumbing --------------------------------------------------------------------------------

    def _link(self, op: Op, anchor: Op | None) -> None:
        following = self._first if anchor is None else anchor.next
        op.prev, op.next = anchor, following
        if anchor is None:
            self._first = op
        else:
            anchor.next = op
        if following is None:
            self._last = op
        else:
            following.prev = op
        for index, value in enumerate(op.inputs):
            if value is not None:
                value.uses[(op, index)] = None
        for output in op.outputs:
            output.producer = op
