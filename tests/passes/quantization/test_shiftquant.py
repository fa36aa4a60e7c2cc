"""shiftquant: the form of the scales, an integer product with shifts, and codes chosen after it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from passel.passes.quantization.grid import Grid
from passel.passes.quantization.layer import LayerData
from passel.passes.quantization.rounded import Format
from passel.passes.quantization.rounding import round_weight
from passel.passes.quantization.rounding.gptq import gptq
from passel.passes.quantization.rounding.rtn import rtn
from passel.passes.quantization.rounding.shiftquant import MOST_SHIFT, shiftquant, shifts_of
from tests.passes.quantization.layers import FORMATS, check_codes, layers, trained_like

BLOCKED = [
    *(wanted for wanted in FORMATS if wanted.block > 0),
    Format(Grid("int8"), 3),
    Format(Grid("int4"), 1),
]


def weighted(layer, rounded):
    columns = 1.0 if layer.second is None else np.diag(layer.second)
    return (columns * (layer.weight.astype(np.float64) - rounded.dense()) ** 2).sum()


def uneven(rows=16, width=64, block=16, seed=0):
    """Blocks of columns whose sizes differ, in all rows alike."""
    rng = np.random.default_rng(seed)
    sizes = np.repeat(2.0 ** -rng.integers(0, 6, width // block), block)
    return LayerData(rng.standard_normal((rows, width)) * sizes, name="fc")


@given(layer=layers(), wanted=st.sampled_from(BLOCKED))
def test_scales_are_a_row_s_shifted_by_a_block_s(layer, wanted):
    rounded = shiftquant(layer, wanted)
    check_codes(rounded, wanted)
    if np.abs(layer.weight).max() < 1e-30:
        return  # shifted scales would no longer be normal numbers
    found = shifts_of(rounded.parts[0])
    assert found.shifts.min() == 0
    assert found.shifts.max() <= MOST_SHIFT
    expected = found.base[:, None] / 2.0**found.shifts
    np.testing.assert_array_equal(rounded.parts[0].scale, expected)


@given(layer=layers(), bits=st.sampled_from([3, 4, 8]), block=st.integers(1, 6))
def test_no_worse_than_one_scale_a_row(layer, bits, block):
    grid = Grid(f"int{bits}")
    blocked, rows = shiftquant(layer, Format(grid, block)), rtn(layer, Format(grid))
    size = (layer.weight.astype(np.float64) ** 2).sum()
    size *= 1.0 if layer.second is None else np.trace(layer.second)
    if np.abs(layer.weight).max() > 1e-30:
        assert weighted(layer, blocked) <= weighted(layer, rows) * (1 + 1e-5) + 1e-12 * size


def test_blocks_that_differ_by_powers_of_two_get_them():
    layer, wanted = uneven(), Format(Grid("int4"), 16)
    shifted, rows, free = (
        layer.error(rounded.dense())
        for rounded in (
            shiftquant(layer, wanted),
            rtn(layer, Format(Grid("int4"))),
            rtn(layer, wanted),
        )
    )
    assert shifted < 0.5 * rows
    assert shifted < 1.5 * free


def test_blocks_of_zeros_do_not_coarsen_the_others():
    weight = np.random.default_rng(0).standard_normal((4, 32)) * 1e-3  # a block of 0 has scale 1
    weight[:, :8] = 0
    layer, wanted = LayerData(weight), Format(Grid("int4"), 8)
    rows = layer.error(rtn(layer, Format(Grid("int4"))).dense())
    assert 0 < layer.error(shiftquant(layer, wanted).dense()) <= rows


def test_the_product_is_one_of_integers_with_shifts():
    layer, wanted = uneven(seed=3), Format(Grid("int4"), 16)
    (part,) = shiftquant(layer, wanted).parts
    found = shifts_of(part)
    assert len(set(found.shifts.tolist())) > 1
    codes, x = part.codes.astype(np.int32), np.random.default_rng(1).integers(-127, 128, 64)
    most = int(found.shifts.max())
    total = np.zeros(len(codes), dtype=np.int32)
    for block, shift in enumerate(found.shifts):
        here = slice(16 * block, 16 * block + 16)
        total += (codes[:, here] @ x[here].astype(np.int32)) << (most - int(shift))
    integer = found.base * 2.0**-most * total
    np.testing.assert_allclose(part.dense() @ x, integer, rtol=1e-12, atol=1e-12)


def test_codes_may_be_chosen_anew_at_its_scales():
    layer, wanted = trained_like(), Format(Grid("int4"), 16)
    before = shiftquant(layer, wanted)
    after = gptq(layer, wanted, before)
    np.testing.assert_array_equal(after.parts[0].scale, before.parts[0].scale)
    assert layer.error(after.dense()) < 0.8 * layer.error(before.dense())


def test_one_scale_a_row_is_left_alone_with_a_note():
    layer, wanted = trained_like(), Format(Grid("int4"))
    rounded = shiftquant(layer, wanted)
    np.testing.assert_array_equal(rounded.dense(), rtn(layer, wanted).dense())
    assert rounded.notes == ("shiftquant: one scale a row, nothing to shift",)


def test_free_scales_are_no_shifts():
    (part,) = rtn(trained_like(), Format(Grid("int4"), 16)).parts
    with pytest.raises(ValueError, match="row's times a power of two"):
        shifts_of(part)


def test_a_weight_that_is_not_finite_is_an_error():
    layer = LayerData(np.array([[1.0, np.nan]]), name="proj")
    with pytest.raises(ValueError, match=r"proj.*finite"):
        round_weight(layer, Format(Grid("int4"), 1), ["shiftquant"])
