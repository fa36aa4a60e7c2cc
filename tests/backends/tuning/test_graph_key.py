"""Keys of random graphs: equal if and only if the graphs are isomorphic where it matters."""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from passel.backends.tuning.graph_key import graph_key
from passel.graph import Graph, Op, Value
from passel.graph.ops import Elementwise, Linear

FLOAT = np.dtype(np.float32)


@dataclass(frozen=True)
class Node:
    """An op of a random graph: its function, and which earlier values it reads (−1: the input)."""

    fn: str
    reads: tuple[int, ...]
    weight: int | None = None


FUNCTIONS = ("add", "mul", "sub", "relu", "exp", "linear")
UNARY = ("relu", "exp", "linear")


@st.composite
def programs(draw: Callable[..., Any]) -> tuple[Node, ...]:
    nodes: list[Node] = []
    for position in range(draw(st.integers(1, 8))):
        fn = draw(st.sampled_from(FUNCTIONS))
        values = st.integers(-1, position - 1)
        reads = draw(st.tuples(values) if fn in UNARY else st.tuples(values, values))
        weight = draw(st.integers(0, 2)) if fn == "linear" else None
        nodes.append(Node(fn, reads, weight))
    return tuple(nodes)


def build(
    nodes: tuple[Node, ...], order: random.Random | None = None, rows: int | str = 4
) -> Graph:
    """The graph of a program; `order` shuffles independent ops, names and weights' elements."""
    shuffled = order or random.Random(0)
    graph = Graph(SimpleNamespace(frontend="test"))
    names = iter(shuffled.sample(range(10_000), 100))
    x = Value(f"v{next(names)}", (rows, 8), FLOAT)
    graph.inputs.append(x)
    fill = np.random.default_rng(shuffled.randrange(1 << 30))
    weights = [graph.constant(fill.normal(size=(8, 8)).astype(FLOAT)) for _ in range(3)]
    values = {-1: x}
    waiting = list(range(len(nodes)))
    while waiting:
        ready = [n for n in waiting if all(read in values for read in nodes[n].reads)]
        chosen = shuffled.choice(ready) if order is not None else ready[0]
        waiting.remove(chosen)
        node = nodes[chosen]
        inputs: list[Value | None] = [values[read] for read in node.reads]
        op: Op = Elementwise(fn=node.fn, inputs=inputs)
        if node.fn == "linear":
            op = Linear(inputs=[*inputs, weights[node.weight]])
        op.name = f"n{next(names)}"
        graph.add(op, ((rows, 8), FLOAT))
        values[chosen] = op.output
    graph.outputs = [values[len(nodes) - 1], values[0]]
    graph.output_names = [f"out{next(names)}", f"out{next(names)}"]
    return graph


def reached(nodes: tuple[Node, ...]) -> set[int]:
    """The ops that the outputs (the last and the first op) need."""
    found, waiting = set(), [0, len(nodes) - 1]
    while waiting:
        node = waiting.pop()
        if node >= 0 and node not in found:
            found.add(node)
            waiting.extend(nodes[node].reads)
    return found


@given(programs(), st.integers(0, 1000))
def test_names_order_and_weights_do_not_matter(nodes: tuple[Node, ...], seed: int) -> None:
    assert graph_key(build(nodes, random.Random(seed))) == graph_key(build(nodes))


@given(programs(), st.data())
def test_any_change_of_an_op_that_is_needed_matters(nodes: tuple[Node, ...], data: Any) -> None:
    position = data.draw(st.sampled_from(sorted(reached(nodes))))
    node = nodes[position]
    others = [fn for fn in FUNCTIONS if (fn in UNARY) == (node.fn in UNARY) and fn != node.fn]
    fn = data.draw(st.sampled_from(others))
    changed = replace(node, fn=fn, weight=0 if fn == "linear" else None)
    other = (*nodes[:position], changed, *nodes[position + 1 :])
    assert graph_key(build(other)) != graph_key(build(nodes))


@given(programs(), st.data())
def test_equal_keys_mean_isomorphic_graphs(nodes: tuple[Node, ...], data: Any) -> None:
    """The oracle: networkx-free matching of the parts that are needed, sharing included."""
    position = data.draw(st.sampled_from(range(len(nodes))))
    reads = data.draw(st.sampled_from(range(len(nodes[position].reads))))
    to = data.draw(st.integers(-1, position - 1))
    moved = list(nodes[position].reads)
    moved[reads] = to
    other = (
        *nodes[:position],
        replace(nodes[position], reads=tuple(moved)),
        *nodes[position + 1 :],
    )
    same = isomorphic(nodes, other)
    assert (graph_key(build(other)) == graph_key(build(nodes))) == same


def isomorphic(left: tuple[Node, ...], right: tuple[Node, ...]) -> bool:
    """Whether a one-to-one matching of ops and weights takes the outputs of one to the other's."""
    ops: dict[int, int] = {}
    weights: dict[int, int] = {}

    def match(a: int, b: int) -> bool:
        if a in ops or b in ops.values():
            return ops.get(a) == b
        if a < 0 or b < 0:
            return a == b
        one, two = left[a], right[b]
        if one.fn != two.fn or not all(map(match, one.reads, two.reads)):
            return False
        if one.weight is not None:
            if one.weight in weights or two.weight in weights.values():
                if weights.get(one.weight) != two.weight:
                    return False
            weights[one.weight] = two.weight
        ops[a] = b
        return True

    return match(len(left) - 1, len(right) - 1) and match(0, 0)
