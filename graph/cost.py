"""What a graph costs to run: floating-point operations, and bytes of parameters and results.

All of it follows from shapes. `cost_flops` says how operations are counted. Parameter bytes are
those of the constants that are read, each once, in full (also a table of which few rows are looked
up). Activation bytes are those of the results that are written: every result of every op, but for
ops that any runtime can make a view of (reshape, squeeze, unsqueeze, identity) and extents. A
transpose, slice, split or broadcast counts, though torch makes it a view: its reader then pays.

A symbolic extent without a given size counts as 1: the numbers are then per unit of it, where they
grow in proportion, and a floor where they grow faster (`GraphCost.symbols` has the names).
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from .cost_extents import Extents, Sizes
from .cost_flops import flops_of
from .graph import Graph
from .movement_ops import Identity, Reshape, Squeeze, Unsqueeze
from .ops import Opaque, ShapeOf
from .value import Constant, Op, Value

UNWRITTEN = (Reshape, Squeeze, Unsqueeze, Identity, ShapeOf)
"""Ops whose results take no memory of their own."""


@dataclass(frozen=True)
class Cost:
    """What ops cost; costs add up.

    Attributes:
        flops: floating-point operations.
        parameter_bytes: size of the constants read.
        activation_bytes: size of the results written.
    """

    flops: int = 0
    parameter_bytes: int = 0
    activation_bytes: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.flops + other.flops,
            self.parameter_bytes + other.parameter_bytes,
            self.activation_bytes + other.activation_bytes,
        )


@dataclass(frozen=True)
class GraphCost:
    """What a graph costs.

    Attributes:
        total: of all ops; a constant that several ops read is counted once.
        ops: each op's own cost, in topological order.
        unknown: number of ops of each kind whose operations are not counted: what is outside the
            vocabulary, and what has operands or results of unknown shape.
        extents: what each symbolic extent counted as.
    """

    total: Cost
    ops: dict[Op, Cost]
    unknown: dict[str, int]
    extents: Extents = field(repr=False)

    @property
    def symbols(self) -> tuple[str, ...]:
        """Symbolic dimensions that counted as 1."""
        return tuple(self.extents.free)

    @property
    def kinds(self) -> dict[str, Cost]:
        """Cost by op kind, most operations first; shared constants count for each op."""
        found: dict[str, Cost] = {}
        for op, cost in self.ops.items():
            found[op.kind] = found.get(op.kind, Cost()) + cost
        return dict(sorted(found.items(), key=lambda item: -item[1].flops))


def cost_of(op: Op, sizes: Sizes | None = None) -> Cost:
    """What one op costs, with these numbers for symbolic dimensions."""
    return _cost(op, Extents(sizes))


def graph_cost(graph: Graph, sizes: Sizes | None = None) -> GraphCost:
    """What a graph costs, with these numbers for symbolic dimensions; linear in its ops."""
    extents = Extents(sizes)
    for value in graph.inputs:
        extents.elements(value)  # first, so that no reshape is thought to introduce their names
    costs: dict[Op, Cost] = {}
    for op in graph.ops:
        extents.learn(op)
        costs[op] = _cost(op, extents)
    flops = sum(cost.flops for cost in costs.values())
    written = sum(cost.activation_bytes for cost in costs.values())
    read = sum(payload.nbytes for payload in payloads(graph.constants()))
    unknown = Counter(op.kind for op in costs if is_unknown(op))
    return GraphCost(Cost(flops, read, written), costs, dict(unknown), extents)


def payloads(values: "Iterable[Value | None]") -> list[Constant]:
    """The payloads of those values that are constants; one that several share only once."""
    found: dict[int, Constant] = {}
    for value in values:
        payload = None if value is None else value.constant
        if payload is not None:
            found[id(payload if payload.source is None else payload.source)] = payload
    return list(found.values())


def is_unknown(op: Op) -> bool:
    """Whether the operations of `op` cannot be counted."""
    if isinstance(op, Opaque):
        return any(value.dtype is not None for value in op.outputs)
    tensors = [v for v in (*op.inputs, *op.outputs) if v is not None and v.dtype is not None]
    return not isinstance(op, ShapeOf) and any(value.shape is None for value in tensors)


def _cost(op: Op, extents: Extents) -> Cost:
    written = () if isinstance(op, UNWRITTEN) else op.outputs
    return Cost(
        flops_of(op, extents),
        sum(payload.nbytes for payload in payloads(op.inputs)),
        sum(extents.nbytes(value) for value in written),
    )
