"""ternary: against a fine search over scales, and TBT's closed form."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from passel.passes.quantization.grid import Grid
from passel.passes.quantization.layer import LayerData
from passel.passes.quantization.rounded import Format
from passel.passes.quantization.rounding import round_weight

GRID = Grid("int8")


def rounded(weight, block=0, second=None):
    return round_weight(LayerData(weight, second=second), Format(GRID, block), ["ternary"])


def at_scale(weight, scale):
    """The formula of the paper, as it stands."""
    return scale * np.round(np.clip(weight / scale, -1, 1))


@given(st.integers(0, 10**6), st.booleans())
def test_no_scale_of_a_fine_search_does_better(seed, calibrated):
    rng = np.random.default_rng(seed)
    row = rng.standard_normal(9) ** 3
    power = rng.uniform(0.1, 4, 9) ** 2 if calibrated else np.ones(9)
    found = rounded(row[None], second=np.diag(power) if calibrated else None).dense()[0]
    scales = np.linspace(1e-3, 1.5 * np.abs(row).max(), 4000)
    errors = [(power * (row - at_scale(row, scale)) ** 2).sum() for scale in scales]
    assert (power * (row - found) ** 2).sum() <= min(errors) * (1 + 1e-5)


def test_codes_follow_from_the_scale():
    weight = np.random.default_rng(0).standard_normal((4, 50))
    (part,) = rounded(weight).parts
    np.testing.assert_array_equal(part.dense(), at_scale(weight, part.scale))
    assert set(np.unique(part.codes)) == {-1, 0, 1}
    assert part.format.grid.name == "int2"


def test_gaussian_weights_against_the_known_errors():
    weight = np.random.default_rng(1).standard_normal((1, 200_000))
    (part,) = rounded(weight).parts
    tbt = 4 / 3 * np.abs(weight).mean()
    assert tbt == pytest.approx(1.063, abs=0.01)
    assert part.scale[0, 0] == pytest.approx(1.22, abs=0.02)
    assert ((weight - part.dense()) ** 2).mean() == pytest.approx(0.1906, abs=0.002)
    assert ((weight - at_scale(weight, tbt)) ** 2).mean() == pytest.approx(0.1999, abs=0.002)


@pytest.mark.parametrize("block", [-1, 0, 3, 4, 16])
def test_each_block_stands_alone(block):
    weight = np.random.default_rng(2).standard_normal((3, 10)).astype(np.float32)
    whole = rounded(weight, block).dense()
    if block < 0:
        alone = rounded(weight.reshape(1, -1)).dense().reshape(3, 10)
    else:
        width = block or 10
        alone = np.hstack([rounded(weight[:, k : k + width]).dense() for k in range(0, 10, width)])
    np.testing.assert_array_equal(whole, alone)


def test_three_values_come_back_and_zeros_stay_zeros():
    weight = np.array([[0.5, 0.0, -0.5, 0.5], [0.0, 0.0, 0.0, 0.0]])
    np.testing.assert_array_equal(rounded(weight).dense(), weight)


def test_inputs_that_were_all_zero_count_as_unknown():
    weight = np.array([[0.5, 0.1, -0.7]])
    found = rounded(weight, second=np.zeros((3, 3))).dense()
    np.testing.assert_array_equal(found, rounded(weight).dense())


def test_a_channel_that_calibration_never_used_keeps_its_weight():
    weight = np.array([[0.5, 0.5, -0.5]])
    found = rounded(weight, second=np.diag([1.0, 0.0, 1.0])).dense()
    np.testing.assert_array_equal(found, weight)


def test_a_block_that_calibration_never_used_keeps_its_scale():
    weight = np.array([[0.5, -0.4, 0.03, -0.02]])
    found = rounded(weight, 2, second=np.diag([1.0, 1.0, 0.0, 0.0])).dense()
    np.testing.assert_array_equal(found[:, 2:], rounded(weight[:, 2:]).dense())


def test_bits():
    assert rounded(np.eye(4, 10), 5).bits == 2 * 40 + 32 * 8
