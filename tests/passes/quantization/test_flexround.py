"""flexround: its formulas against finite differences, its start against rtn, and rtn beaten."""

import numpy as np
import pytest
from hypothesis import given

from passel.passes.quantization.grid import Grid
from passel.passes.quantization.layer import LayerData
from passel.passes.quantization.rounded import Format
from passel.passes.quantization.rounding import round_weight
from passel.passes.quantization.rounding.flexround import Learner, flexround, initial_divisors
from passel.passes.quantization.rounding.gptq import gptq
from passel.passes.quantization.rounding.problem import pose
from passel.passes.quantization.rounding.rtn import rtn
from tests.passes.quantization.layers import FORMATS, check_codes, layers, loss, trained_like


@pytest.mark.parametrize("wanted", FORMATS, ids=str)
def test_starts_at_nearest_bit_for_bit(wanted):
    layer = trained_like(6, 20)
    found, nearest = flexround(layer, wanted, steps=0), rtn(layer, wanted)
    np.testing.assert_array_equal(found.dense(), nearest.dense())
    np.testing.assert_array_equal(found.parts[0].codes, nearest.parts[0].codes)
    learner = Learner(pose(layer, wanted, None, "flexround"), slice(0, 6))
    learner.step(layer.second.astype(np.float32), 0.0)
    np.testing.assert_array_equal(learner.codes, nearest.parts[0].codes)


@pytest.mark.parametrize("wanted", FORMATS, ids=str)
@given(layer=layers())
def test_codes_and_scales_are_all_there_is(wanted, layer):
    """check_codes: Ŵ is scale·(codes − zero), on the grid; and it is no worse than nearest."""
    found = flexround(layer, wanted, steps=15)
    check_codes(found, wanted)
    (error, slack), (before, _) = (
        loss(layer, found),
        loss(layer, pose(layer, wanted, None, "").start),
    )
    assert error <= before + slack


@pytest.mark.parametrize(("name", "factor"), [("int4", 0.5), ("int3", 0.4), ("int2", 0.4)])
@pytest.mark.parametrize("shifted", [False, True])
def test_beats_rtn(name, factor, shifted):
    layer, wanted = trained_like(shifted=shifted), Format(Grid(name))
    found = flexround(layer, wanted)
    assert layer.error(found.dense()) < factor * layer.error(rtn(layer, wanted).dense())
    assert not np.array_equal(found.parts[0].scale, rtn(layer, wanted).parts[0].scale)


def test_no_row_is_worse_than_the_start():
    layer, wanted = trained_like(), Format(Grid("int3"))
    problem = pose(layer, wanted, None, "flexround")
    after = problem.losses(flexround(layer, wanted, steps=60).dense())
    assert (after <= problem.losses(problem.part.dense())).all()


@pytest.mark.parametrize("names", [["mse", "flexround"], ["mse", "gptq", "flexround"]])
def test_goes_on_from_other_stages(names):
    layer, wanted = trained_like(), Format(Grid("int4"))
    before = layer.error(round_weight(layer, wanted, names[:-1]).dense())
    found = round_weight(layer, wanted, names)
    assert found.method == "+".join(names)
    assert layer.error(found.dense()) < 0.97 * before


def test_begins_at_the_starts_codes_where_signs_allow():
    layer, wanted = trained_like(), Format(Grid("int4"))
    start = gptq(layer, wanted)
    learner = Learner(pose(layer, wanted, start, "flexround"), slice(0, 48))
    (part,) = start.parts
    divided = layer.weight / np.exp(learner.logs[0])
    codes = wanted.grid.encode(divided.astype(np.float64), part.scale, part.zero)
    flipped = layer.weight * part.codes < 0
    np.testing.assert_array_equal(codes[~flipped], part.codes[~flipped])
    assert not np.array_equal(part.codes, rtn(layer, wanted).parts[0].codes)


def smooth(grid, target, hessian, logs, scale, zero):
    """L(log S2, log s3, log s1) with the rounding replaced by the identity plus a constant.

    The constants make it agree with the rounded value where it is differentiated.
    """
    s1 = scale * np.exp(logs[2])
    w = target * np.exp(-logs[0] - logs[1])
    raw = w / s1 + zero
    codes = grid.encode(w, s1, zero)
    inside = (raw >= grid.low) & (raw <= grid.high)

    def loss_at(logs):
        s1 = scale * np.exp(logs[2])
        soft = target * np.exp(-logs[0] - logs[1]) / s1 + zero
        dense = s1 * (np.where(inside, soft + (codes - raw), codes) - zero)
        delta = dense - target
        return np.einsum("oi,ij,oj->", delta, hessian, delta)

    return loss_at


@pytest.mark.parametrize("name", ["int3", "uint3"])
def test_steps_go_against_the_gradient_of_the_formula(name, monkeypatch):
    rng = np.random.default_rng(0)
    grid = Grid(name, symmetric=name == "int3")
    x = rng.standard_normal((30, 6))
    layer = LayerData(rng.standard_normal((3, 6)), x.T @ x / 30)
    problem = pose(layer, Format(grid), None, "flexround")
    learner = Learner(problem, slice(0, 3))
    for log in learner.logs:
        log += 0.3 * rng.standard_normal(log.shape).astype(np.float32)
    seen = []
    for adam in learner.adams:
        monkeypatch.setattr(adam, "step", lambda log, slope, rate: seen.append(slope.copy()))
    logs = [log.astype(np.float64) for log in learner.logs]
    learner.step(layer.second.astype(np.float32), 0.01)
    loss_at = smooth(
        grid, problem.target, layer.second, logs, problem.part.scale, problem.part.zero
    )
    unit = problem.part.scale[:, :1] ** 2  # each row is learned in units of its scale
    for which, gradient in enumerate(seen):
        for index in np.ndindex(gradient.shape):
            ahead, behind = [a.copy() for a in logs], [a.copy() for a in logs]
            ahead[which][index] += 1e-5
            behind[which][index] -= 1e-5
            expected = (loss_at(ahead) - loss_at(behind)) / 2e-5
            found = 2 * gradient[index] * unit[index[0], 0]
            np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_divisors_that_cannot_be_are_one():
    x = np.array([[2.0, 2.0, 2.0, 0.0, -3.0]])
    numbers = np.array([[4.0, -1.0, 0.0, 1.0, -3.0]])
    differs = np.array([[True, True, True, True, False]])
    np.testing.assert_array_equal(initial_divisors(x, numbers, differs), [[0.5, 1, 8, 1, 1]])


def test_weights_of_zero_stay_zero():
    layer = trained_like(8, 20)
    weight = np.where(np.random.default_rng(0).random((8, 20)) < 0.5, 0, layer.weight)
    found = flexround(LayerData(weight, layer.second), Format(Grid("int4")))
    assert not found.dense()[weight == 0].any()
