"""Pointwise functions and casts through Relax against the views' own evaluators."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.backends.tvm.emission import (
    CASES,
    NAMES,
    VIEWS,
    arrays_of,
    assert_same,
    built,
    graph_of,
    noise,
    whole,
)

BOUNDS = {torch.float32: 2e-7, torch.float64: 4e-16, torch.float16: 1.5e-3, torch.bfloat16: 1e-2}
"""A few units in the last place of results near 1, by type."""


def odd(dtype):
    """Numbers, among them NaN, infinity and −0."""
    x = noise(2, 3, 4, dtype=dtype)
    x[0, 0, :3] = torch.tensor([math.nan, math.inf, -0.0])
    return x


def unary(self, x, positive):
    smooth = [f(x) for f in (torch.neg, torch.exp, torch.erf, torch.tanh, torch.sigmoid)]
    rest = [f(x) for f in (torch.relu, F.silu, torch.abs, torch.isnan)]
    roots = [f(positive) for f in (torch.sqrt, torch.rsqrt, torch.reciprocal, torch.log)]
    waves = [torch.sin(positive), torch.cos(positive)]
    gelus = [F.gelu(positive), F.gelu(positive, approximate="tanh")]
    powers = [x.square(), x**3, positive**0.5, positive**1.7, 2.0**positive]
    return (*smooth, *rest, *roots, *waves, *gelus, *powers)


@pytest.mark.parametrize(("view", "dtype"), CASES, ids=NAMES)
def test_functions_of_one_operand(machine, view, dtype):
    inputs = odd(dtype), noise(2, 3, 4, seed=1, dtype=dtype).abs() + 0.1
    graph = graph_of(unary, inputs, view)
    arrays = arrays_of(*inputs)
    assert_same(graph.run(arrays), built(graph, machine)(arrays), BOUNDS[dtype])


def binary(self, x, y, c):
    arithmetic = [x + y, x - y, x * y, x / (y.abs() + 1), 2 - x, x * 0.3]
    extrema = [torch.maximum(x, y), torch.minimum(x, y), torch.maximum(y, x).relu()]
    compared = [x == y, x < y, x <= y, x > y, x >= y, x != x]
    chosen = [torch.where(c, x, y), torch.where(c, x, 0.5), x.masked_fill(c, -math.inf)]
    truth = [(x > 0) & (y > 0), (x > 0) | (y > 0), ~c, c == (x > 0)]
    return (*arithmetic, *extrema, *compared, *chosen, *truth)


@pytest.mark.parametrize(("view", "dtype"), CASES, ids=NAMES)
def test_functions_of_several_operands(machine, view, dtype):
    inputs = odd(dtype), noise(3, 4, seed=2, dtype=dtype), noise(2, 3, 1, seed=3) > 0
    inputs[1][2, 2] = math.nan
    graph = graph_of(binary, inputs, view)
    arrays = arrays_of(*inputs)
    assert_same(graph.run(arrays), built(graph, machine)(arrays), BOUNDS[dtype])


def integers(self, i, j):
    kept = [i + j, i - 3, i * j, -i, i.abs(), i**2, torch.maximum(i, j), i.clamp(1, 3)]
    divided = [i / j, torch.div(i, j, rounding_mode="trunc"), i // j, i % j]
    typed = [i.float() * 0.5, i.to(torch.int32), i.to(torch.uint8) + 1, i.bool(), (i > 2).long()]
    return (*kept, *divided, *typed, i == j, i < 2)


@pytest.mark.parametrize("view", VIEWS)
def test_integers(machine, view):
    inputs = whole(3, 4), whole(4, low=1, high=5, seed=1)
    graph = graph_of(integers, inputs, view)
    arrays = arrays_of(*inputs)
    assert_same(graph.run(arrays), built(graph, machine)(arrays), 1e-7)


def test_onnx_divides_integers_towards_zero(machine, onnx_text):
    text = """
        <ir_version: 8, opset_import: ["" : 18]>
        g (int64[6] x, int64[6] y) => (int64[6] z, float[6] f) {
            z = Div(x, y)
            one = Constant<value = float {0.1}>()
            c = Cast<to = 1>(x)
            f = Mul(c, one)
        }"""
    arrays = [np.array([7, -7, 7, -7, 0, 9]), np.array([2, 2, -2, -2, 5, 3])]
    graph, run = onnx_text(text, *arrays)
    found = built(graph, machine)(arrays)
    assert_same(run(), found)
    assert found[0].tolist() == [3, -3, -3, 3, 0, 3]


def casts(self, x):
    kinds = (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int8, torch.bool)
    return (*(x.to(kind) for kind in kinds), x.to(torch.bfloat16).float() + 1)


def test_casts(machine):
    x = noise(5, 7) * 20
    x[0, 0] = 0.0
    graph = graph_of(casts, (x,), "fx")
    arrays = arrays_of(x)
    assert_same(graph.run(arrays), built(graph, machine)(arrays), 5e-3)


def mixed(self, x, i, n):
    return x + i, x * n, i * 2.5, x > i, torch.where(i > 0, x, i), i < n


def test_operands_of_several_types(machine):
    inputs = noise(3, 4), whole(4), torch.tensor(2.25, dtype=torch.float64)
    graph = graph_of(mixed, inputs, "fx")
    arrays = arrays_of(*inputs)
    assert_same(graph.run(arrays), built(graph, machine)(arrays), 1e-7)
