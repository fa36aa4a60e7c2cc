"""Operators outside the vocabulary through Relax against the views' own evaluators."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.backends.tvm.emission import (
    arrays_of,
    assert_same,
    built,
    graph_of,
    noise,
    whole,
)


def pointwise(self, x):
    named = [F.hardswish, F.hardsigmoid, F.leaky_relu, F.softplus, F.mish, F.elu, F.celu, F.relu6]
    plain = [torch.floor, torch.ceil, torch.round, torch.trunc, torch.sign, torch.exp2]
    clipped = [x.clamp(-0.5, 0.5), x.clamp(min=0.1), x.clamp_max(0.2), F.hardtanh(x)]
    binary = [x.ne(0), torch.add(x, x, alpha=2), torch.sub(x, x, alpha=3), x // 0.3, x % 0.7]
    return (*[f(x) for f in named], *[f(x) for f in plain], *clipped, *binary)


def reducing(self, x):
    norms = [x.norm(dim=-1), F.normalize(x, dim=-1), F.log_softmax(x, -1), self.group(x)]
    truth = [(x > 1).any(-1), (x > -9).all(), (x > 2).any()]
    most = [*x.max(-1), *x.min(1, keepdim=True), x.argmin(1), x.argmax(-1, keepdim=True)]
    return (*norms, *truth, *most, x.cumsum(1), (x > 0).sum(-1), x.std(-1), (x > 0).cumsum(2))


def moving(self, x, i):
    repeated = [x.repeat(2, 1, 3), x.repeat_interleave(2, 1), x.tile(1, 2), torch.stack([x, x], -1)]
    turned = [x.flip(1, 2), x.roll(1, 2), x.roll((1, -1), (0, 1)), x.diff(dim=1)]
    padded = [
        F.pad(x, (1, 2)),
        F.pad(x, (0, 0, 1, -1), value=3.0),
        F.pad(x, (2, 1), mode="reflect"),
    ]
    rows = torch.arange(2)[:, None]
    indexed = [x[rows, i], x[:, i, i], x[i, :, i], x.gather(1, i[:, :, None].expand(-1, -1, 4))]
    summed = x.scatter_add(1, i[:, :, None].expand(-1, -1, 4), x[:, :2])
    return (
        *repeated,
        *turned,
        *padded,
        *indexed,
        summed,
        x.narrow(1, 1, 2),
        *x.sort(dim=1, stable=True),
    )


def multiplying(self, x):
    y = x.transpose(1, 2)
    added = (
        torch.baddbmm(x @ y, x, y, beta=0.5, alpha=2),
        torch.addmm(x[0], x[0] @ y[0], x[0], beta=2),
    )
    return (
        *added,
        torch.einsum("bij,bkj->bik", x, x),
        x[0] @ y[0, :, 0],
        torch.einsum("ij,ij->", x[0], x[1]),
    )


@pytest.mark.parametrize("function", [pointwise, reducing, moving, multiplying])
def test_aten(machine, function):
    torch.manual_seed(0)
    inputs = (noise(2, 3, 4), whole(2, 2, low=0, high=2))[: 2 if function is moving else 1]
    parts = {"group": nn.GroupNorm(3, 3)} if function is reducing else {}
    graph = graph_of(function, inputs, "fx", **parts)
    arrays = arrays_of(*inputs)
    assert_same(graph.run(arrays), built(graph, machine)(arrays), 2e-6)


def pooling(self, x):
    most = [F.max_pool2d(x, 2), F.max_pool2d(x, 3, 2, 1), F.max_pool1d(x[:, :, 0], 2)]
    mean = [
        F.avg_pool2d(x, 2),
        F.avg_pool2d(x, 3, 2, 1),
        F.avg_pool2d(x, 3, 1, 1, count_include_pad=False),
    ]
    return (*most, *mean, F.adaptive_avg_pool2d(x, 1), F.adaptive_avg_pool2d(x, (2, 3)))


def test_pooling(machine):
    x = noise(2, 3, 6, 7)
    graph = graph_of(pooling, (x,), "fx")
    assert_same(graph.run(arrays_of(x)), built(graph, machine)(arrays_of(x)), 1e-6)


ONNX = """
    <ir_version: 9, opset_import: ["" : 20]>
    g (float[2, 3, 4] x, int64[3, 4] i, float[2, 3, 6, 6] y)
        => (float[] a, float[] b, float[] c, float[] d, float[] e, float[] f, int64[] h, int64[] j,
            float[] k, float[] l, float[] m, float[] n, float[] o, float[] p, float[] q, float[] r,
            float[] s, float[] t, int64[] u, float[] v, int64[] w) {
        low = Constant<value = float {-0.5}>()
        high = Constant<value = float {0.5}>()
        one = Constant<value = int64 {1}>()
        counts = Constant<value = int64[3] {1, 2, 2}>()
        pads = Constant<value = int64[6] {0, 1, 0, 0, 0, 2}>()
        edge = Constant<value = int64[2] {1, 2}>()
        last = Constant<value = int64[1] {-1}>()
        three = Constant<value = int64 {3}>()
        ends = Constant<value = float[2] {0.0, 1.0}>()
        gain = Constant<value = float[3] {1.0, 2.0, 3.0}>()
        slope = Constant<value = float[4] {0.1, 0.2, 0.3, 0.4}>()
        four = Constant<value = int64 {4}>()
        a = Clip(x, low, high)
        b = CumSum<exclusive = 1, reverse = 1>(x, one)
        c = Tile(x, counts)
        d = Pad<mode = "constant">(x, pads, high)
        e = Pad<mode = "edge">(x, edge, , last)
        f = Max(x, low, high)
        h = ArgMax<axis = 2, keepdims = 0>(x)
        j = Mod(i, three)
        k = LogSoftmax<axis = 1>(x)
        l = ReduceL2<keepdims = 0>(x, last)
        m = InstanceNormalization(x, gain, gain)
        n = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(y)
        o = AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(y)
        p = GlobalAveragePool(y)
        q = HardSigmoid(x)
        r = PRelu(x, slope)
        s = OneHot<axis = 0>(i, four, ends)
        t = Mean(x, low)
        u = Range(one, four, one)
        v = Einsum<equation = "bij, bkj -> bik">(x, x)
        w = Size(x)
    }"""


def test_onnx(machine, onnx_text):
    x, y = noise(2, 3, 4).numpy(), noise(2, 3, 6, 6, seed=1).numpy()
    i = whole(3, 4, low=-4, high=4).numpy()
    graph, run = onnx_text(ONNX, x, i, y)
    assert_same(run(), built(graph, machine)([x, i, y]), 1e-6)
    assert {op.kind for op in graph.ops} >= {"CumSum", "Tile", "Pad", "ArgMax", "Einsum", "OneHot"}


def test_an_initializer_that_callers_may_override(machine, onnx_text):
    text = """
        <ir_version: 8, opset_import: ["" : 18]>
        g (float[2] x, float[2] w = {3.0, 4.0}) => (float[2] y) { y = Mul(x, w) }"""
    graph, _ = onnx_text(text)
    (y,) = built(graph, machine)([np.array([1, 2], np.float32)])
    assert y.tolist() == [3, 8]


ROTARY = """
    <ir_version: 11, opset_import: ["" : 23]>
    g (float[2, 3, 5, 8] x, float[2, 5, 12] y, float[9, 4] c, float[9, 4] s, float[2, 5, 2] d,
       float[2, 5, 2] e, int64[2, 5] i, float[1, 5, 4] f)
        => (float[] p, float[] q, float[] r, float[] t, float[] u) {
        p = RotaryEmbedding(x, c, s, i)
        q = RotaryEmbedding<interleaved = 1>(x, c, s, i)
        r = RotaryEmbedding<rotary_embedding_dim = 4>(x, d, e)
        t = RotaryEmbedding<num_heads = 3>(y, d, e)
        u = RotaryEmbedding(x, f, f)
    }"""


def test_rotary_embedding(machine, onnx_text):
    x, y = noise(2, 3, 5, 8).numpy(), noise(2, 5, 12, seed=1).numpy()
    tables = [noise(9, 4, seed=k).numpy() for k in (2, 3)]
    own = [noise(2, 5, 2, seed=k).numpy() for k in (4, 5)]
    shared = noise(1, 5, 4, seed=6).numpy()
    arrays = [x, y, *tables, *own, whole(2, 5, low=0, high=9).numpy(), shared]
    graph, run = onnx_text(ROTARY, *arrays)
    assert_same(run(), built(graph, machine)(arrays), 1e-6)
