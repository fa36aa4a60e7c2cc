"""lorc: against numpy's SVD, its gate, ranks that add up; and the names of stages with a number."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from passel.passes.quantization.grid import Grid
from passel.passes.quantization.layer import LayerData
from passel.passes.quantization.rounded import Format, Rounded
from passel.passes.quantization.rounding import round_weight
from passel.passes.quantization.rounding.lorc import damped, lorc, main_directions
from passel.passes.quantization.rounding.rtn import rtn
from tests.passes.quantization.layers import FORMATS, layers, trained_like


def root(second):
    values, vectors = np.linalg.eigh(second)
    return vectors * np.sqrt(np.maximum(values, 0))


def best_error(error, second, rank):
    """Eckart-Young: what the best matrix of this rank leaves of ‖E·H^½‖²."""
    scaled = error if second is None else error @ root(second)
    return (np.linalg.svd(scaled, compute_uv=False)[rank:] ** 2).sum()


@pytest.mark.parametrize("shape", [(48, 64), (64, 20)])
@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("rank", [1, 4, 8])
def test_no_correction_of_that_rank_is_better(shape, calibrated, rank):
    layer, wanted = trained_like(*shape), Format(Grid("int3"))
    if not calibrated:
        layer = LayerData(layer.weight)
    rounded, start = lorc(layer, wanted, parameter=rank), rtn(layer, wanted)
    assert rounded.left.shape == (shape[0], rank)
    assert rounded.right.shape == (rank, shape[1])
    least = best_error(layer.weight - start.dense(), layer.second, rank)
    assert layer.error(rounded.dense()) == pytest.approx(least, rel=1e-3)
    np.testing.assert_array_equal(rounded.parts[0].codes, start.parts[0].codes)


@given(seed=st.integers(0, 10**6), rows=st.integers(1, 9), width=st.integers(1, 9))
def test_directions_and_shares_are_those_of_the_svd(seed, rows, width):
    rng = np.random.default_rng(seed)
    error = rng.standard_normal((rows, width))
    second = damped(np.cov(rng.standard_normal((width, 30))).reshape(width, width))
    vectors, shares = main_directions(error, second, 3)
    sigma = np.linalg.svd(error @ root(second), compute_uv=False)
    np.testing.assert_allclose(shares, (sigma**2 / (sigma**2).sum())[: len(shares)], rtol=1e-6)
    assert len(shares) == min(3, rows, width)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(len(shares)), atol=1e-6)


@given(layer=layers(), wanted=st.sampled_from(FORMATS))
def test_the_error_never_rises_with_the_rank(layer, wanted):
    start = rtn(layer, wanted)
    size = 1.0 if layer.second is None else np.trace(layer.second)
    slack = 1e-9 * size * (layer.target() ** 2).sum() + 1e-80
    before = layer.error(start.dense())
    for rank in (1, 2, 5):
        after = layer.error(lorc(layer, wanted, start, parameter=rank).dense())
        assert after <= before * (1 + 1e-4) + slack
        before = after


@pytest.mark.parametrize("second", [None, "some inputs never seen"])
def test_an_error_of_low_rank_is_removed(second):
    rng = np.random.default_rng(0)
    wanted = Format(Grid("int4"))
    codes = LayerData(rng.integers(-7, 8, (12, 20)) + 0.0)
    base = rtn(codes, wanted)
    low = rng.standard_normal((12, 3)) @ rng.standard_normal((3, 20))
    x = rng.standard_normal((50, 20)) * (np.arange(20) < 15)
    layer = LayerData(base.dense() + low, None if second is None else x.T @ x / 50)
    rounded = lorc(layer, wanted, base, parameter=5)
    assert rounded.left.shape == (12, 3)
    np.testing.assert_allclose(rounded.dense(), layer.weight, atol=1e-4)


def test_factors_are_balanced_float32():
    rounded = lorc(trained_like(), Format(Grid("int3")))
    assert rounded.left.dtype == rounded.right.dtype == np.float32
    left, right = np.linalg.norm(rounded.left, axis=0), np.linalg.norm(rounded.right, axis=1)
    np.testing.assert_allclose(left, right, rtol=1e-4)


def test_statistics_of_the_inputs_make_it_better():
    layer, wanted = trained_like(), Format(Grid("int3"))
    blind = lorc(LayerData(layer.weight), wanted)
    assert layer.error(lorc(layer, wanted).dense()) < 0.5 * layer.error(blind.dense())


def test_independent_weights_gain_eleven_percent_at_rank_8():
    layer = LayerData(np.random.default_rng(0).standard_normal((256, 256)))
    wanted = Format(Grid("int4"), 64)
    rounded, start = lorc(layer, wanted), rtn(layer, wanted)
    removed = 1 - layer.error(rounded.dense()) / layer.error(start.dense())
    assert removed == pytest.approx(0.11, abs=0.01)
    (note,) = rounded.notes
    assert note == f"lorc: rank 8 removes {100 * removed:.3g} % of the error for 2 bits a weight"


def test_a_gain_of_less_than_one_percent_is_not_taken():
    rng = np.random.default_rng(0)
    weight = np.linalg.qr(rng.standard_normal((300, 300)))[0]  # all singular values are 1
    layer, nothing = LayerData(weight), LayerData(np.zeros((300, 300)))
    wanted = Format(Grid("int4"))
    start = rtn(nothing, wanted)
    rounded = lorc(layer, wanted, start, parameter=2)
    assert rounded.left is None
    assert rounded.notes == ("lorc: skipped, rank 2 holds 0.67 % of the error",)
    assert lorc(layer, wanted, start, parameter=4).left.shape == (300, 4)


def test_ranks_of_little_gain_are_left_off():
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.standard_normal((40, 40)))[0] for _ in "ab")
    sigma = np.zeros(40)
    sigma[:4] = 10, 5, 1, 0.05
    wanted = Format(Grid("int4"))
    layer, start = LayerData(left * sigma @ right), rtn(LayerData(np.zeros((40, 40))), wanted)
    assert lorc(layer, wanted, start).left.shape == (40, 3)


def test_an_exact_weight_needs_no_correction():
    layer = LayerData(np.array([[1.0, -7.0], [2.0, 7.0]]))
    rounded = lorc(layer, Format(Grid("int4")))
    assert rounded.left is None
    assert rounded.notes == ("lorc: skipped, rank 0 holds 0 % of the error",)


def test_a_correction_that_is_there_is_kept_and_added_to():
    layer, wanted = trained_like(), Format(Grid("int3"))
    once = round_weight(layer, wanted, ["rtn", "lorc:3"])
    twice = lorc(layer, wanted, once, parameter=2)
    np.testing.assert_array_equal(twice.left[:, :3], once.left)
    assert layer.error(twice.dense()) == pytest.approx(
        layer.error(round_weight(layer, wanted, ["lorc:5"]).dense()), rel=1e-3
    )


def test_inputs_of_the_quantized_model_are_what_it_answers_to():
    layer, wanted = trained_like(shifted=True), Format(Grid("int3"))
    rounded, start = lorc(layer, wanted), rtn(layer, wanted)
    least = best_error(layer.target() - start.dense(), layer.second, 8)
    assert layer.error(rounded.dense()) == pytest.approx(least, rel=1e-3)


def test_a_name_may_carry_a_number():
    layer, wanted = trained_like(), Format(Grid("int4"), 16)
    assert round_weight(layer, wanted, ["lorc:3"]).left.shape == (48, 3)
    assert round_weight(layer, wanted, ["rtn", "lorc"]).left.shape == (48, 8)
    assert isinstance(round_weight(layer, wanted, ["pow2-group:4"]), Rounded)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lork:3", r"expected weights in \('rtn'.*got 'lork:3'"),
        ("lorc:", "whole number after the colon, as lorc:16, got 'lorc:'"),
        ("lorc:-1", "whole number after the colon, as lorc:16, got 'lorc:-1'"),
        ("lorc:²", "whole number after the colon"),
        ("lorc:0", "rank of at least 1, got 0"),
        ("rtn:3", "expected 'rtn' without a number"),
    ],
)
def test_a_bad_name_or_number_is_an_error(name, message):
    with pytest.raises(ValueError, match=message):
        round_weight(trained_like(), Format(Grid("int4")), [name])


def test_a_weight_that_is_not_finite_is_an_error():
    layer = LayerData(np.array([[1.0, np.nan]]), name="proj")
    with pytest.raises(ValueError, match=r"proj.*finite"):
        lorc(layer, Format(Grid("int4")))
