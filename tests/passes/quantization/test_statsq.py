"""statsq: against its formula in torch, and the integer form as a product of integers."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from passel.passes.quantization.grid import Grid
from passel.passes.quantization.layer import LayerData
from passel.passes.quantization.rounded import Format
from passel.passes.quantization.rounding.rtn import rtn
from passel.passes.quantization.rounding.statsq import integer_form, statsq
from tests.passes.quantization.layers import layers, trained_like

FORMATS = [
    Format(Grid("int2")),
    Format(Grid("int3"), 4),
    Format(Grid("int4"), -1),
    Format(Grid("uint8"), 3),
]


def formula(weight, bits):
    """q = s·(round(clip(W/s, −1, 1 − 1e-6)·n − ½) + ½)/n of each row, s = 2·mean|W|."""
    x, n = torch.from_numpy(weight), 2 ** (bits - 1)
    s = (2 * x.abs().mean(dim=1, keepdim=True)).float().double()
    q = (torch.round(torch.clamp(x / s, -1, 1 - 1e-6) * n - 0.5) + 0.5) / n
    return (s * q).numpy()


@given(bits=st.integers(2, 8), seed=st.integers(0, 10**6), width=st.integers(1, 40))
def test_it_is_the_published_formula(bits, seed, width):
    weight = np.random.default_rng(seed).standard_normal((3, width))
    rounded = statsq(LayerData(weight), Format(Grid(f"int{bits}")))
    np.testing.assert_allclose(rounded.dense(), formula(weight, bits), rtol=1e-12)


@given(layer=layers(), wanted=st.sampled_from(FORMATS))
def test_blocks_are_rows_of_their_own(layer, wanted):
    weight = layer.weight.astype(np.float64)
    dense = statsq(layer, wanted).dense()
    if wanted.block < 0:
        whole = statsq(LayerData(weight.reshape(1, -1)), Format(wanted.grid)).dense()
        np.testing.assert_array_equal(dense, whole.reshape(weight.shape))
        return
    for first in range(0, weight.shape[1], wanted.block or weight.shape[1]):
        part = slice(first, first + (wanted.block or weight.shape[1]))
        alone = statsq(LayerData(weight[:, part]), Format(wanted.grid)).dense()
        np.testing.assert_allclose(dense[:, part], alone, rtol=1e-7)
    assert (dense[~weight.any(axis=1)] == 0).all()


def test_a_checkpoint_on_the_grid_comes_back_exactly():
    rng = np.random.default_rng(0)
    half = np.tile(np.arange(-4, 4) + 0.5, 4)  # mean|·| = 2 = n/2, so that s is 1 a step of 1/4
    weight = np.stack([rng.permutation(half) / 4 * step for step in (1.0, 0.25, 8.0)])
    rounded = statsq(LayerData(weight), Format(Grid("int3")))
    np.testing.assert_array_equal(rounded.dense(), weight)


def test_one_bit_is_the_sign_times_the_mean():
    weight = np.random.default_rng(0).standard_normal((4, 32))
    dense = statsq(LayerData(weight), Format(Grid("uint1"))).dense()
    expected = np.sign(weight) * np.abs(weight).mean(axis=1, keepdims=True)
    np.testing.assert_allclose(dense, expected, rtol=1e-6)


@pytest.mark.parametrize(("bits", "stated"), [(2, 0.138), (3, 0.071), (4, 0.050)])
def test_error_of_gaussian_weights(bits, stated):
    weight = np.random.default_rng(0).standard_normal((1, 200_000))
    layer = LayerData(weight)
    error = layer.error(statsq(layer, Format(Grid(f"int{bits}"))).dense()) / weight.size
    assert error == pytest.approx(stated, abs=2e-3)


@given(layer=layers(), wanted=st.sampled_from(FORMATS))
def test_the_integer_form_is_the_same_weight(layer, wanted):
    rounded = statsq(layer, wanted)
    form = integer_form(rounded)
    scale = np.abs(rounded.dense()).max()
    np.testing.assert_allclose(form.dense(), rounded.dense(), rtol=1e-12, atol=1e-12 * scale)
    (part,) = form.parts
    assert part.table is None
    assert (part.zero == part.format.grid.middle).all()


def test_the_integer_form_is_an_integer_product_and_sums_of_the_input():
    layer, wanted = trained_like(), Format(Grid("int3"), 24)
    rounded = statsq(layer, wanted)
    form = integer_form(rounded)
    (part,) = form.parts
    signed = part.codes.astype(np.int64) - part.zero.astype(np.int64)[0, 0]
    assert signed.min() >= -4
    assert signed.max() <= 3
    x = np.random.default_rng(1).integers(-127, 128, 64)
    y = np.zeros(48)
    for block, first in enumerate(range(0, 64, 24)):
        here = slice(first, first + 24)
        product, total = signed[:, here] @ x[here], x[here].sum()
        assert product.dtype == np.int64
        y += part.scale[:, block] * product + form.left[:, block] * total
    np.testing.assert_allclose(y, rounded.dense() @ x, rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(form.left.astype(np.float64), part.scale / 2)


def test_other_weights_have_no_integer_form():
    layer, wanted = trained_like(), Format(Grid("int4"))
    with pytest.raises(ValueError, match="half-integer grid, got 'rtn'"):
        integer_form(rtn(layer, wanted))


def test_what_it_cannot_make_is_an_error():
    with pytest.raises(ValueError, match="statsq expected an integer format of 1 to 8 bits"):
        statsq(trained_like(), Format(Grid("float8_e4m3fn")))
    with pytest.raises(ValueError, match=r"proj.*finite"):
        statsq(LayerData(np.array([[1.0, np.inf]]), name="proj"), Format(Grid("int4")))
