"""Ops that move elements through Relax against the views' own evaluators, bit by bit."""

import numpy as np
import pytest
import torch

from tests.backends.tvm.emission import (
    VIEWS,
    arrays_of,
    assert_same,
    built,
    graph_of,
    noise,
    whole,
)


def shaped(self, x):
    flat = [x.reshape(6, -1), x.flatten(1), x.unflatten(2, (2, 2)), x.reshape(-1)]
    turned = [x.permute(2, 0, 1), x.transpose(0, 1), x.mT]
    ones = [x.unsqueeze(1), x[:, :1].squeeze(1), x[:, None, :, None]]
    spread = [x[:1].expand(5, 3, 4), x[:, :1].expand(-1, 3, -1), x.new_ones(1).expand(2, 3)]
    return (*flat, *turned, *ones, *spread)


def sliced(self, x):
    parts = [x[:, 1:], x[..., :-1], x[..., ::2], x[:, -2:], x[1:1], x[:, 1:9, 1:3]]
    picked = [x[0], x[:, -1], x[..., 2]]
    cut = [*x.split([1, 2], 1), *x.chunk(2, 2), *x.unbind(0)]
    return (*parts, *picked, *cut)


def joined(self, x, i):
    along = [torch.cat([x, x[:, :1], x], 1), torch.cat([x, x], -1), torch.stack([x, x + 1], 1)]
    chosen = [self.table[i], x[:, self.places], self.table[-1], torch.index_select(x, 2, self.last)]
    return (*along, *chosen, x.contiguous().clone())


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("function", [shaped, sliced], ids=["shaped", "sliced"])
def test_moves(machine, view, function):
    x = noise(2, 3, 4)
    graph = graph_of(function, (x,), view)
    arrays = arrays_of(x)
    assert_same(graph.run(arrays), built(graph, machine)(arrays))


@pytest.mark.parametrize("view", VIEWS)
def test_joins_and_choices(machine, view):
    inputs = noise(2, 3, 4), whole(2, 3, low=0, high=5)
    parts = {
        "table": noise(5, 6, seed=1),
        "places": torch.tensor([2, 0, -1]),
        "last": torch.tensor([3, 0]),
    }
    graph = graph_of(joined, inputs, view, **parts)
    arrays = arrays_of(*inputs)
    assert_same(graph.run(arrays), built(graph, machine)(arrays))


ONNX = """
    <ir_version: 8, opset_import: ["" : 18]>
    g (float[2, 3, 4] x, int64[2] i) => (float[2,3,4] a, float[] b, float[] c, float[] d) {
        back = Constant<value = int64[1] {-1}>()
        start = Constant<value = int64[1] {-1}>()
        end = Constant<value = int64[1] {-9223372036854775807}>()
        axis = Constant<value = int64[1] {2}>()
        a = Slice(x, start, end, axis, back)
        b = Gather<axis = 1>(x, i)
        shape = Constant<value = int64[4] {5, 1, 3, 4}>()
        one = Constant<value = int64[1] {1}>()
        first = Constant<value = int64[1] {0}>()
        zero = Constant<value = int64[1] {0}>()
        row = Slice(x, first, one, zero)
        c = Expand(row, shape)
        target = Constant<value = int64[3] {0, -1, 2}>()
        d = Reshape(x, target)
    }"""


def test_onnx_bounds_and_targets(machine, onnx_text):
    x, i = noise(2, 3, 4).numpy(), np.array([-1, 0])
    graph, run = onnx_text(ONNX, x, i)
    assert_same(run(), built(graph, machine)([x, i]))


def test_an_index_beyond_the_axis_reads_no_foreign_memory(machine, onnx_text):
    text = """
        <ir_version: 8, opset_import: ["" : 18]>
        g (float[3, 2] x, int64[2] i) => (float[2, 2] y) { y = Gather<axis = 0>(x, i) }"""
    x = noise(3, 2).numpy()
    graph, _ = onnx_text(text, x, np.array([0, 1]))
    (y,) = built(graph, machine)([x, np.array([10**9, -(10**9)])])
    assert np.array_equal(y, x[[2, 0]])
