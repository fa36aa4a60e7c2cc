"""mse: against an exhaustive search over scales and zero points, and rtn."""

import numpy as np
import pytest
from hypothesis import given

from passel.passes.quantization.grid import Grid
from passel.passes.quantization.layer import LayerData
from passel.passes.quantization.rounded import Format, Part, Rounded
from passel.passes.quantization.rounding import round_weight
from passel.passes.quantization.rounding.mse import mse
from passel.passes.quantization.rounding.problem import pose
from passel.passes.quantization.rounding.rtn import rtn
from tests.passes.quantization.layers import FORMATS, check_codes, layers, trained_like


def weighted(layer, dense):
    """The loss that mse minimises: Σ E[x_j²]·(t_j − t̂_j)² per row."""
    delta = layer.target() - dense
    return delta**2 @ (np.ones(delta.shape[1]) if layer.second is None else np.diag(layer.second))


def exhaustive(row, power, grid):
    """The smallest loss of any of 4000 scales and all zero points."""
    steps = grid.high if grid.is_float else (grid.high - grid.low) / 2
    scales = np.linspace(0.05, 2.5, 4000)[:, None] * np.abs(row).max() / steps
    fixed = grid.symmetric or grid.is_float
    zeros = [0 if grid.is_float else grid.middle] if fixed else range(grid.low, grid.high + 1)
    losses = []
    for zero in zeros:
        place = row / scales
        if grid.is_float:
            numbers = np.clip(place, grid.low, grid.high).astype(grid.dtype).astype(float)
        else:
            numbers = np.clip(np.round(place) + zero, grid.low, grid.high) - zero
        losses.append((power * (row - scales * numbers) ** 2).sum(axis=1).min())
    return min(losses)


@pytest.mark.parametrize("name", ["int4", "int3", "int2", "uint3", "float4_e2m1fn"])
@pytest.mark.parametrize("calibrated", [False, True])
def test_hardly_any_scale_of_an_exhaustive_search_is_better(name, calibrated):
    rng = np.random.default_rng(0)
    wanted = Format(Grid(name, symmetric=name != "uint3"))
    ratios = []
    for _ in range(12):
        row = rng.standard_normal(24) + 0.4
        power = rng.uniform(0.1, 2, 24) ** 2 if calibrated else np.ones(24)
        layer = LayerData(row[None], np.diag(power) if calibrated else None)
        found = weighted(layer, mse(layer, wanted).dense())[0]
        ratios.append(found / exhaustive(row, power, wanted.grid))
    assert np.median(ratios) <= 1.001
    assert max(ratios) <= 1.25, ratios


def test_blocks_are_searched_one_by_one():
    """Each block, the short one too, gets what it would get as a row of its own."""
    weight = np.random.default_rng(1).standard_normal((3, 11))
    form = Format(Grid("int3"), 4)
    found = mse(LayerData(weight), form).dense()
    for first in range(0, 11, 4):
        part = weight[:, first : first + 4]
        alone = mse(LayerData(part), Format(Grid("int3"))).dense()
        np.testing.assert_array_equal(found[:, first : first + 4], alone)
    joint = mse(LayerData(weight), Format(Grid("int3"), -1)).dense()
    flat = mse(LayerData(weight.reshape(1, -1)), Format(Grid("int3"))).dense()
    np.testing.assert_array_equal(joint, flat.reshape(3, 11))


@pytest.mark.parametrize("wanted", FORMATS, ids=str)
@given(layer=layers())
def test_no_block_is_worse_than_by_its_extremes(wanted, layer):
    found = mse(layer, wanted)
    check_codes(found, wanted)
    begun = pose(layer, wanted, None, "mse")
    before = begun.nearest(begun.part.scale, begun.part.zero).dense()
    slack = 1e-12 * (1 + weighted(layer, 0 * before))
    assert (weighted(layer, found.dense()) <= weighted(layer, before) + slack).all() or (
        wanted.block < 0
        and weighted(layer, found.dense()).sum() <= weighted(layer, before).sum() + slack.sum()
    )


@pytest.mark.parametrize("name", ["int4", "int3", "int2"])
def test_beats_rtn_by_the_layers_own_error(name):
    layer, wanted = trained_like(), Format(Grid(name))
    assert layer.error(mse(layer, wanted).dense()) < 0.8 * layer.error(rtn(layer, wanted).dense())


def test_statistics_decide_what_is_clipped():
    weight = np.array([[4.0, 1.0, 0.9, -0.8]])
    wanted = Format(Grid("int3"))
    rare = LayerData(weight, np.diag([1e-4, 1, 1, 1]))
    assert mse(rare, wanted).dense()[0, 0] < 3
    assert mse(LayerData(weight), wanted).dense()[0, 0] > 3.5


def test_factors_around_the_codes_are_kept():
    """Rounding W·diag(1/c) with factors c is what rounding that weight without factors gives."""
    layer, wanted = trained_like(8, 12), Format(Grid("int4"))
    columns = np.exp(np.random.default_rng(0).standard_normal(12))
    scaled = LayerData(layer.weight / columns, columns[:, None] * layer.second * columns)
    plain = rtn(scaled, wanted)
    start = Rounded(plain.parts, plain.shape, columns=columns, method="awq")
    found = mse(layer, wanted, start)
    assert found.method == "awq+mse"
    np.testing.assert_allclose(found.dense(), mse(scaled, wanted).dense() * columns, rtol=1e-12)


def test_a_correction_is_taken_into_account():
    layer, wanted = trained_like(8, 12), Format(Grid("int4"))
    left, right = np.full((8, 1), 0.1), np.full((1, 12), 0.2)
    rest = LayerData(layer.weight - left @ right, layer.second)
    start = Rounded(rtn(rest, wanted).parts, (8, 12), left=left, right=right, method="x")
    expected = mse(rest, wanted).dense() + left @ right
    np.testing.assert_allclose(mse(layer, wanted, start).dense(), expected, rtol=1e-9)


@pytest.mark.parametrize("name", ["mse", "gptq", "adaround", "flexround"])
@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_a_weight_that_is_not_finite_is_refused(name, value):
    weight = np.ones((2, 3))
    weight[1, 1] = value
    with pytest.raises(ValueError, match=r"blocks.3.fc: expected finite numbers in weight, got 1"):
        round_weight(LayerData(weight, name="blocks.3.fc"), Format(Grid("int4")), [name])


@pytest.mark.parametrize("name", ["mse", "gptq", "adaround", "flexround"])
def test_statistics_of_another_width_are_refused(name):
    layer = LayerData(np.ones((2, 3)), np.eye(4), name="fc")
    with pytest.raises(ValueError, match=r"fc: expected second moments of shape \(3, 3\)"):
        round_weight(layer, Format(Grid("int4")), [name])


@pytest.mark.parametrize("name", ["mse", "gptq", "adaround", "flexround"])
def test_a_start_with_a_table_is_refused(name):
    form = Format(Grid("uint2"))
    part = Part(np.zeros((1, 2)), np.ones((1, 1)), np.zeros((1, 1)), form, table=np.arange(4.0))
    start = Rounded((part,), (1, 2), method="codebook")
    from passel.passes.quantization.rounding.registry import STAGES

    with pytest.raises(ValueError, match=f"expected {name} to follow one tensor .* 'codebook'"):
        STAGES[name](LayerData(np.ones((1, 2)), np.eye(2)), form, start)
