"""gptq: against OBQ written out with its inverse updated column by column, and rtn."""

import time

import numpy as np
import pytest
from hypothesis import given

from passel.passes.quantization.grid import Grid
from passel.passes.quantization.layer import LayerData
from passel.passes.quantization.rounded import Format
from passel.passes.quantization.rounding import round_weight
from passel.passes.quantization.rounding.gptq import feedback, gptq, inverse_factor
from passel.passes.quantization.rounding.mse import mse
from passel.passes.quantization.rounding.problem import pose
from passel.passes.quantization.rounding.rtn import rtn
from tests.passes.quantization.layers import FORMATS, check_codes, layers, loss, trained_like


def obq(target, hessian, part, order, damping):
    """Equations 2 and 3 of the paper, row by row, in the order given."""
    width = len(hessian)
    grid = part.format.grid
    scale = np.broadcast_to(part.format.spread(part.scale, width), target.shape)
    zero = np.broadcast_to(part.format.spread(part.zero, width), target.shape)
    codes = np.zeros(target.shape)
    for row, left in enumerate(target.copy()):
        inverse = np.linalg.inv(hessian + damping * np.diag(hessian).mean() * np.eye(width))
        for q in order:
            codes[row, q] = grid.encode(left[q], scale[row, q], zero[row, q])
            error = left[q] - scale[row, q] * (codes[row, q] - zero[row, q])
            left -= error / inverse[q, q] * inverse[:, q]
            inverse -= np.outer(inverse[:, q], inverse[q]) / inverse[q, q]
            inverse[q], inverse[:, q], inverse[q, q] = 0, 0, 1
    return codes


@pytest.mark.parametrize("wanted", FORMATS, ids=str)
@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("shifted", [False, True])
def test_equals_obq(wanted, ordered, shifted):
    layer = trained_like(4, 17, seed=1, shifted=shifted)
    problem = pose(layer, wanted, None, "gptq")
    order = np.argsort(-np.diag(layer.second), kind="stable") if ordered else range(17)
    expected = obq(layer.target(), layer.second, problem.part, order, 0.01)
    found = feedback(problem, layer.second, ordered, 0.01)
    np.testing.assert_array_equal(found.codes, expected)
    nearest = problem.nearest(found.scale, found.zero).codes
    assert wanted.grid.bits < 3 or not np.array_equal(found.codes, nearest)


def test_equals_obq_over_several_lazy_blocks():
    layer = trained_like(2, 290)
    problem = pose(layer, Format(Grid("int4"), 32), None, "gptq")
    order = np.argsort(-np.diag(layer.second), kind="stable")
    expected = obq(layer.target(), layer.second, problem.part, order, 0.01)
    np.testing.assert_array_equal(feedback(problem, layer.second, True, 0.01).codes, expected)


def test_the_factor_is_that_of_the_inverse():
    second = trained_like(4, 30).second
    upper = inverse_factor(second, 0.01)
    damped = second + 0.01 * np.diag(second).mean() * np.eye(30)
    np.testing.assert_allclose(upper.T @ upper @ damped, np.eye(30), atol=1e-9)
    assert not np.tril(upper, -1).any()


def test_moments_that_are_not_positive_are_damped_more():
    upper = inverse_factor(np.array([[1.0, 1.2], [1.2, 1.0]]), 0.01)
    assert np.isfinite(upper).all()
    assert (np.diag(upper) > 0).all()


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize(("name", "factor"), [("int4", 0.35), ("int3", 0.35), ("int2", 0.5)])
def test_beats_rtn(name, factor, shifted):
    layer, wanted = trained_like(shifted=shifted), Format(Grid(name))
    nearest, found = rtn(layer, wanted), gptq(layer, wanted)
    assert layer.error(found.dense()) < factor * layer.error(nearest.dense())


def test_scales_of_mse_are_better_than_those_of_the_extremes():
    layer, wanted = trained_like(), Format(Grid("int3"))
    both = round_weight(layer, wanted, ["mse", "gptq"])
    assert both.method == "mse+gptq"
    np.testing.assert_array_equal(both.parts[0].scale, mse(layer, wanted).parts[0].scale)
    assert layer.error(both.dense()) < 0.7 * layer.error(gptq(layer, wanted).dense())


@pytest.mark.parametrize("wanted", FORMATS, ids=str)
@given(layer=layers())
def test_no_worse_than_nearest(wanted, layer):
    found = gptq(layer, wanted)
    check_codes(found, wanted)
    (error, slack), (before, _) = (
        loss(layer, found),
        loss(layer, pose(layer, wanted, None, "").start),
    )
    assert error <= before + slack


def test_uncorrelated_inputs_leave_the_nearest_codes():
    weight = np.random.default_rng(0).standard_normal((5, 9))
    layer = LayerData(weight, np.diag(np.arange(1.0, 10)))
    wanted = Format(Grid("int3"), 4)
    np.testing.assert_array_equal(gptq(layer, wanted).dense(), rtn(layer, wanted).dense())


def test_inputs_that_are_always_zero_are_rounded_to_nearest():
    layer, wanted = trained_like(6, 20), Format(Grid("int4"))
    second = layer.second.copy()
    second[3], second[:, 3] = 0, 0
    problem = pose(LayerData(layer.weight, second), wanted, None, "gptq")
    found = feedback(problem, second, True, 0.01)
    np.testing.assert_array_equal(found.codes[:, 3], rtn(layer, wanted).parts[0].codes[:, 3])
    kept = np.delete(np.arange(20), 3)
    rest = LayerData(layer.weight[:, kept], second[np.ix_(kept, kept)])
    part = problem.with_codes(problem.part.codes[:, kept], problem.part.scale, problem.part.zero)
    expected = obq(rest.target(), rest.second, part, np.argsort(-np.diag(rest.second)), 0.01)
    np.testing.assert_array_equal(found.codes[:, kept], expected)


@pytest.mark.parametrize("second", [None, np.zeros((5, 5))])
@pytest.mark.parametrize("name", ["gptq", "adaround", "flexround"])
def test_without_statistics_the_codes_stay_with_a_note(name, second):
    layer = LayerData(np.random.default_rng(0).standard_normal((3, 5)), second, name="fc")
    wanted = Format(Grid("int4"))
    found = round_weight(layer, wanted, [name])
    np.testing.assert_array_equal(found.dense(), rtn(layer, wanted).dense())
    assert found.notes == (f"fc: {name}: no statistics of the inputs, kept the codes of rtn",)


@pytest.mark.slow
def test_a_large_layer_takes_seconds():
    layer = trained_like(3072, 768)
    begun = time.perf_counter()
    gptq(layer, Format(Grid("int4"), 128))
    assert time.perf_counter() - begun < 10
