"""rtn: against exact arithmetic in fractions, and a number of its own per block."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from passel.passes.quantization.grid import Grid
from passel.passes.quantization.layer import LayerData
from passel.passes.quantization.rounded import Format
from passel.passes.quantization.rounding.rtn import rtn
from tests.passes.quantization.layers import FORMATS, check_codes

INTEGERS = [form for form in FORMATS if not form.grid.is_float]


def whole(weight, wanted):
    """Cut a weight into the blocks that share a scale."""
    if wanted.block < 0:
        return [(slice(None), slice(None))]
    rows, width = weight.shape
    size = wanted.block or width
    return [
        (slice(i, i + 1), slice(j, j + size)) for i in range(rows) for j in range(0, width, size)
    ]


@pytest.mark.parametrize("wanted", INTEGERS, ids=str)
@given(seed=st.integers(0, 10**6), width=st.integers(1, 11))
def test_codes_are_the_nearest_by_exact_arithmetic(wanted, seed, width):
    weight = np.random.default_rng(seed).standard_normal((3, width)).astype(np.float32)
    rounded = rtn(LayerData(weight), wanted)
    check_codes(rounded, wanted)
    (part,) = rounded.parts
    scale = np.broadcast_to(wanted.spread(part.scale, width), weight.shape)
    zero = np.broadcast_to(wanted.spread(part.zero, width), weight.shape)
    for index in np.ndindex(weight.shape):
        place = Fraction(float(weight[index])) / Fraction(float(scale[index])) + int(zero[index])
        bounded = min(max(place, Fraction(wanted.grid.low)), Fraction(wanted.grid.high))
        assert abs(Fraction(float(part.codes[index])) - bounded) <= Fraction(1, 2) + Fraction(
            1, 10**9
        )


@pytest.mark.parametrize("wanted", INTEGERS, ids=str)
def test_the_range_of_each_block_fits_its_grid(wanted):
    """Each weight is off by at most half a step (a whole one with a rounded zero point)."""
    weight = np.random.default_rng(0).standard_normal((6, 13)) + 0.3
    rounded = rtn(LayerData(weight), wanted)
    error = abs(rounded.dense() - weight)
    steps = np.broadcast_to(wanted.spread(rounded.parts[0].scale, 13), weight.shape)
    assert (error <= steps * (0.5 if wanted.grid.symmetric else 1.0) * (1 + 1e-6)).all()
    peaks = [abs(weight[block]).max() for block in whole(weight, wanted)]
    if wanted.grid.symmetric:
        reach = wanted.grid.high - wanted.grid.middle
        np.testing.assert_allclose(
            rounded.parts[0].scale.ravel(), np.divide(peaks, reach), rtol=1e-6
        )


@pytest.mark.parametrize("wanted", FORMATS, ids=str)
def test_zeros_stay_zeros(wanted):
    weight = np.random.default_rng(0).standard_normal((4, 7))
    weight[1], weight[:, 3] = 0, 0
    rounded = rtn(LayerData(weight), wanted)
    check_codes(rounded, wanted)
    assert not rounded.dense()[weight == 0].any()


def test_floats_are_cast_with_ties_to_even():
    weight = np.array([[6.0, 5.0, 2.5, 1.25, 0.75, -0.25, -6.0]])
    rounded = rtn(LayerData(weight), Format(Grid("float4_e2m1fn")))
    np.testing.assert_array_equal(rounded.dense(), [[6, 4, 2, 1, 1, 0, -6]])


def test_half_goes_to_even():
    weight = np.array([[7, 0.5, 1.5, 2.5, -0.5, -3.5]])
    rounded = rtn(LayerData(weight), Format(Grid("int4")))
    np.testing.assert_array_equal(rounded.dense(), [[7, 0, 2, 2, 0, -4]])
