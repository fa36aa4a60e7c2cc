"""adaround: against brute force over all roundings down or up, and rtn."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from passel.passes.quantization.grid import Grid
from passel.passes.quantization.layer import LayerData
from passel.passes.quantization.rounded import Format
from passel.passes.quantization.rounding import round_weight
from passel.passes.quantization.rounding.adaround import adaround, code_values, neighbours
from passel.passes.quantization.rounding.descent import settle_codes
from passel.passes.quantization.rounding.gptq import gptq
from passel.passes.quantization.rounding.problem import pose
from passel.passes.quantization.rounding.rtn import rtn
from tests.passes.quantization.layers import FORMATS, check_codes, layers, loss, trained_like

INT4 = Format(Grid("int4"))


def correlated(rng, rows, width):
    x = rng.standard_normal((200, width)) + 1.5 * rng.standard_normal((200, 1))
    return LayerData(rng.standard_normal((rows, width)), x.T @ x / 200)


def brute_force(layer, wanted):
    """The least error of each row over all 2^I choices between floor and ceiling."""
    (part,) = rtn(layer, wanted).parts
    low = np.floor(layer.weight / part.scale)
    best = np.full(len(layer.weight), np.inf)
    for up in product((0, 1), repeat=layer.weight.shape[1]):
        codes = np.clip(low + np.array(up), wanted.grid.low, wanted.grid.high)
        delta = layer.weight - part.scale * codes
        best = np.minimum(best, np.einsum("oi,ij,oj->o", delta, layer.second, delta))
    return best


@pytest.mark.parametrize(("width", "rows"), [(3, 2), (4, 1)])
def test_equals_brute_force_on_toys(width, rows):
    """The best of all roundings in nearly all of 40 toys, and never far from it."""
    hits, total = 0, 0
    for seed in range(40):
        layer = correlated(np.random.default_rng(seed), rows, width)
        dense = adaround(layer, INT4, settled=False).dense()
        delta = layer.weight - dense
        found = np.einsum("oi,ij,oj->o", delta, layer.second, delta)
        best = brute_force(layer, INT4)
        assert (found >= best * (1 - 1e-9)).all()
        hits += int((found <= best * (1 + 1e-9)).sum())
        total += rows
        assert (found <= 1.5 * best).all(), found / best
    assert hits >= 0.9 * total


@pytest.mark.parametrize(("name", "factor"), [("int4", 0.5), ("int3", 0.5), ("int2", 0.6)])
@pytest.mark.parametrize("shifted", [False, True])
def test_beats_rtn(name, factor, shifted):
    layer, wanted = trained_like(shifted=shifted), Format(Grid(name))
    begun = layer.error(rtn(layer, wanted).dense())
    learned = layer.error(adaround(layer, wanted, settled=False).dense())
    assert learned < factor * begun
    assert layer.error(adaround(layer, wanted).dense()) < 0.9 * learned


def test_learning_beats_single_flips_from_nearest():
    """What is learned is worth more than coordinate descent alone."""
    layer, wanted = trained_like(), INT4
    problem = pose(layer, wanted, None, "adaround")
    alone = settle_codes(problem, problem.part, layer.second)
    assert layer.error(adaround(layer, wanted).dense()) < 0.97 * layer.error(alone.dense())


@pytest.mark.parametrize("wanted", FORMATS, ids=str)
@given(layer=layers())
def test_no_worse_than_nearest(wanted, layer):
    found = adaround(layer, wanted, steps=20)
    check_codes(found, wanted)
    (error, slack), (before, _) = (
        loss(layer, found),
        loss(layer, pose(layer, wanted, None, "").start),
    )
    assert error <= before + slack


@pytest.mark.parametrize("wanted", FORMATS, ids=str)
def test_after_settling_no_single_code_can_be_improved(wanted):
    layer = trained_like(5, 19, seed=3)
    problem = pose(layer, wanted, None, "adaround")
    found = settle_codes(problem, problem.part, layer.second, sweeps=1000)
    losses = problem.losses(found.dense())
    assert (losses <= problem.losses(problem.part.dense())).all()
    for column in range(19):
        for value in code_values(wanted.grid):
            codes = found.codes.copy()
            codes[:, column] = value
            other = problem.losses(problem.with_codes(codes, found.scale, found.zero).dense())
            assert (other >= losses * (1 - 1e-6)).all()


def test_settling_works_over_several_lazy_blocks():
    layer = trained_like(3, 290)
    problem = pose(layer, INT4, None, "adaround")
    found = settle_codes(problem, problem.part, layer.second, sweeps=1)
    codes, (part,) = problem.part.codes.astype(float), problem.start.parts
    for column in range(290):  # one sweep, with the slope computed anew each time
        slope = (part.scale * codes - layer.weight) @ layer.second[:, column]
        value = part.scale[:, 0] * codes[:, column] - slope / layer.second[column, column]
        codes[:, column] = np.clip(np.round(value / part.scale[:, 0]), -7, 7)
    np.testing.assert_array_equal(found.codes, codes)


def test_gptqs_codes_are_a_start():
    layer = trained_like()
    before = gptq(layer, INT4)
    found = round_weight(layer, INT4, ["gptq", "adaround"])
    assert found.method == "gptq+adaround"
    assert layer.error(found.dense()) < layer.error(before.dense())
    np.testing.assert_array_equal(found.parts[0].scale, before.parts[0].scale)


@pytest.mark.parametrize("name", ["int3", "uint4", "float8_e4m3fn", "float4_e2m1fn"])
@given(seed=st.integers(0, 10**6))
def test_neighbours_hold_the_code_and_are_adjacent(name, seed):
    rng = np.random.default_rng(seed)
    grid = Grid(name)
    values = code_values(grid)
    x = rng.uniform(2 * values[0] - 1, 2 * values[-1] + 1, (2, 6))
    codes = rng.choice(values, (2, 6))
    lower, upper = neighbours(grid, x, codes)
    assert ((lower == codes) | (upper == codes)).all()
    np.testing.assert_array_equal(
        np.searchsorted(values, upper), np.searchsorted(values, lower) + 1
    )
    nearest = values[np.abs(values - x[..., None]).argmin(axis=-1)]
    lower, upper = neighbours(grid, x, nearest)
    inside = (x >= values[0]) & (x <= values[-1])
    assert ((lower <= x) & (x <= upper))[inside].all()


def test_the_same_twice():
    layer = trained_like(8, 20)
    np.testing.assert_array_equal(adaround(layer, INT4).dense(), adaround(layer, INT4).dense())
