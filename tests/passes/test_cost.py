"""Work is linear in the layers, and recursion shallow: counted, not timed."""

import sys

import numpy as np
import pytest

from passel.graph import Graph, Value
from passel.graph.ops import Elementwise, Linear, Reshape, Transpose, Unsqueeze
from passel.passes import (
    Canonicalize,
    EliminateDeadCode,
    FlattenTokens,
    FoldAffine,
    FoldConstants,
    MergeLinears,
)
from passel.passes.driver import run_pass
from passel.passes.report import count_ops

F64 = np.dtype(np.float64)
SHAPE = ("batch", 5, 4)


class Stream:
    """A builder of residual streams, in plain graph ops."""

    def __init__(self):
        self.graph = Graph(binding=None)
        self.rng = np.random.default_rng(0)
        self.value = Value("x", SHAPE, F64)
        self.graph.inputs.append(self.value)

    def op(self, kind, *operands, shape=SHAPE, **attributes):
        return self.graph.add(kind(inputs=list(operands), **attributes), (shape, F64)).output

    def point(self, fn, *operands, shape=SHAPE):
        return self.op(Elementwise, *operands, fn=fn, shape=shape)

    def vector(self, *shape):
        return self.graph.constant(self.rng.uniform(0.9, 1.1, shape or (4,)), "v")

    def linear(self, x):
        return self.op(
            Linear, x, self.graph.constant(self.rng.normal(size=(4, 4)), "w"), self.vector()
        )

    def branch(self, x):
        return self.linear(self.point("exp", self.linear(x)))

    def spelled_norm(self, x):
        """Unified Norm as its release writes it."""
        turned, wide = ("batch", 4, 5), ("batch", 4, 5, 1)
        y = self.op(Transpose, x, perm=(0, 2, 1), shape=turned)
        y = self.op(Unsqueeze, y, axes=(3,), shape=wide)
        y = self.point("div", y, self.vector(1, 4, 1, 1), shape=wide)
        y = self.point("mul", self.vector(1, 4, 1, 1), y, shape=wide)
        y = self.point("add", y, self.vector(1, 4, 1, 1), shape=wide)
        y = self.op(Reshape, y, dims=(-1, 4, 5), shape=turned)
        return self.op(Transpose, y, perm=(0, 2, 1))

    def finish(self, value, end="linear"):
        value = self.linear(value) if end == "linear" else self.point("exp", value)
        self.graph.outputs, self.graph.output_names = [value], ["y"]
        return self.graph


def post_norm(layers, end="linear"):
    s = Stream()
    x = s.value
    for _ in range(layers):
        x = s.spelled_norm(s.point("add", x, s.branch(x)))
    return s.finish(x, end)


def pre_norm(layers, end="linear"):
    s = Stream()
    x = s.value
    for _ in range(layers):
        x = s.point("add", x, s.branch(s.spelled_norm(x)))
    return s.finish(x, end)


def scaled_residual(layers, end="exp"):
    """Each layer scales the stream, and what ends the stream cannot take a scale."""
    s = Stream()
    x = s.value
    for _ in range(layers):
        x = s.point("add", s.point("mul", x, s.vector()), s.branch(x))
    return s.finish(x, end)


def chain(layers, end="exp"):
    s = Stream()
    x = s.value
    for _ in range(layers):
        x = s.point("add", s.point("mul", x, s.vector()), s.vector())
    return s.finish(x, end)


def long_sum(layers, end="exp"):
    """One scale over a sum of very many terms: the way backwards is as long as the sum."""
    s = Stream()
    x = s.linear(s.value)
    for _ in range(layers):
        x = s.point("add", x, s.linear(s.value))
    return s.finish(s.point("mul", x, s.vector()), end)


def refused_everywhere(layers, end="exp"):
    """Every layer ends in a map that nothing can take, over a stream that is read twice."""
    s = Stream()
    x = s.value
    for _ in range(layers):
        y = s.point("mul", x, s.vector())
        x = s.point("add", s.point("tanh", y), y)
    return s.finish(x, end)


def turned(layers, end="exp"):
    s = Stream()
    x = s.value
    for k in range(2 * layers):
        shape = SHAPE if k % 2 else ("batch", 4, 5)
        x = s.op(Transpose, x, perm=(0, 2, 1), shape=shape)
    return s.finish(x, end)


NETS = (post_norm, pre_norm, scaled_residual, chain, long_sum, refused_everywhere, turned)
PASSES = (
    Canonicalize(),
    FoldAffine(),
    FoldConstants(),
    MergeLinears(),
    FlattenTokens(),
    EliminateDeadCode(),
)


def calls_of(function, *args):
    """How many Python functions of passel a call enters."""
    count = 0

    def profiler(frame, event, arg):
        nonlocal count
        count += event == "call" and "passel" in frame.f_globals.get("__name__", "")

    sys.setprofile(profiler)
    try:
        function(*args)
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("one", PASSES, ids=lambda one: one.name)
def test_ten_times_the_layers_cost_about_ten_times(net, one):
    small, large = (calls_of(run_pass, net(layers), one) for layers in (12, 120))
    assert large <= 16 * small


@pytest.mark.parametrize("end", ["linear", "exp"])
@pytest.mark.parametrize("net", NETS)
def test_a_hundred_layers_do_not_exhaust_the_stack(net, end):
    """With as little of the stack left as a test runner or a notebook leaves."""
    graph = net(100, end)
    depth, frame = 0, sys._getframe()
    while frame is not None:
        depth, frame = depth + 1, frame.f_back
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(depth + 800)
    try:
        for one in (Canonicalize(), FoldAffine(), Canonicalize()):
            run_pass(graph, one)
    finally:
        sys.setrecursionlimit(limit)


@pytest.mark.parametrize("net", [post_norm, pre_norm])
def test_a_hundred_layers_of_unified_norm_leave_nothing(net):
    graph = net(100)
    for one in (Canonicalize(), FoldAffine(), Canonicalize()):
        run_pass(graph, one)
    assert count_ops(graph) == {"Linear": 201, "add": 100, "exp": 100}
