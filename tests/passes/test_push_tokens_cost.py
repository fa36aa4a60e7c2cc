"""push-tokens is linear in the layers and shallow in recursion: counted, not timed."""

import sys

import numpy as np
import pytest

from passel.graph import Graph, Value
from passel.graph.ops import (
    Attention,
    Elementwise,
    Fill,
    Gather,
    Linear,
    Norm,
    Reshape,
    Scatter,
    Squeeze,
    TopK,
    Transpose,
    Unsqueeze,
)
from passel.passes import PushTokens
from passel.passes.driver import run_pass
from tests.passes.test_cost import calls_of

B, N, K, D, H = 2, 16, 4, 8, 2
F64, I64 = np.dtype(np.float64), np.dtype(np.int64)
X = (B, N, D)


class Decoder:
    """A builder of pre-norm blocks, in plain graph ops."""

    def __init__(self):
        self.graph = Graph(binding=None)
        self.value = Value("x", X, F64)
        self.graph.inputs.append(self.value)

    def op(self, kind, *operands, shape=X, dtype=F64, **attributes):
        return self.graph.add(kind(inputs=list(operands), **attributes), (shape, dtype)).output

    def point(self, fn, *operands, shape=X, dtype=F64):
        return self.op(Elementwise, *operands, fn=fn, shape=shape, dtype=dtype)

    def linear(self, x, width=D):
        weight = self.graph.constant(np.ones((width, x.shape[-1])), "w")
        return self.op(Linear, x, weight, shape=(*x.shape[:-1], width))

    def heads(self, x):
        split = self.op(Reshape, x, dims=(B, N, H, D // H), shape=(B, N, H, D // H))
        return self.op(Transpose, split, perm=(0, 2, 1, 3), shape=(B, H, N, D // H))

    def attention(self, x, *mask, causal):
        q, k, v = (self.heads(self.linear(x)) for _ in range(3))
        y = self.op(Attention, q, k, v, *mask, causal=causal, shape=(B, H, N, D // H))
        y = self.op(Transpose, y, perm=(0, 2, 1, 3), shape=(B, N, H, D // H))
        return self.linear(self.op(Reshape, y, dims=X, shape=X))

    def update(self, x, *mask, causal=True):
        """What a block adds."""
        h = self.attention(self.op(Norm, x), *mask, causal=causal)
        y = self.op(Norm, self.point("add", x, h))
        y = self.point("gelu", self.linear(y, 4 * D), shape=(B, N, 4 * D))
        return self.point("add", h, self.linear(y))

    def mask(self, x):
        """A top-k of the router's scores: bool [B, N]."""
        scores = self.op(Squeeze, self.linear(x, 1), axes=(2,), shape=(B, N))
        results = ((B, K), F64), ((B, K), I64)
        top = self.graph.add(TopK(inputs=[scores], axis=1, k=K), *results)
        none = self.op(Fill, scores, number=0.0, shape=(B, N), dtype=np.dtype(bool))
        one = self.graph.constant(np.array(True), "one")
        return self.op(
            Scatter, none, top.outputs[1], one, axis=1, shape=(B, N), dtype=np.dtype(bool)
        )

    def routed(self, x):
        mask = self.mask(x)
        keys = self.op(Unsqueeze, mask, axes=(1, 2), shape=(B, 1, 1, N), dtype=mask.dtype)
        kept = self.op(Unsqueeze, mask, axes=(2,), shape=(B, N, 1), dtype=mask.dtype)
        return self.point(
            "where", kept, self.point("add", x, self.update(x, keys, causal=False)), x
        )

    def finish(self, x, position):
        if position is not None:
            place = self.graph.constant(np.array(position), "place")
            x = self.op(Gather, x, place, axis=1, shape=(B, D))
        self.graph.outputs, self.graph.output_names = [self.linear(x)], ["y"]
        return self.graph


def decoder(layers, position):
    net = Decoder()
    x = net.value
    for _ in range(layers):
        x = net.point("add", x, net.update(x))
    return net.finish(x, position)


def last_token(layers):
    return decoder(layers, N - 1)


def third_token(layers):
    """Every layer shrinks to three tokens."""
    return decoder(layers, 2)


def every_token(layers):
    return decoder(layers, None)


def mixture_of_depths(layers):
    net = Decoder()
    x = net.value
    for _ in range(layers):
        x = net.routed(x)
    return net.finish(x, None)


def tied_residuals(layers):
    """A long sum of which one token is read."""
    net = Decoder()
    x = net.linear(net.value)
    for _ in range(4 * layers):
        x = net.point("add", x, net.linear(net.value))
    return net.finish(x, 0)


NETS = (last_token, third_token, every_token, mixture_of_depths, tied_residuals)


@pytest.mark.parametrize("net", NETS)
def test_four_times_the_layers_cost_about_four_times(net):
    small, large = (calls_of(run_pass, net(layers), PushTokens()) for layers in (10, 40))
    assert large <= 6 * small


@pytest.mark.parametrize("net", NETS)
def test_a_hundred_layers_do_not_exhaust_the_stack(net):
    graph = net(100)
    depth, frame = 0, sys._getframe()
    while frame is not None:
        depth, frame = depth + 1, frame.f_back
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(depth + 400)
    try:
        run_pass(graph, PushTokens())
    finally:
        sys.setrecursionlimit(limit)


def test_what_is_left_of_them():
    """So that the counts above are of work that was done."""
    queries = {}
    for net in (last_token, third_token, every_token, mixture_of_depths):
        graph = net(3)
        run_pass(graph, PushTokens())
        queries[net] = [op.output.shape[2] for op in graph.walk(Attention)]
    assert queries == {
        last_token: [N, N, 1],
        third_token: [3, 3, 1],
        every_token: [N] * 3,
        mixture_of_depths: [K] * 3,
    }
