"""A name for what a model computes on shapes, not on weights: what its best plan depends on.

The graph is written out in a canonical form, which is then hashed. Operands, inputs and outputs are
ordered, so a walk from the outputs that visits operands first, left to right, meets every op that
matters in an order that does not depend on names or on the order of the op list. Ops and constants
are numbered as they are met, which shows what is shared; symbolic extents too.

Of a weight the form holds shape and dtype. The elements of a constant count where they steer what
is computed: numbers that stand alone, and small tensors of integers or booleans (axes, extents,
positions, masks). Two graphs have one key if and only if their forms are equal.
"""

import hashlib
import re
from collections.abc import Iterator

import numpy as np

from ...graph import Dim, Graph, Op, Value, is_float
from ...graph.ops import BatchNorm, Dequantize, Gather, MatMul, Opaque, Quantize
from ...graph.value import Shape, own_fields
from ...graph.weighted_ops import Scaled, Weighted
from .graph_literals import literals, plain

VALUES = 4096
"""Integers and booleans in a constant up to which they count."""
CODES = 64
"""The same for integers of less than 32 bits, which are weights as often as not."""
SYMBOL = re.compile(r"\?\d+|\?*[^\W\d]\w*(?!\w|\()")
"""The name of a dynamic extent within an expression such as "2*batch + floor(h/4)"."""


def graph_key(graph: Graph) -> str:
    """64 hexadecimal digits: equal for equal structure, attributes, shapes and dtypes.

    Linear in the size of the graph; no weight is read.
    """
    return hashlib.sha256(canonical_text(graph).encode()).hexdigest()


def canonical_text(graph: Graph) -> str:
    """The canonical form, one line an input, constant, op or output."""
    return "\n".join(_Form(graph).lines)


class _Form:
    """The form under way: lines so far, and what each value and extent is called in them."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.lines: list[str] = []
        self.names: dict[Value, str] = {}
        self.extents: dict[str, str] = {}
        for value in graph.inputs:
            self._name(value, "input")
        for op in self._ordered():
            self._op(op)
        for value in graph.outputs:
            self.lines.append(f"output {self._of(value)}")

    def _ordered(self) -> Iterator[Op]:
        """Every op that an output or an effect needs, operands first."""
        roots = [value.producer for value in self.graph.outputs]
        roots += [op for op in self.graph.ops if self._is_root(op)]
        met: set[Op] = set()
        for root in roots:
            yield from _operands_first(root, met)

    def _is_root(self, op: Op) -> bool:
        return op.effectful or not self.graph.pinned.isdisjoint(op.outputs)

    def _op(self, op: Op) -> None:
        operands = ["-" if v is None else self._of(v, op, i) for i, v in enumerate(op.inputs)]
        attributes = own_fields(op)
        if isinstance(op, Opaque) or None in attributes.values():
            attributes["source"] = literals(op.source, self._dims)
        inside = " ".join(f"{name}={plain(value)}" for name, value in attributes.items())
        self.lines.append(f"{type(op).__name__} {inside} ({', '.join(operands)})")
        for value in op.outputs:
            self._name(value, "result")

    def _of(self, value: Value, reader: Op | None = None, index: int = 0) -> str:
        """What a value is called; one that no op makes is entered when it is first met."""
        if value not in self.names:
            self._name(value, "free" if value.constant is None else "constant")
        if value.constant is None or (reader is not None and is_parameter(reader, index)):
            return self.names[value]
        return f"{self.names[value]}{_elements(value)}"

    def _name(self, value: Value, role: str) -> None:
        dtype = "?" if value.dtype is None else value.dtype.name
        self.names[value] = f"%{len(self.names)}"
        kept = " pinned" if value in self.graph.pinned else ""
        self.lines.append(f"{self.names[value]} {role} {dtype} {self._dims(value.shape)}{kept}")

    def _dims(self, shape: Shape | None) -> str:
        """A shape with its symbols numbered as they are met."""
        return "?" if shape is None else "[" + ", ".join(map(self._dim, shape)) + "]"

    def _dim(self, extent: Dim) -> str:
        if isinstance(extent, int):
            return str(extent)
        return SYMBOL.sub(
            lambda found: self.extents.setdefault(found[0], f"d{len(self.extents)}"), extent
        )


def _operands_first(root: Op | None, met: set[Op]) -> Iterator[Op]:
    """The ops that `root` needs and that were not met yet, then itself."""
    stack: list[tuple[Op, bool]] = [] if root is None else [(root, False)]
    while stack:
        op, is_ready = stack.pop()
        if is_ready:
            yield op
        elif op not in met:
            met.add(op)
            stack.append((op, True))
            needed = [value.producer for value in reversed(op.inputs) if value is not None]
            stack.extend((producer, False) for producer in needed if producer is not None)


def is_parameter(op: Op, index: int) -> bool:
    """Whether an operand, if it is constant, is a weight, whose elements training decides."""
    if isinstance(op, Weighted | Scaled | BatchNorm):
        return index > 0
    if isinstance(op, Gather):
        return index == 0 and op.x.is_float
    return isinstance(op, MatMul | Quantize | Dequantize)


def _elements(value: Value) -> str:
    """The elements of a constant that steers what is computed, "" for others."""
    assert value.constant is not None
    count = int(np.prod(value.constant.shape, dtype=np.int64))
    if count > _most(value.constant.dtype):
        return ""
    data = np.ascontiguousarray(value.array()).tobytes()
    return "=" + (data.hex() if len(data) <= 64 else hashlib.sha256(data).hexdigest())


def _most(dtype: np.dtype) -> int:
    if is_float(dtype) or dtype.kind not in "iub":
        return 1
    return VALUES if dtype.kind == "b" or dtype.itemsize >= 4 else CODES
