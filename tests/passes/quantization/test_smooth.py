"""smooth: the paper's formula, and the modelled error against products of quantized data."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from passel.passes.quantization.equalize.smooth import migrated, modelled_error, smooth
from passel.passes.quantization.grid import Grid
from passel.passes.quantization.layer import LayerData
from passel.passes.quantization.rounded import Format

INT8 = Format(Grid("int8"))


def data_of(seed, width=24, samples=4000, spread=1.5):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((samples, width)) * np.exp(spread * rng.standard_normal(width))


def layer_of(x, weight):
    return LayerData(weight, second=x.T @ x / len(x), peak=np.abs(x).max(axis=0))


@given(st.integers(0, 10**6), st.floats(0, 1))
def test_the_papers_formula_up_to_a_common_factor(seed, strength):
    rng = np.random.default_rng(seed)
    peaks, weights = rng.uniform(0.1, 9, 6), [rng.standard_normal((k, 6)) for k in (3, 4)]
    found = smooth([LayerData(w, peak=peaks) for w in weights], INT8, strength=strength)
    reach = np.abs(np.vstack(weights)).max(axis=0)
    factor = found.scale / (peaks**strength / reach ** (1 - strength))
    np.testing.assert_allclose(factor, factor[0], rtol=1e-9)
    assert found.scale.max() * found.scale.min() == pytest.approx(1)
    assert found.strength == strength


def test_one_half_gives_input_and_weight_the_same_range():
    rng = np.random.default_rng(0)
    peaks, weight = rng.uniform(0.1, 9, 6), rng.standard_normal((5, 6))
    scale = migrated(peaks, np.abs(weight).max(axis=0), 0.5)
    ratio = np.abs(weight * scale).max(axis=0) / (peaks / scale)
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-12)


@pytest.mark.parametrize("bits", [6, 8])
@pytest.mark.parametrize("strength", [0.3, 0.5, 0.8])
def test_the_modelled_error_is_that_of_quantized_products(bits, strength):
    x = data_of(1, spread=0.7)
    weight = np.random.default_rng(1).standard_normal((16, 24))
    layer = layer_of(x, weight)
    scale = migrated(layer.peak, np.abs(weight).max(axis=0), strength)
    step = (layer.peak / scale).max() / (2 ** (bits - 1) - 1)
    codes = np.round(x / scale / step)
    assert np.abs(codes).max() <= 2 ** (bits - 1) - 1
    delta = np.abs(weight * scale).max(axis=1, keepdims=True) / 127
    rounded = np.round(weight * scale / delta) * delta
    measured = ((x @ weight.T - step * codes @ rounded.T) ** 2).sum(axis=1).mean()
    model = modelled_error(layer, scale, layer.peak, INT8, ["rtn"], bits)
    assert model == pytest.approx(measured, rel=0.05)


def test_the_search_beats_no_scales_where_there_are_outliers():
    x = data_of(2, spread=2.0)
    rng = np.random.default_rng(2)
    readers = [layer_of(x, rng.standard_normal((rows, 24))) for rows in (8, 16)]
    found = smooth(readers, INT8)
    assert found.strength is not None
    assert found.losses[found.strength] == min(found.losses.values())
    assert found.losses[found.strength] < 0.2 * found.losses[None]
    again = sum(
        modelled_error(layer, found.scale, layer.peak, INT8, ["rtn"], 8) for layer in readers
    )
    assert again == pytest.approx(found.losses[found.strength], rel=1e-12)


def test_scales_of_one_win_where_no_other_helps():
    layer = LayerData(np.eye(4) + 0.5, second=np.eye(4), peak=np.ones(4))
    found = smooth([layer], INT8)
    np.testing.assert_array_equal(found.scale, np.ones(4))


def test_without_second_moments_it_takes_the_usual_strength():
    layer = LayerData(np.random.default_rng(3).standard_normal((4, 6)), peak=np.arange(1.0, 7))
    found = smooth([layer], INT8)
    assert found.strength == 0.5
    assert found.losses == {}
    np.testing.assert_allclose(
        found.scale, migrated(layer.peak, np.abs(layer.weight).max(axis=0), 0.5)
    )


def test_without_statistics_it_says_so():
    found = smooth([LayerData(np.eye(3))], INT8)
    np.testing.assert_array_equal(found.scale, np.ones(3))
    assert "no statistics" in found.notes[0]


def test_dead_inputs_and_dead_columns_give_finite_scales():
    weight = np.random.default_rng(4).standard_normal((4, 6))
    weight[:, 0] = 0
    layer = LayerData(weight, peak=np.array([1.0, 0.0, 3.0, 1e-30, 2.0, 1.0]))
    scale = smooth([layer], INT8).scale
    assert np.all(np.isfinite(scale))
    assert 1e-2 <= scale.min() <= scale.max() <= 1e2


def test_powers_of_two():
    layer = LayerData(np.eye(6), peak=np.arange(1.0, 7) ** 3)
    mantissa, _ = np.frexp(smooth([layer], INT8, power_of_two=True).scale)
    assert np.all(mantissa == 0.5)


def test_a_strength_that_is_none():
    with pytest.raises(ValueError, match=r"expected a strength in \[0, 1\], got 2"):
        smooth([LayerData(np.eye(3))], INT8, strength=2)
