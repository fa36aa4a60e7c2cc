"""Products, norms, reductions and attention through Relax against the views' own evaluators."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from passel.backends.tvm.emit import emit
from passel.graph.ops import Norm
from passel.passes.registry import resolve
from tests.backends.tvm.emission import (
    CASES,
    NAMES,
    PREPARED,
    VIEWS,
    arrays_of,
    assert_same,
    built,
    graph_of,
    kernels,
    noise,
)

BOUNDS = {torch.float32: 2e-6, torch.float64: 1e-14, torch.float16: 3e-3, torch.bfloat16: 2e-2}


def products(self, x, y):
    weight = y.reshape(-1, 4)  # computed, not known
    linears = [self.biased(x), self.plain(x), F.linear(x, weight), F.linear(x[0], weight)]
    return (*linears, x @ self.matrix, x @ y, x.flatten(0, 1) @ y[0], torch.addmm(y[0], x[0], y[0]))


@pytest.mark.parametrize(("view", "dtype"), CASES, ids=NAMES)
def test_products(machine, view, dtype):
    torch.manual_seed(0)
    parts = {"biased": nn.Linear(4, 5), "plain": nn.Linear(4, 3, bias=False)}
    parts = {name: part.to(dtype) for name, part in parts.items()}
    inputs = noise(2, 4, 4, dtype=dtype), noise(2, 4, 4, seed=1, dtype=dtype)
    matrix = noise(4, 6, seed=2, dtype=dtype)
    graph = graph_of(products, inputs, view, matrix=matrix, **parts)
    arrays = arrays_of(*inputs)
    assert_same(graph.run(arrays), built(graph, machine)(arrays), BOUNDS[dtype])


def normalised(self, x, image):
    far = x + 100  # a mean that is large beside the variance
    layers = [self.layer(x), F.layer_norm(x, (3, 8)), F.layer_norm(far, (8,)), self.rms(x)]
    return (*layers, self.batch(image), F.batch_norm(image, image[0, :, 0], self.variance))


@pytest.mark.parametrize(("view", "dtype"), CASES, ids=NAMES)
def test_norms(machine, view, dtype):
    torch.manual_seed(0)
    parts = {"layer": nn.LayerNorm(8), "rms": nn.RMSNorm(8, eps=1e-5), "batch": nn.BatchNorm1d(3)}
    for number, part in enumerate(parts.values()):
        for parameter in (*part.parameters(), *part.buffers()):
            if parameter.is_floating_point():
                parameter.data = noise(*parameter.shape, seed=number).abs() + 0.5
        part.to(dtype)
    inputs = noise(2, 3, 8, dtype=dtype), noise(2, 3, 5, seed=1, dtype=dtype)
    variance = torch.tensor([0.5, 2.0, 1.0], dtype=dtype)
    graph = graph_of(normalised, inputs, view, variance=variance, **parts)
    arrays = arrays_of(*inputs)
    # the far one loses two digits to its mean
    assert_same(graph.run(arrays), built(graph, machine)(arrays), BOUNDS[dtype] * 20)


@pytest.mark.parametrize("view", VIEWS)
def test_a_compressed_norm_in_paper_form_is_one_kernel(machine, view):
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.enter, self.leave = nn.Linear(6, 8), nn.Linear(8, 3)
            self.norm = nn.LayerNorm(8)

        def forward(self, x):
            return self.leave(self.norm(self.enter(x)))

    torch.manual_seed(0)
    x = noise(2, 5, 6)
    passes = (*PREPARED, *resolve(("default", "compress(form='paper')")))
    graph = graph_of(Residual(), (x,), view, passes=passes)
    assert [op.norm for op in graph.walk(Norm)] == ["crms"]
    emitted = emit(graph, machine)
    assert len([name for name in kernels(emitted, machine) if "norm" in name]) == 1
    arrays = arrays_of(x)
    assert_same(graph.run(arrays), built(graph, machine)(arrays), 1e-5)


def reduced(self, x):
    sums = [x.mean(-1), x.sum((0, 2)), x.sum(), x.prod(1), x.mean((1, 2), keepdim=True)]
    most = [x.amax(-1), x.amin((0, 1), keepdim=True), x.max()]
    spread = [x.var(-1), x.var((1, 2), unbiased=False), x.std(1)]
    return (*sums, *most, *spread, x.softmax(-1), x.softmax(1))


@pytest.mark.parametrize(("view", "dtype"), CASES, ids=NAMES)
def test_reductions(machine, view, dtype):
    x = noise(3, 4, 5, dtype=dtype)
    graph = graph_of(reduced, (x,), view)
    arrays = arrays_of(x)
    assert_same(graph.run(arrays), built(graph, machine)(arrays), BOUNDS[dtype])


def attended(self, q, k, v, mask, bias):
    attention = F.scaled_dot_product_attention
    plain = attention(q, k, v), attention(q, k, v, scale=0.3)
    masked = attention(q, k, v, attn_mask=mask), attention(q, k, v, attn_mask=bias)
    causal = attention(q, k, v, is_causal=True), attention(k, q, q, is_causal=True)
    return (*plain, *masked, *causal, attention(q, k[:, :2], v[:, :2], enable_gqa=True))


@pytest.mark.parametrize(("view", "opset"), [("fx", 20), ("onnx", 20), ("onnx", 23)])
def test_attention(machine, view, opset):
    q, k, v = (noise(2, 4, n, 8, seed=n) for n in (3, 5, 5))
    mask = noise(3, 5, seed=7) > -0.5
    mask[:, 0] = True
    inputs = q, k, v, mask, noise(2, 1, 3, 5, seed=8)
    graph = graph_of(attended, inputs, view, opset=opset)
    arrays = arrays_of(*inputs)
    assert_same(graph.run(arrays), built(graph, machine)(arrays), 2e-6)


def test_heads_are_broadcast(machine):
    q, k = noise(2, 4, 3, 8), noise(2, 1, 5, 8, seed=1)
    graph = graph_of(lambda self, q, k: F.scaled_dot_product_attention(q, k, k), (q, k), "fx")
    arrays = arrays_of(q, k)
    assert_same(graph.run(arrays), built(graph, machine)(arrays), 2e-6)


def test_an_integer_product(machine, onnx_text):
    text = """
        <ir_version: 8, opset_import: ["" : 18]>
        g (int8[3, 4] a, uint8[4, 5] b, int64[2, 3] c, int64[3, 2] d)
            => (int32[3, 5] x, int64[2, 2] y) {
            za = Constant<value = int8 {3}>()
            zb = Constant<value = uint8 {7}>()
            x = MatMulInteger(a, b, za, zb)
            y = MatMul(c, d)
        }"""
    rng = np.random.default_rng(0)
    a, b = rng.integers(-128, 128, (3, 4), np.int8), rng.integers(0, 256, (4, 5), np.uint8)
    c, d = rng.integers(-(2**40), 2**40, (2, 3)), rng.integers(-9, 9, (3, 2))
    graph, _ = onnx_text(text, a, b, c, d)
    x, y = built(graph, machine)([a, b, c, d])
    assert np.array_equal(x, (a.astype(np.int32) - 3) @ (b.astype(np.int32) - 7))
    assert np.array_equal(y, c @ d)
