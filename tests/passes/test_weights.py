"""Row and column edits of weights against the layer they stand for, in plain numpy."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from passel.graph import Graph
from passel.graph.ops import Conv, Linear
from passel.passes import weights


def made(op, *arrays):
    """A graph of one op whose weight and bias are these arrays."""
    graph = Graph(binding=None)
    names = ("weight", "bias")
    parts = [graph.constant(array, name) for array, name in zip(arrays, names, strict=False)]
    x = graph.constant(np.zeros(()), "x")
    op.inputs = [x, *parts]
    graph.add(op, (None, np.dtype(np.float64)))
    return graph, op


def computed(op, x):
    """The op on x [N, I, *spatial] or [N, I]."""
    weight, bias = torch.tensor(op.weight.array()), None
    if op.bias is not None:
        bias = torch.tensor(op.bias.array())
    if isinstance(op, Linear):
        return F.linear(torch.tensor(x), weight if op.layout == "oi" else weight.T, bias).numpy()
    function = F.conv_transpose2d if op.transposed else F.conv2d
    return function(torch.tensor(x), weight, bias, groups=op.groups).numpy()


@st.composite
def layers(draw):
    """A Linear of either layout, or a convolution of either direction, and its operand's width."""
    groups = draw(st.sampled_from([1, 2, 4]))
    i, o = groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    bias = [rng.normal(size=o)] if draw(st.booleans()) else []
    kind = draw(st.sampled_from(["oi", "io", "conv", "transposed"]))
    if kind in ("oi", "io"):
        shape = (o, i) if kind == "oi" else (i, o)
        return made(Linear(layout=kind), rng.normal(size=shape), *bias), (5, i), o
    transposed = kind == "transposed"
    shape = (i, o // groups, 3, 2) if transposed else (o, i // groups, 3, 2)
    op = Conv(groups=groups, transposed=transposed, stride=(1, 1), padding=((0, 0), (0, 0)))
    return made(op, rng.normal(size=shape), *bias), (2, i, 5, 4), o


def along(vector, ndim):
    return vector.reshape(-1, *[1] * (ndim - 2))


@given(layers(), st.integers(0, 99), st.sampled_from([64, 200, 1 << 24]))
def test_scale_rows(layer, seed, block):
    (graph, op), shape, rows = layer
    rng = np.random.default_rng(seed)
    x, scale, shift = rng.normal(size=shape), rng.normal(size=rows), rng.normal(size=rows)
    expected = computed(op, x)
    expected = along(scale, x.ndim) * expected + along(shift, x.ndim)
    assert weights.result_width(op) == rows
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "BLOCK_BYTES", block)
        weights.scale_rows(graph, op, scale, shift)
    np.testing.assert_allclose(computed(op, x), expected, atol=1e-12)


@given(layers(), st.integers(0, 99), st.sampled_from([64, 200, 1 << 24]))
def test_scale_columns(layer, seed, block):
    (graph, op), shape, _ = layer
    rng = np.random.default_rng(seed)
    x, scale, shift = rng.normal(size=shape), rng.normal(size=shape[1]), rng.normal(size=shape[1])
    if isinstance(op, Conv) and op.transposed:
        shift = 0 * shift  # the edges of a transposed convolution see fewer taps: never asked for
    assert weights.operand_width(op) == shape[1]
    expected = computed(op, along(scale, x.ndim) * x + along(shift, x.ndim))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "BLOCK_BYTES", block)
        weights.scale_columns(graph, op, scale, shift)
    np.testing.assert_allclose(computed(op, x), expected, atol=1e-12)


@given(layers())
def test_the_neutral_map_edits_nothing(layer):
    (graph, op), shape, rows = layer
    before = list(op.inputs)
    weights.scale_rows(graph, op, np.ones(rows), np.zeros(rows))
    weights.scale_columns(graph, op, np.ones(shape[1]), np.zeros(shape[1]))
    assert op.weight is before[1]
    assert (op.bias is None) == (len(before) == 2)


def test_a_shared_weight_is_split_and_its_other_owner_keeps_it():
    graph, op = made(Linear(), np.ones((2, 3)))
    other = Linear(inputs=[op.inputs[0], op.weight])
    graph.add(other, (None, np.dtype(np.float64)))
    weights.scale_rows(graph, op, np.array([2.0, 3.0]), np.zeros(2))
    np.testing.assert_array_equal(other.weight.array(), np.ones((2, 3)))
    np.testing.assert_array_equal(op.weight.array(), [[2.0] * 3, [3.0] * 3])


@given(st.integers(0, 7), st.integers(1, 9), st.sampled_from([8, 100, 1 << 24]))
def test_blockwise_is_the_function(rows, columns, block):
    array = np.random.default_rng(0).normal(size=(rows, columns)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "BLOCK_BYTES", block)
        sizes = []
        found = weights.blockwise(array, lambda part: sizes.append(part.nbytes) or part[:, :1] * 2)
        product = weights.blocked_product(array, np.ones(columns)) if rows else None
    np.testing.assert_array_equal(found, array[:, :1] * 2)
    assert found.dtype == np.float32
    assert max(sizes) <= max(block, columns * 8)
    if product is not None:
        np.testing.assert_allclose(product, array.astype(np.float64).sum(1), atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_edits_are_rounded_once_and_keep_the_type(dtype):
    rng = np.random.default_rng(0)
    weight, bias = rng.normal(size=(4, 6)).astype(dtype), rng.normal(size=4).astype(dtype)
    scale, shift = rng.normal(size=6), rng.normal(size=6)
    graph, op = made(Linear(), weight, bias)
    weights.scale_columns(graph, op, scale, shift)
    wide = weight.astype(np.float64)
    np.testing.assert_array_equal(op.weight.array(), (wide * scale).astype(dtype))
    np.testing.assert_array_equal(
        op.bias.array(), (wide @ shift + bias.astype(float)).astype(dtype)
    )


def test_bias_of_a_new_constant_has_the_weights_type():
    graph, op = made(Linear(), np.ones((2, 3), np.float16))
    weights.set_bias(graph, op, np.array([math.pi, 1.0]))
    assert op.bias.dtype == np.float16
