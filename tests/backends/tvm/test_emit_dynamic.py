"""One build for many sizes, shape arithmetic that costs no kernel, and what is refused."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.export import Dim

from passel import models
from passel.backends.tvm.emit import emit
from passel.errors import UnsupportedModel
from passel.passes.registry import DEFAULT
from tests.architectures import ARCHITECTURES
from tests.backends.tvm.emission import (
    VIEWS,
    arrays_of,
    assert_same,
    built,
    graph_of,
    kernels,
    noise,
    running,
    whole,
)

ANY = Dim.DYNAMIC
TEXT = {0: ANY, 1: ANY}


@pytest.mark.parametrize("view", VIEWS)
def test_a_decoder_at_any_batch_and_length(machine, view):
    config = models.GPTConfig(vocab=40, context=16, dim=24, depth=2, heads=2)
    model = models.randomize(models.GPT(config))
    inputs = models.gpt_inputs(config, batch=2, tokens=6)
    graph = graph_of(
        lambda self, ids: self.model(ids), inputs, view, (TEXT,), 23, DEFAULT, model=model
    )
    run = built(graph, machine)
    for batch, tokens in ((2, 6), (1, 16), (5, 2)):
        arrays = arrays_of(*models.gpt_inputs(config, batch=batch, tokens=tokens, seed=batch))
        assert_same(graph.run(arrays), run(arrays), 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize(
    "name", ["gpt2", "llama", "opt", "bloom", "falcon", "gpt-neox", "gpt-j", "mpt", "phi", "vit"]
)
def test_architectures_at_any_size(machine, name, view):
    torch.manual_seed(0)
    model, inputs = ARCHITECTURES[name].build()
    text = not inputs[0].is_floating_point()
    opset = 20 if name == "falcon" else 23  # torch.onnx cannot say its attention in 23
    graph = graph_of(model, inputs, view, (TEXT if text else {0: ANY},), opset, DEFAULT)
    run = built(graph, machine)
    for size in ((2, 6), (3, 9), (1, 4)):
        given = whole(*size, low=3, high=40) if text else noise(size[0], 3, 16, 16)
        arrays = arrays_of(given)
        assert_same(graph.run(arrays), run(arrays), 2e-6)


def derived(self, x, y):
    both = torch.cat([x, y], 0)
    return both.reshape(-1, 2, 2).sum((1, 2)), both[1:], x[:, None].expand(-1, y.shape[0], -1)


@pytest.mark.parametrize("view", VIEWS)
def test_derived_extents(machine, view):
    batch = Dim("batch", min=2, max=64)
    inputs = noise(3, 4), noise(7, 4, seed=1)
    graph = graph_of(derived, inputs, view, dynamic=[{0: batch}, {0: 2 * batch + 1}])
    run = built(graph, machine)
    for size in (3, 2, 8):
        arrays = arrays_of(noise(size, 4, seed=size), noise(2 * size + 1, 4))
        assert_same(graph.run(arrays), run(arrays), 1e-6)


SHAPES = """
    <ir_version: 8, opset_import: ["" : 18]>
    g (float[batch, tokens, 6] x) => (float[] y, float[] z, int64[] n) {
        shape = Shape(x)
        zero = Constant<value = int64 {0}>()
        one = Constant<value = int64 {1}>()
        two = Constant<value = int64 {2}>()
        axis = Constant<value = int64[1] {0}>()
        rest = Constant<value = int64[2] {2, 3}>()
        batch = Gather<axis = 0>(shape, zero)
        tokens = Gather<axis = 0>(shape, one)
        pairs = Mul(batch, tokens)
        b = Unsqueeze(batch, axis)
        t = Unsqueeze(tokens, axis)
        target = Concat<axis = 0>(b, t, rest)
        heads = Reshape(x, target)
        y = Transpose<perm = [0, 2, 1, 3]>(heads)
        p = Unsqueeze(pairs, axis)
        last = Constant<value = int64[1] {-1}>()
        flat = Concat<axis = 0>(p, last)
        rows = Reshape(x, flat)
        half = Div(pairs, two)
        h = Unsqueeze(half, axis)
        z = Slice(rows, h, p, axis)
        n = Add(target, target)
    }"""


def test_shape_arithmetic_becomes_no_kernel(machine, onnx_text):
    graph, _ = onnx_text(SHAPES, np.zeros((2, 3, 6), np.float32))
    emitted = emit(graph, machine)
    assert not any("gather" in name or "concat" in name for name in kernels(emitted, machine))
    run = running(emitted, machine)
    for batch, tokens in ((2, 3), (1, 1), (4, 5)):
        x = noise(batch, tokens, 6).numpy()
        y, z, n = run([x])
        assert np.array_equal(y, x.reshape(batch, tokens, 2, 3).transpose(0, 2, 1, 3))
        assert np.array_equal(z, x.reshape(-1, 6)[batch * tokens // 2 :])
        assert n.tolist() == [2 * batch, 2 * tokens, 4, 6]


def test_what_is_constant_is_computed_once(machine):
    def function(self, x):
        table = torch.arange(x.shape[1]).float() * self.step
        return x + table.cos() @ torch.ones(4, 1) + self.weight.transpose(0, 1).to(x.dtype)[0, 0]

    x = noise(3, 4)
    graph = graph_of(
        function, (x,), "fx", passes=(), step=torch.tensor(0.5), weight=noise(2, 2).double()
    )
    emitted = emit(graph, machine)
    assert len(kernels(emitted, machine)) == 1
    assert_same(graph.run(arrays_of(x)), running(emitted, machine)(arrays_of(x)), 1e-6)


def test_weights_are_held_once(machine):
    def function(self, ids):
        x = F.embedding(ids, self.table)
        return x @ self.square, x @ self.square + 1

    ids = whole(2, 3, low=0, high=50)
    parts = {"table": noise(50, 8), "square": noise(8, 8, seed=1)}
    graph = graph_of(function, (ids,), "fx", **parts)
    emitted = emit(graph, machine)
    held = [array for array in emitted.constants if array.size >= 64]
    assert len(held) <= 3
    assert_same(graph.run(arrays_of(ids)), running(emitted, machine)(arrays_of(ids)), 1e-6)


def test_extents_under_two_names_have_to_agree(machine, onnx_text):
    text = """
        <ir_version: 8, opset_import: ["" : 18]>
        g (float[a, 3] x, float[b, 3] y) => (float[] z) { z = Add(x, y) }"""
    x, y = noise(4, 3).numpy(), noise(4, 3, seed=1).numpy()
    graph, _ = onnx_text(text, x, y)
    run = built(graph, machine)
    assert np.array_equal(run([x, y])[0], x + y)
    with pytest.raises(Exception, match="expected two extents to be equal"):
        run([x, y[:2]])


def test_everything_without_a_lowering_is_named_at_once(machine, onnx_text):
    text = """
        <ir_version: 8, opset_import: ["" : 18]>
        g (float[3, 4] x) => (float[] y, int64[] n, float[] z) {
            n = NonZero(x)
            y = Det(x)
            u = RandomNormalLike(x)
            v = RandomNormalLike(x)
            w = Add(u, v)
            z = Relu(w)
        }"""
    graph, _ = onnx_text(text, np.zeros((3, 4), np.float32))
    with pytest.raises(UnsupportedModel, match="no lowering for") as caught:
        emit(graph, machine)
    for kind in (r"Det (1, first", r"NonZero (1, first", r"RandomNormalLike (2, first"):
        assert kind in str(caught.value)


def test_a_shape_that_depends_on_elements_is_refused(machine, onnx_text):
    text = """
        <ir_version: 8, opset_import: ["" : 18]>
        g (float[3, 4] x, int64[2] s) => (float[] y) { y = Reshape(x, s) }"""
    graph, _ = onnx_text(text, np.zeros((3, 4), np.float32), np.array([4, 3]))
    graph.outputs[0].shape = None
    with pytest.raises(UnsupportedModel, match=r"Reshape .* does not follow from the shapes"):
        emit(graph, machine)


def test_what_does_not_fit_is_refused_by_name(machine, onnx_text):
    text = """
        <ir_version: 8, opset_import: ["" : 18]>
        g (float[3, 4] x, float[3, 4] y) => (float[] z) { z = MatMul(x, y) }"""
    graph, _ = onnx_text(text, np.zeros((3, 4), np.float32), np.zeros((3, 4), np.float32))
    with pytest.raises(UnsupportedModel, match="cannot express MatMul"):
        emit(graph, machine)
