"""Give an operand of an attention a path of its own.

The scores of all tokens are needed before any can be left out. So the keys are computed apart from
the queries and values with which a fused projection makes them, which then are computed for the
kept tokens alone.
"""

from ...graph import Graph, Op, Value
from ...graph.ops import Linear, Opaque
from ...graph.value import own_fields
from ..tokens.demand import Context
from ..tokens.execute import execute
from ..tokens.plan import SELECTING, plan, positions
from .build import Builder
from .layers import Layer

QUERY, KEY = 0, 1


def path(layer: Layer, index: int) -> list[Op]:
    """The ops by which an operand of the attention is computed from the base or a Linear's result.

    In no order; the Linears are among them.
    """
    seen: dict[Op, None] = {}
    worklist = [layer.attention.require(index)]
    while worklist:
        value = worklist.pop()
        op = value.producer
        if value is layer.base or op is None or op in seen:
            continue
        seen[op] = None
        if not isinstance(op, Linear):
            worklist += [v for v in op.inputs if v is not None]
    inside: set[Op] = set()
    reached = [op for op in seen if isinstance(op, Linear) or layer.base in op.inputs]
    while reached:  # what no token goes into, such as a table of angles, stays shared
        op = reached.pop()
        if op in seen and op not in inside:
            inside.add(op)
            reached += [reader for value in op.outputs for reader in value.readers]
    return [op for op in seen if op in inside]


def can_copy(layer: Layer, index: int) -> bool:
    """Whether all of `path` can be written a second time."""
    return not any(isinstance(op, Opaque) for op in path(layer, index))


def own_path(build: Builder, index: int) -> Value:
    """An operand of the attention, computed by ops that nothing else reads."""
    graph, attention, ops = build.graph, build.layer.attention, path(build.layer, index)
    value = attention.require(index)
    uses = [use for op in ops for result in op.outputs for use in result.uses]
    if all(reader in ops or (reader, k) == (attention, index) for reader, k in uses):
        return value
    copies = _copied(graph, ops)
    graph.set_input(attention, index, copies[value])
    for op in ops:
        graph.prune(op)
    narrow(graph, [*ops, *_makers(copies)])
    return attention.require(index)


def first_query(build: Builder) -> tuple[Value, list[Op]]:
    """The query of the first token; `narrow` is still to be called on the ops that make it."""
    graph, ops = build.graph, path(build.layer, QUERY)
    copies = _copied(graph, ops)
    query = build.first(copies[build.layer.attention.require(QUERY)], 2)
    return query, [*_makers(copies), *_makers({query: query})]


def _copied(graph: Graph, ops: list[Op]) -> dict[Value, Value]:
    """Copies of ops, each behind its original, by the value that a result is a copy of."""
    order = positions(graph)
    found: dict[Value, Value] = {}
    for op in sorted(ops, key=order.__getitem__):
        inputs = [None if v is None else found.get(v, v) for v in op.inputs]
        copy = type(op)(inputs=inputs, scope=op.scope, **own_fields(op))
        results = [(value.shape, value.dtype) for value in op.outputs]
        graph.add(copy, *results, after=op, name=op.name)
        found.update(zip(op.outputs, copy.outputs, strict=True))
    return found


def _makers(values: dict[Value, Value]) -> list[Op]:
    return list(dict.fromkeys(v.producer for v in values.values() if v.producer is not None))


def narrow(graph: Graph, ops: list[Op]) -> None:
    """Let ops compute just what is read of them, where some select."""
    seeds = [op for op in ops if isinstance(op, SELECTING) and not op.erased]
    execute(graph, plan(graph, positions(graph), seeds, Context()))
