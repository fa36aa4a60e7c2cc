"""Choosing positions at run time through Relax: against numpy, ties and NaNs included."""

from typing import Any

import numpy as np
import pytest
import torch

from passel.graph import Graph, Op
from passel.graph.ops import Put, Range, Sort, Take
from passel.models.routing import gather_tokens, scatter_tokens
from tests.backends.tvm.emission import (
    VIEWS,
    arrays_of,
    assert_same,
    built,
    graph_of,
    noise,
    whole,
)

TOPK = """
    <ir_version: 8, opset_import: ["" : 18]>
    g (float[2, 9] x, int64[6, 2] i) => (float[2,4] a, int64[2,4] b, float[2,9] c, int64[2,9] d,
                                         int64[2,2] e, int64[2,2] f) {
        four = Constant<value = int64[1] {4}>()
        nine = Constant<value = int64[1] {9}>()
        two = Constant<value = int64[1] {2}>()
        a, b = TopK<axis = -1, largest = 1>(x, four)
        c, d = TopK<axis = 1, largest = 0>(x, nine)
        e, f = TopK<axis = 0, largest = 1>(i, two)
    }"""


def order(x: np.ndarray, largest: bool) -> np.ndarray:
    """Positions in order: equal entries as they stand, NaN the largest."""
    rank = [(np.isnan(e), 0.0 if np.isnan(e) else float(e)) for e in x]
    places = sorted(range(len(x)), key=rank.__getitem__)
    if largest:
        places = sorted(range(len(x)), key=lambda k: (not rank[k][0], -rank[k][1]))
    return np.array(places)


def test_topk_takes_the_first_of_equals_and_nan_as_the_largest(machine, onnx_text):
    x = np.array(
        [
            [1, np.nan, 3, 3, -np.inf, 0.0, -0.0, np.nan, 3],
            [5, 5, 5, 5, np.inf, -1, -2, -1, 5],
        ],
        np.float32,
    )
    i = whole(6, 2, low=-3, high=3).numpy() * 2**40
    graph, _ = onnx_text(TOPK, x, i)
    a, b, c, d, e, f = built(graph, machine)([x, i])
    largest, smallest = ([order(row, flag) for row in x] for flag in (True, False))
    assert np.array_equal(b, np.array(largest)[:, :4])
    assert np.array_equal(d, np.array(smallest))
    for values, places in ((a, b), (c, d)):
        assert np.array_equal(values, np.take_along_axis(x, places, 1), equal_nan=True)
    columns = np.stack([order(column.astype(float), True)[:2] for column in i.T], 1)
    assert np.array_equal(f, columns)
    assert np.array_equal(e, np.take_along_axis(i, columns, 0))


def chosen(self, x, scores, index):
    values, places = scores.topk(3, dim=1)
    rows = places.sort(dim=1).values
    taken = gather_tokens(x, rows)
    return values, taken, scatter_tokens(x, rows, taken * 2), x.scatter(1, index, 0.5)


def moved(self, x, scores, index):
    scattered = x.scatter(1, index, x[:, :2] * 3)
    return scattered, x.tril(1), x.triu(-1), torch.full_like(x, 2.5), scores.argmax(1)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("function", [chosen, moved], ids=["chosen", "moved"])
def test_tokens(machine, view, function):
    index = torch.argsort(noise(2, 7, 4, seed=3), 1)[:, :2]
    inputs = noise(2, 7, 4), noise(2, 7, seed=1), index
    graph = graph_of(function, inputs, view)
    arrays = arrays_of(*inputs)
    assert_same(graph.run(arrays), built(graph, machine)(arrays))


IDENTITY = """
    <ir_version: 8, opset_import: ["" : 18]>
    g (float[3, 2, 6, 5] x, int64[3, 2] i, float[3, 2, 2, 5] u, int64 n) => (float[] y) {
        y = Identity(x)
    }"""


def alone(op: Op, graph: Graph, shapes: tuple[tuple[int, ...], ...], dtype: Any) -> Graph:
    """A graph of one op over the inputs of another graph."""
    op.inputs = [graph.inputs[k] for k in range(len(shapes) - 1)]
    graph.add(op, (shapes[-1], np.dtype(dtype)))
    graph.outputs = [op.output]
    return graph


def test_take_and_put_along_any_axes(machine, onnx_text):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 2, 6, 5)).astype(np.float32)
    i = np.stack([rng.permutation(6)[:2] for _ in range(3)])
    u = rng.normal(size=(3, 2, 2, 5)).astype(np.float32)
    inputs = [x, i, u, np.array(0)]
    graph = alone(
        Take(axis=2, batch=0), onnx_text(IDENTITY)[0], (x.shape, i.shape, u.shape), np.float32
    )
    (taken,) = built(graph, machine)(inputs)
    rows = np.arange(3)[:, None]
    assert np.array_equal(taken, x.transpose(0, 2, 1, 3)[rows, i].transpose(0, 2, 1, 3))
    graph = alone(
        Put(axis=2, batch=0),
        onnx_text(IDENTITY)[0],
        (*(a.shape for a in inputs[:3]), x.shape),
        x.dtype,
    )
    (put,) = built(graph, machine)(inputs)
    expected = x.transpose(0, 2, 1, 3).copy()
    expected[rows, i] = u.transpose(0, 2, 1, 3)
    assert np.array_equal(put, expected.transpose(0, 2, 1, 3))


def test_sort_and_range(machine, onnx_text):
    x = noise(3, 2, 6, 5).numpy()
    x[0, 0, 0, 1] = np.nan
    inputs = [x, whole(3, 2).numpy(), noise(3, 2, 2, 5).numpy(), np.array(0)]
    graph = alone(Sort(), onnx_text(IDENTITY)[0], (x.shape, x.shape), x.dtype)
    assert np.array_equal(built(graph, machine)(inputs)[0], np.sort(x, -1), equal_nan=True)
    graph = alone(Range(start=3), onnx_text(IDENTITY)[0], ((4,),), np.int64)
    graph.set_input(graph.outputs[0].producer, 0, graph.constant(np.array(4)))
    assert built(graph, machine)(inputs)[0].tolist() == [3, 4, 5, 6]


def test_scatters_of_rows_and_sums(machine, onnx_text):
    text = """
        <ir_version: 8, opset_import: ["" : 18]>
        g (float[4, 3, 2] x, int64[2, 2, 2] i, float[2, 2, 2] u, int64[4, 1, 2] j, float[4, 1, 2] w)
            => (float[4,3,2] a, float[4,3,2] b, float[4,3,2] c, float[2,2,2] d, float[4,1,2] e) {
            a = ScatterND(x, i, u)
            b = ScatterND<reduction = "add">(x, i, u)
            c = ScatterElements<axis = 1, reduction = "add">(x, j, w)
            d = GatherND(x, i)
            e = GatherElements<axis = 1>(x, j)
        }"""
    x, u, w = (
        noise(*shape, seed=k).numpy() for k, shape in enumerate([(4, 3, 2), (2, 2, 2), (4, 1, 2)])
    )
    i = np.array([[[0, 1], [3, -1]], [[-2, 0], [1, 2]]])
    j = np.array([0, 2, -1, 1, 1, 0, -3, 2]).reshape(4, 1, 2)
    graph, run = onnx_text(text, x, i, u, j, w)
    assert_same(run(), built(graph, machine)([x, i, u, j, w]), 1e-7)
