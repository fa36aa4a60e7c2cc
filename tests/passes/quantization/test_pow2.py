"""pow2, pow2-group: constraints hold exactly, codes are the nearest, errors as ZeroQuant-FP's."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from passel.passes.quantization.grid import Grid
from passel.passes.quantization.layer import LayerData
from passel.passes.quantization.rounded import Format, Rounded
from passel.passes.quantization.rounding import round_weight
from passel.passes.quantization.rounding.pow2 import group_scales, pow2, pow2_group
from passel.passes.quantization.rounding.rescale import recoded
from passel.passes.quantization.rounding.rtn import rtn
from tests.passes.quantization.layers import FORMATS, check_codes, layers, trained_like
from tests.passes.quantization.test_grid import scattered


def is_power_of_two(x):
    return np.frexp(x)[0] == 0.5


def relative_error(rounded, weight):
    return ((rounded.dense() - weight) ** 2).sum() / (weight**2).sum()


def check_nearest(part, weight):
    """No other code of the grid is nearer than the one chosen."""
    grid, width = part.format.grid, weight.shape[1]
    if grid.is_float:
        half = np.arange(2 ** (grid.bits - 1), dtype=np.uint8).view(grid.dtype).astype(float)
        half = half[np.isfinite(half)]
        codes = np.concatenate([-half, half])
    else:
        codes = np.arange(grid.low, grid.high + 1)
    scale, zero = (part.format.spread(x, width) for x in (part.scale, part.zero))
    values = scale[..., None] * (codes - zero[..., None])
    least = np.abs(weight[..., None] - values).min(axis=-1)
    np.testing.assert_allclose(np.abs(weight - part.dense()), least, rtol=1e-5, atol=1e-300)


@given(layer=layers(), wanted=st.sampled_from(FORMATS))
def test_m1_scales_are_the_next_power_of_two(layer, wanted):
    rounded, start = pow2(layer, wanted), rtn(layer, wanted)
    check_codes(rounded, wanted)
    (part,), (free,) = rounded.parts, start.parts
    assert is_power_of_two(part.scale).all()
    for new, old in zip(part.scale.flat, free.scale.flat, strict=True):
        if old >= 2.0**-126:
            assert Fraction(new) / 2 < Fraction(old) <= Fraction(new)
    check_nearest(part, layer.weight.astype(np.float64))


@given(layer=layers(), wanted=st.sampled_from(FORMATS), rows=st.integers(0, 6))
def test_m2_scales_are_power_of_two_fractions_of_the_group_s_largest(layer, wanted, rows):
    rounded, start = pow2_group(layer, wanted, parameter=rows), rtn(layer, wanted)
    check_codes(rounded, wanted)
    (part,), (free,) = rounded.parts, start.parts
    check_nearest(part, layer.weight.astype(np.float64))
    size = rows or (1 if part.scale.shape[1] > 1 else len(part.scale))
    for first in range(0, len(part.scale), size):
        old, new = free.scale[first : first + size], part.scale[first : first + size]
        if old.min() < 2.0**-120:
            continue
        assert new.max() == old.max()
        assert is_power_of_two(old.max() / new).all()
        assert ((new < 2 * old) & (new > old / 2)).all()


@given(layer=layers(), wanted=st.sampled_from(FORMATS))
def test_m2_takes_the_better_exponent_of_each_block(layer, wanted):
    (free,) = rtn(layer, wanted).parts
    weight = layer.weight.astype(np.float64)
    rows = 1 if free.scale.shape[1] > 1 else len(free.scale)
    columns = np.ones(weight.shape[1]) if layer.second is None else np.diag(layer.second)
    error = [
        (columns * (weight - recoded(free, weight, scale).dense()) ** 2).sum()
        for scale in (group_scales(free.scale, rows, up=up) for up in (False, True))
    ]
    found = (columns * (weight - pow2_group(layer, wanted).dense()) ** 2).sum()
    assert found <= min(error) * (1 + 1e-9)


@pytest.mark.parametrize(("up", "stated"), [(False, 0.0134), (True, 0.0287)])
def test_m2_with_one_way_of_rounding_has_the_stated_error(up, stated):
    weight = scattered()
    (free,) = rtn(LayerData(weight), Format(Grid("float4_e2m1fn"), 64)).parts
    part = recoded(free, weight, group_scales(free.scale, 1, up=up))
    assert relative_error(Rounded((part,), weight.shape), weight) == pytest.approx(stated, abs=5e-4)


def test_m1_has_the_stated_error_and_m2_less():
    weight, wanted = scattered(), Format(Grid("float4_e2m1fn"), 64)
    first = relative_error(pow2(LayerData(weight), wanted), weight)
    second = relative_error(pow2_group(LayerData(weight), wanted), weight)
    assert first == pytest.approx(0.0144, abs=5e-4)
    assert second < 0.0134


def test_a_range_of_one_sign_stays_covered_in_an_asymmetric_format():
    weight = np.random.default_rng(0).uniform(0, 1, (4, 32))
    wanted = Format(Grid("uint4", symmetric=False), 8)
    (part,) = pow2(LayerData(weight), wanted).parts
    assert (part.zero == 0).all()
    error = np.abs(part.dense() - weight)
    assert (error <= wanted.spread(part.scale, 32) / 2 + 1e-12).all()


def test_zero_points_keep_the_lower_end_where_it_was():
    weight = np.random.default_rng(0).uniform(-0.2, 1, (4, 32))
    wanted = Format(Grid("int4", symmetric=False), 8)
    (part,), (old,) = pow2(LayerData(weight), wanted).parts, rtn(LayerData(weight), wanted).parts
    ends = [one.scale * (wanted.grid.low - one.zero) for one in (part, old)]
    assert (np.abs(ends[0] - ends[1]) <= part.scale / 2 + 1e-12).all()
    check_nearest(part, weight)
    error = np.abs(part.dense() - weight)
    assert (error <= wanted.spread(part.scale, 32) + 1e-12).all()


def test_each_of_two_parts_answers_for_what_the_other_leaves():
    layer, wanted = trained_like(), Format(Grid("int4"), 16)
    first = rtn(layer, wanted)
    second = rtn(LayerData(layer.weight - first.dense()), wanted)
    start = Rounded((*first.parts, *second.parts), layer.weight.shape)
    rounded = pow2(layer, wanted, start)
    weight = layer.weight.astype(np.float64)
    check_nearest(rounded.parts[0], weight - start.parts[1].dense())
    check_nearest(rounded.parts[1], weight - rounded.parts[0].dense())
    assert relative_error(rounded, weight) < 0.2 * relative_error(pow2(layer, wanted), weight)


def test_codes_of_a_table_and_a_correction_are_kept_apart():
    layer, wanted = trained_like(), Format(Grid("int4"), 16)
    for names in (["nupes", "pow2"], ["codebook:3", "pow2-group"], ["rtn", "lorc", "pow2"]):
        rounded = round_weight(layer, wanted, names)
        before = round_weight(layer, wanted, names[:-1])
        (part,), (old,) = rounded.parts, before.parts
        weight = layer.weight.astype(np.float64)
        if before.left is not None:
            np.testing.assert_array_equal(rounded.left, before.left)
            np.testing.assert_array_equal(rounded.right, before.right)
            weight = weight - before.left.astype(float) @ before.right.astype(float)
        if part.table is None:
            check_nearest(part, weight)
            continue
        np.testing.assert_array_equal(part.table, old.table)
        table = np.broadcast_to(part.table, (len(weight), part.table.shape[-1]))
        values = wanted.spread(part.scale, 64)[..., None] * table[:, None, :]
        least = np.abs(weight[..., None] - values).min(axis=-1)
        np.testing.assert_allclose(np.abs(weight - part.dense()), least, atol=1e-12)


def test_factors_are_taken_off_before_codes_are_chosen():
    layer, wanted = trained_like(), Format(Grid("int8"), 16)
    rng = np.random.default_rng(0)
    rows, columns = np.exp(rng.standard_normal(48)), np.exp(rng.standard_normal(64))
    inner = rtn(LayerData(layer.weight / rows[:, None] / columns), wanted)
    start = inner.but("factors", rows=rows, columns=columns)
    rounded = pow2(layer, wanted, start)
    check_nearest(rounded.parts[0], layer.weight.astype(np.float64) / rows[:, None] / columns)
    assert relative_error(rounded, layer.weight) < 1e-2


def test_a_bad_group_is_an_error():
    with pytest.raises(ValueError, match="rows of at least 0, got -1"):
        pow2_group(trained_like(), Format(Grid("int4")), parameter=-1)


def test_what_has_a_mask_cannot_be_rescaled():
    layer, wanted = trained_like(), Format(Grid("int4"))
    (part,) = rtn(layer, wanted).parts
    masked = replace(part, mask=np.ones(part.codes.shape, dtype=bool))
    with pytest.raises(ValueError, match="pow2 to follow scaled codes without offset or mask"):
        pow2(layer, wanted, Rounded((masked,), layer.weight.shape, method="x"))


@pytest.mark.parametrize("stage", [pow2, pow2_group])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_weight_that_is_not_finite_is_an_error(stage, bad):
    weight = np.ones((2, 3))
    weight[1, 1] = bad
    with pytest.raises(ValueError, match=r"proj.*finite"):
        stage(LayerData(weight, name="proj"), Format(Grid("int4")))
