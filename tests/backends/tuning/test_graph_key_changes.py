"""Single changes of a graph that change its key, and some that do not."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from passel.backends.tuning.graph_key import canonical_text, graph_key
from passel.graph import Graph, Op, Value
from passel.graph.ops import (
    Concat,
    Elementwise,
    Gather,
    Linear,
    MatMul,
    Norm,
    Opaque,
    Quantize,
    Reshape,
    Softmax,
)

FLOAT = np.dtype(np.float32)


def one_op(op: Op, *results: tuple[Any, Any]) -> Graph:
    """A graph of one op that reads the graph's input first."""
    graph = Graph(SimpleNamespace(frontend="test"))
    graph.inputs = [value for value in op.inputs if value is not None and value.constant is None]
    graph.add(op, *(results or [((2, 8), FLOAT)]))
    graph.outputs = [op.output]
    return graph


def x(*shape: int | str, dtype: Any = FLOAT) -> Value:
    return Value("x", shape or (2, 8), np.dtype(dtype))


def constant(array: Any) -> Value:
    return Graph(SimpleNamespace(frontend="test")).constant(np.asarray(array))


DIFFERENT = {
    "shape": (lambda: Softmax(inputs=[x(2, 8)]), lambda: Softmax(inputs=[x(2, 9)])),
    "dtype": (lambda: Softmax(inputs=[x()]), lambda: Softmax(inputs=[x(dtype=np.float16)])),
    "dynamic": (lambda: Softmax(inputs=[x(2, 8)]), lambda: Softmax(inputs=[x("batch", 8)])),
    "one symbol or two": (
        lambda: Softmax(inputs=[x("a", "a")]),
        lambda: Softmax(inputs=[x("a", "b")]),
    ),
    "expression": (
        lambda: Softmax(inputs=[x("a", "2*a")]),
        lambda: Softmax(inputs=[x("a", "3*a")]),
    ),
    "kind": (lambda: Softmax(inputs=[x()]), lambda: Elementwise(fn="exp", inputs=[x()])),
    "axis": (lambda: Softmax(inputs=[x()], axis=1), lambda: Softmax(inputs=[x()], axis=0)),
    "eps": (lambda: Norm(inputs=[x()], eps=1e-5), lambda: Norm(inputs=[x()], eps=1e-6)),
    "norm": (lambda: Norm(inputs=[x()]), lambda: Norm(inputs=[x()], norm="rms")),
    "target": (
        lambda: Opaque(inputs=[x()], target="CumSum"),
        lambda: Opaque(inputs=[x()], target="CumProd"),
    ),
    "a number": (
        lambda: Elementwise(fn="add", inputs=[x(), constant(np.float32(1e-5))]),
        lambda: Elementwise(fn="add", inputs=[x(), constant(np.float32(1e-6))]),
    ),
    "a computed target shape": (
        lambda: Reshape(inputs=[x(), constant(np.array([4, 4]))]),
        lambda: Reshape(inputs=[x(), constant(np.array([2, 8]))]),
    ),
    "indices": (
        lambda: Gather(inputs=[x(), constant(np.array([0, 1]))]),
        lambda: Gather(inputs=[x(), constant(np.array([0, 2]))]),
    ),
    "a mask": (
        lambda: Elementwise(fn="and", inputs=[x(dtype=bool), constant(np.tri(8, dtype=bool))]),
        lambda: Elementwise(fn="and", inputs=[x(dtype=bool), constant(np.ones((8, 8), bool))]),
    ),
    "weight's shape": (
        lambda: MatMul(inputs=[x(), constant(np.ones((8, 4), np.float32))]),
        lambda: MatMul(inputs=[x(), constant(np.ones((8, 5), np.float32))]),
    ),
    "weight's dtype": (
        lambda: MatMul(inputs=[x(), constant(np.ones((8, 4), np.float32))]),
        lambda: MatMul(inputs=[x(), constant(np.ones((8, 4), np.float16))]),
    ),
    "absent operand": (
        lambda: Norm(inputs=[x(), None, constant(np.ones(8, np.float32))]),
        lambda: Norm(inputs=[x(), constant(np.ones(8, np.float32)), None]),
    ),
}
SAME = {
    "symbol's name": (
        lambda: Softmax(inputs=[x("batch", "2*batch + floor(h/4)")]),
        lambda: Softmax(inputs=[x("s0", "2*s0 + floor(s17/4)")]),
    ),
    "weight": (
        lambda: Linear(inputs=[x(), constant(np.ones((4, 8), np.float32))]),
        lambda: Linear(inputs=[x(), constant(np.zeros((4, 8), np.float32))]),
    ),
    "gain of one channel": (
        lambda: Norm(inputs=[x(2, 1), constant(np.float32([1.0]))]),
        lambda: Norm(inputs=[x(2, 1), constant(np.float32([2.0]))]),
    ),
    "scale of a tensor": (
        lambda: Quantize(inputs=[x(), constant(np.float32(0.1)), constant(np.uint8(3))]),
        lambda: Quantize(inputs=[x(), constant(np.float32(0.2)), constant(np.uint8(4))]),
    ),
    "table": (
        lambda: Gather(inputs=[constant(np.ones((9, 8), np.float32)), x(2, dtype=np.int64)]),
        lambda: Gather(inputs=[constant(np.zeros((9, 8), np.float32)), x(2, dtype=np.int64)]),
    ),
}


