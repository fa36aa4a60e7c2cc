"""binary: against all sign patterns, in plain Python, and as the product it stands for."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from passel.passes.quantization.grid import Grid
from passel.passes.quantization.layer import LayerData
from passel.passes.quantization.rounded import Format
from passel.passes.quantization.rounding import round_weight

GRID = Grid("int8")


def rounded(weight, block=0):
    return round_weight(LayerData(weight), Format(GRID, block), ["binary"])


@given(st.integers(0, 10**6))
def test_no_signs_and_no_distance_do_better_around_the_mean(seed):
    row = np.random.default_rng(seed).standard_normal(7).astype(np.float32)
    centred = row.astype(np.float64) - row.astype(np.float64).mean()
    errors = []
    for pattern in itertools.product([-1.0, 1.0], repeat=7):
        signs = np.array(pattern)
        errors.append(((centred - (centred @ signs) / 7 * signs) ** 2).sum())
    found = rounded(row[None])
    assert ((row - found.dense()[0]) ** 2).sum() == pytest.approx(min(errors), rel=1e-6)


@given(st.integers(0, 10**6), st.sampled_from([-1, 0, 1, 3, 4, 10, 16]))
def test_every_block_as_plain_python_has_it(seed, block):
    weight = np.random.default_rng(seed).standard_normal((3, 10))
    expected = np.empty_like(weight)
    width = block if block > 0 else 10
    for row, first in itertools.product(range(3), range(0, 10, width)):
        entries = weight[row, first : first + width]
        pool = weight if block < 0 else entries
        mean = pool.mean()
        distance = np.abs(pool - mean).mean()
        expected[row, first : first + width] = [
            mean + distance if entry >= mean else mean - distance for entry in entries
        ]
    np.testing.assert_allclose(rounded(weight, block).dense(), expected, rtol=1e-5, atol=1e-7)


def test_two_values_a_row_come_back():
    weight = np.array([[0.5, -0.25, 0.5, -0.25], [3.0, 3.0, 3.0, 3.0], [0.0, 0.0, 0.0, 0.0]])
    np.testing.assert_array_equal(rounded(weight).dense(), weight)


def test_a_weight_at_the_mean_is_stored_as_plus_one():
    (part,) = rounded(np.array([[-1.0, 0.0, 1.0, 0.0]])).parts
    np.testing.assert_array_equal(part.codes, [[0, 1, 1, 1]])
    assert part.dense()[0, 1] == pytest.approx(0.5)


def test_the_product_is_one_of_signs_and_a_sum():
    rng = np.random.default_rng(3)
    weight, x = rng.standard_normal((5, 12)) + 0.3, rng.standard_normal(12)
    found = rounded(weight, 4)
    (part,) = found.parts
    signs = 2.0 * part.codes - 1.0
    y = sum(
        part.scale[:, k] * (signs[:, 4 * k : 4 * k + 4] @ x[4 * k : 4 * k + 4])
        + part.offset[:, k] * x[4 * k : 4 * k + 4].sum()
        for k in range(3)
    )
    np.testing.assert_allclose(found.dense() @ x, y, rtol=1e-12)


@pytest.mark.parametrize(("block", "blocks"), [(0, 1), (4, 3), (5, 2)])
def test_bits(block, blocks):
    size = rounded(np.eye(6, 10), block)
    # one a weight, a float32 mean and distance a block, and two float32 table entries
    assert size.bits == 60 + 6 * blocks * 64 + 64


def test_bits_of_one_block_in_all():
    assert rounded(np.eye(6, 10), -1).bits == 60 + 64 + 64


def test_a_weight_that_is_not_finite_is_named():
    with pytest.raises(ValueError, match="expected finite"):
        rounded(np.array([[1.0, np.nan]]))
