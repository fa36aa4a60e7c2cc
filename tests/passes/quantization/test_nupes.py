"""nupes: the power grid from its definition, the exponent against a fine scan, known exponents."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from passel.passes.quantization.grid import Grid
from passel.passes.quantization.layer import LayerData
from passel.passes.quantization.rounded import Format
from passel.passes.quantization.rounding import round_weight
from passel.passes.quantization.rounding.nupes import best_exponent, nupes, power_table
from passel.passes.quantization.rounding.rtn import rtn
from tests.passes.quantization.layers import layers, trained_like

FORMATS = [Format(Grid("int4")), Format(Grid("int3"), 4), Format(Grid("uint2"), -1)]


def weighted(layer, dense):
    columns = 1.0 if layer.second is None else np.diag(layer.second)
    return (columns * (layer.weight.astype(np.float64) - dense) ** 2).sum()


def exponent_of(rounded):
    (part,) = rounded.parts
    reach = len(part.table) // 2
    return np.log(1 / reach) / np.log(part.table[reach + 1])


@given(layer=layers(), wanted=st.sampled_from(FORMATS))
def test_weights_are_the_nearest_values_of_a_power_grid(layer, wanted):
    rounded = nupes(layer, wanted)
    (part,) = rounded.parts
    reach = 2 ** (wanted.grid.bits - 1) - 1
    assert len(part.table) == 2 * reach + 1
    assert part.codes.max() <= 2 * reach
    if reach > 1:
        exponent = exponent_of(rounded)
        assert 0.0999 <= exponent <= 1.5001
        k = np.arange(-reach, reach + 1)
        expected = np.sign(k) * (np.abs(k) / reach) ** (1 / exponent)
        np.testing.assert_allclose(part.table, expected, rtol=1e-5)
    weight, width = layer.weight.astype(np.float64), layer.weight.shape[1]
    scale = np.broadcast_to(wanted.spread(part.scale, width), weight.shape)
    values = scale[..., None] * part.table
    least = np.abs(weight[..., None] - values).min(axis=-1)
    np.testing.assert_allclose(np.abs(weight - part.dense()), least, rtol=1e-6, atol=1e-300)
    assert (part.dense()[weight == 0] == 0).all()
    even = rtn(layer, Format(Grid(f"int{wanted.grid.bits}"), wanted.block))
    if wanted.grid.bits > 2 and np.abs(weight).max() > 1e-30:  # int2 reaches to −2, this to −1
        assert weighted(layer, rounded.dense()) <= weighted(layer, even.dense()) * (1 + 1e-5)


@pytest.mark.parametrize(
    ("draw", "exponents", "ratios"),
    [
        ("standard_normal", (0.6, 0.68), (0.6, 0.66)),
        ("laplace", (0.42, 0.56), (0.3, 0.53)),
        ("uniform", (0.95, 1.05), (0.97, 1.0)),
    ],
)
def test_exponent_and_gain_of_known_distributions(draw, exponents, ratios):
    rng = np.random.default_rng(0)
    weight = rng.uniform(-1, 1, 200_000) if draw == "uniform" else getattr(rng, draw)(size=200_000)
    layer, wanted = LayerData(weight[None, :]), Format(Grid("int4"))
    rounded = nupes(layer, wanted, parameter=0)
    ratio = layer.error(rounded.dense()) / layer.error(rtn(layer, wanted).dense())
    assert exponents[0] <= exponent_of(rounded) <= exponents[1]
    assert ratios[0] <= ratio <= ratios[1]


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_the_exponent_is_as_good_as_a_fine_scan_s(bits):
    layer, wanted = trained_like(), Format(Grid(f"int{bits}"), 16)
    weight, columns = layer.weight.astype(np.float64), np.diag(layer.second)
    peaks = np.abs(weight.reshape(48, 4, 16)).max(axis=2)
    reach = 2 ** (bits - 1) - 1
    unit = weight / np.repeat(peaks, 16, axis=1)
    mass = columns * np.repeat(peaks, 16, axis=1) ** 2

    def error(exponent):
        table = power_table(exponent, reach)
        return (mass * np.abs(unit[..., None] - table).min(axis=-1) ** 2).sum()

    found = error(best_exponent(weight, peaks, columns, wanted, reach))
    least = min(error(exponent) for exponent in np.arange(0.1, 1.5, 0.007))
    assert found <= least * 1.03


def test_clipping_lowers_the_error_of_weights_with_outliers():
    layer, wanted = trained_like(), Format(Grid("int3"))
    errors = [weighted(layer, nupes(layer, wanted, parameter=n).dense()) for n in (0, 1, 3)]
    assert errors[0] * 0.95 > errors[1] >= errors[2]


def test_scales_of_the_stage_before_set_the_range():
    layer, wanted = trained_like(), Format(Grid("int4"), 16)
    start = rtn(layer, wanted)
    rounded = nupes(layer, wanted, start, parameter=0)
    np.testing.assert_allclose(rounded.parts[0].scale, 7 * start.parts[0].scale, rtol=1e-6)
    assert rounded.method == "rtn+nupes"


def test_storage_counts_codes_scales_and_one_table():
    rounded = nupes(trained_like(), Format(Grid("int4"), 16))
    assert rounded.bits == 48 * 64 * 4 + 48 * 4 * 32 + 15 * 32


def test_what_it_cannot_follow_or_make_is_an_error():
    layer, wanted = trained_like(), Format(Grid("int4"))
    with pytest.raises(ValueError, match=r"fc: nupes makes codes of its own.*'rtn.lorc'"):
        round_weight(layer, wanted, ["rtn", "lorc", "nupes"])
    with pytest.raises(ValueError, match="fc: nupes expected an integer format of 2 to 8 bits"):
        nupes(layer, Format(Grid("float4_e2m1fn")))
    with pytest.raises(ValueError, match="blocks of 16, got blocks of 0"):
        nupes(layer, Format(Grid("int4"), 16), rtn(layer, wanted))
    with pytest.raises(ValueError, match="number of rounds of at least 0, got -1"):
        nupes(layer, wanted, parameter=-1)
    with pytest.raises(ValueError, match=r"proj.*finite"):
        nupes(LayerData(np.array([[1.0, np.nan]]), name="proj"), wanted)