@pytest.mark.parametrize("change", DIFFERENT)
def test_what_matters(change: str) -> None:
    left, right = DIFFERENT[change]
    assert graph_key(one_op(left())) != graph_key(one_op(right()))
    assert graph_key(one_op(left())) == graph_key(one_op(left()))


@pytest.mark.parametrize("change", SAME)
def test_what_does_not_matter(change: str) -> None:
    left, right = SAME[change]
    assert graph_key(one_op(left())) == graph_key(one_op(right()))


def test_no_weight_is_read() -> None:
    def refuse() -> np.ndarray:
        raise AssertionError("read a weight")

    weight = constant(np.ones((4, 8), np.float32))
    weight.constant._load = refuse
    assert graph_key(one_op(Linear(inputs=[x(), weight])))


def test_unused_inputs_and_results_count() -> None:
    small, large = one_op(Softmax(inputs=[x()])), one_op(Softmax(inputs=[x()]))
    large.inputs.append(x(3))
    assert graph_key(small) != graph_key(large)
    doubled = one_op(Softmax(inputs=[x()]))
    doubled.outputs *= 2
    assert graph_key(small) != graph_key(doubled)


def test_a_dead_op_does_not_count_but_one_with_an_effect_does() -> None:
    plain, dead, effect = (one_op(Softmax(inputs=[x()])) for _ in range(3))
    dead.add(Softmax(inputs=[dead.inputs[0]]), ((2, 8), FLOAT))
    effect.add(Opaque(inputs=[effect.inputs[0]], target="assert", impure=True))
    assert graph_key(plain) == graph_key(dead) != graph_key(effect)


def test_shared_and_doubled_ops_differ() -> None:
    def joined(shared: bool) -> Graph:
        graph = one_op(Elementwise(fn="exp", inputs=[x()]))
        first = graph.outputs[0]
        second = graph.add(Elementwise(fn="exp", inputs=[graph.inputs[0]]), ((2, 8), FLOAT)).output
        both = [first, first if shared else second]
        graph.outputs = [graph.add(Concat(inputs=both), ((4, 8), FLOAT)).output]
        return graph

    assert graph_key(joined(True)) != graph_key(joined(False))


def test_a_deep_graph_needs_no_deep_stack() -> None:
    graph = one_op(Elementwise(fn="exp", inputs=[x()]))
    for _ in range(5000):
        last = graph.outputs[0]
        graph.outputs = [graph.add(Elementwise(fn="exp", inputs=[last]), ((2, 8), FLOAT)).output]
    assert canonical_text(graph).count("Elementwise") == 5001
