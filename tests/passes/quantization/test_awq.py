"""awq: against products computed on the data itself, and the algebra of a rescaled layer."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from passel.passes.quantization.equalize.awq import GRID, awq
from passel.passes.quantization.equalize.scaled import SPAN, bounded, centred, rescaled
from passel.passes.quantization.grid import Grid
from passel.passes.quantization.layer import LayerData
from passel.passes.quantization.rounded import Format
from passel.passes.quantization.rounding.registry import STAGES
from passel.passes.quantization.rounding.rtn import rtn

INT3 = Format(Grid("int3"))


def data_of(seed, width=16, samples=400, spread=1.5):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((samples, width)) * np.exp(spread * rng.standard_normal(width))


def layer_of(x, weight, **more):
    return LayerData(weight, second=x.T @ x / len(x), mean_abs=np.abs(x).mean(axis=0), **more)


def by_hand(weight, scale):
    """Rounding of W·diag(s) to int3 a row, undone: written without passel."""
    scaled = weight * scale
    step = (np.abs(scaled).max(axis=1, keepdims=True) / 3).astype(np.float32).astype(np.float64)
    return np.clip(np.round(scaled / step), -3, 3) * step / scale


@given(st.integers(0, 10**6))
def test_losses_are_the_errors_of_the_outputs_on_the_data(seed):
    rng, x = np.random.default_rng(seed), data_of(seed)
    weights = [rng.standard_normal((rows, 16)) for rows in (5, 9)]
    found = awq([layer_of(x, weight) for weight in weights], INT3)
    assert tuple(found.losses) == GRID
    for t, loss in found.losses.items():
        scale = np.maximum(np.abs(x).mean(axis=0) ** t, 0)
        scale = scale / np.sqrt(scale.max() * scale.min())
        off = [((x @ (weight - by_hand(weight, scale)).T) ** 2).sum(axis=1) for weight in weights]
        assert loss == pytest.approx(sum(term.mean() for term in off), rel=1e-6)
        if t == found.strength:
            np.testing.assert_allclose(found.scale, scale, rtol=1e-9)
    assert found.losses[found.strength] == min(found.losses.values()) <= found.losses[0.0]


def test_outlier_channels_lose_less():
    rng, x = np.random.default_rng(0), data_of(0, spread=2.0)
    layer = layer_of(x, rng.standard_normal((32, 16)))
    found = awq([layer], INT3)
    assert 0 < found.strength <= 1
    assert found.losses[found.strength] < 0.7 * layer.error(rtn(layer, INT3).dense())


def test_equal_channels_stay_as_they_are():
    rng = np.random.default_rng(1)
    layer = LayerData(rng.standard_normal((4, 8)), second=np.eye(8), mean_abs=np.full(8, 0.8))
    found = awq([layer], INT3)
    assert found.strength == 0
    np.testing.assert_array_equal(found.scale, np.ones(8))


@given(st.integers(0, 10**6))
def test_a_rescaled_layer_has_the_same_errors(seed):
    rng, x = np.random.default_rng(seed), data_of(seed, width=6)
    original = x + 0.1 * rng.standard_normal(x.shape)
    layer = layer_of(x, rng.standard_normal((3, 6)), cross=original.T @ x / len(x))
    scale, other = np.exp(rng.standard_normal(6)), rng.standard_normal((3, 6))
    scaled = rescaled(layer, scale)
    alone, alike = replace(layer, cross=None), replace(scaled, cross=None)
    assert alike.error(other * scale) == pytest.approx(alone.error(other), rel=1e-9)
    np.testing.assert_allclose(scaled.second, (x / scale).T @ (x / scale) / len(x), rtol=1e-9)
    np.testing.assert_allclose(scaled.mean_abs, np.abs(x / scale).mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(scaled.cross, (original / scale).T @ (x / scale) / len(x), rtol=1e-9)


def test_the_rounding_sees_the_scaled_inputs(monkeypatch):
    seen = []

    def spy(layer, wanted, start=None):
        seen.append(layer)
        return rtn(layer, wanted, start)

    monkeypatch.setitem(STAGES, "spy", spy)
    x = data_of(2)
    layer = layer_of(x, np.random.default_rng(2).standard_normal((4, 16)))
    awq([layer], INT3, ["spy"], grid=(1.0,))
    scale = bounded(layer.mean_abs) / np.sqrt(bounded(layer.mean_abs).max() * layer.mean_abs.min())
    np.testing.assert_allclose(seen[1].second, layer.second / np.outer(scale, scale), rtol=1e-9)
    np.testing.assert_allclose(seen[1].weight, layer.weight * scale, rtol=1e-9)


def test_powers_of_two():
    x = data_of(3, spread=2.0)
    layer = layer_of(x, np.random.default_rng(3).standard_normal((8, 16)))
    found = awq([layer], INT3, power_of_two=True)
    mantissa, _ = np.frexp(found.scale)
    assert np.all(mantissa == 0.5)
    assert len(set(found.scale)) > 1


def test_scales_are_centred_and_bounded_with_dead_channels():
    sizes = np.array([0.0, 1e-12, 1.0, 3.0])
    scale = centred(bounded(sizes), power_of_two=False)
    assert scale.max() * scale.min() == pytest.approx(1)
    assert scale.max() / scale.min() == pytest.approx(SPAN)
    np.testing.assert_array_equal(bounded(np.zeros(3)), np.ones(3))


def test_second_moments_stand_in_for_the_mean():
    x = data_of(4)
    weight = np.random.default_rng(4).standard_normal((8, 16))
    found = awq([LayerData(weight, second=x.T @ x / len(x))], INT3, grid=(1.0,))
    rms = np.sqrt((x**2).mean(axis=0))
    expected = rms / np.sqrt(rms.max() * rms.min()) if found.strength else np.ones(16)
    np.testing.assert_allclose(found.scale, expected, rtol=1e-9)


def test_without_statistics_it_says_so():
    found = awq([LayerData(np.eye(3))], INT3)
    np.testing.assert_array_equal(found.scale, np.ones(3))
    assert found.strength is None
    assert "no statistics" in found.notes[0]


def test_readers_must_agree():
    with pytest.raises(ValueError, match=r"expected readers of one width, got a: 3, b: 4"):
        awq([LayerData(np.eye(3), name="a"), LayerData(np.eye(4), name="b")], INT3)
    with pytest.raises(ValueError, match="got no reader"):
        awq([], INT3)


def test_a_block_of_one_sign_is_not_crushed():
    weight = np.linspace(1.003, 1.1, 16)[None]
    layer = LayerData(weight, second=np.eye(16), mean_abs=np.ones(16))
    wanted = Format(Grid("uint4", symmetric=False), 16)
    found = awq([layer], wanted)
    assert found.losses[0.0] <= 16 * (1.1 / 15 / 2) ** 2
