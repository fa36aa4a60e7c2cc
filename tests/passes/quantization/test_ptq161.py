"""ptq161: least squares by another library, the mask, the product it stands for, its 1.61 bits."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from passel.passes.quantization.grid import Grid
from passel.passes.quantization.layer import LayerData
from passel.passes.quantization.rounded import Format
from passel.passes.quantization.rounding.binary import binary
from passel.passes.quantization.rounding.ptq161 import RankOne, ptq161
from passel.passes.quantization.rounding.rtn import rtn

GRID = Grid("int8")


def layer_of(seed, rows=8, width=20):
    """A layer whose inputs have outlier channels and are correlated."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((300, width)) @ (
        np.eye(width) + 0.3 * rng.standard_normal((width,) * 2)
    )
    x = x * np.exp(rng.standard_normal(width))
    weight = rng.standard_normal((rows, width)).astype(np.float32)
    second = x.T @ x / len(x)
    return LayerData(weight, second=second, peak=np.abs(x).max(axis=0))


def plain(layer, fraction=0.2):
    """The same weight without r1 and r2."""
    result = np.empty(layer.weight.shape)
    salient = np.argsort(-layer.peak)[: round(fraction * len(layer.peak))]
    rest = np.setdiff1d(np.arange(len(layer.peak)), salient)
    result[:, salient] = rtn(LayerData(layer.weight[:, salient]), Format(Grid("int4"))).dense()
    result[:, rest] = binary(LayerData(layer.weight[:, rest]), Format(GRID)).dense()
    return result, salient


@given(st.integers(0, 10**6))
def test_factors_lower_the_error_and_leave_salient_columns_alone(seed):
    layer = layer_of(seed)
    found = ptq161(layer, Format(GRID))
    start, salient = plain(layer)
    np.testing.assert_array_equal(found.dense()[:, salient], start[:, salient])
    assert layer.error(found.dense()) < 0.95 * layer.error(start)


@given(st.integers(0, 10**6))
def test_in_the_end_no_column_factor_can_be_better(seed):
    layer = layer_of(seed)
    found = ptq161(layer, Format(GRID))
    dense, rest = found.dense(), found.parts[1].columns
    delta = layer.weight - dense  # with the error of the int4 columns in it
    slope = ((delta @ layer.second) * dense)[:, rest].sum(axis=0)
    size = ((layer.weight @ layer.second) * dense)[:, rest].sum(axis=0)
    assert np.abs(slope).max() < 1e-3 * np.abs(size).max()


@given(st.integers(0, 10**6))
def test_each_step_is_the_least_squares_solution(seed):
    rng = np.random.default_rng(seed)
    base, target = rng.standard_normal((2, 5, 7))
    root = rng.standard_normal((9, 7))  # H = rootᵀ·root
    second = root.T @ root
    problem = RankOne(base, second, target @ second)
    rows, columns = rng.uniform(0.5, 2, 5), rng.uniform(0.5, 2, 7)

    best = [
        np.linalg.lstsq((root @ (b * columns))[:, None], root @ t)[0][0]
        for b, t in zip(base, target, strict=True)
    ]
    np.testing.assert_allclose(problem.best_rows(rows, columns), best, rtol=1e-8)

    design = np.vstack([root * (r * b) for r, b in zip(rows, base, strict=True)])
    best = np.linalg.lstsq(design, np.concatenate([root @ t for t in target]))[0]
    found = problem.best_columns(rows, columns)
    np.testing.assert_allclose(found, best, rtol=1e-2, atol=1e-3)  # it is a proximal step

    def error(columns):
        return ((design @ columns - np.concatenate([root @ t for t in target])) ** 2).sum()

    assert error(found) <= error(best) * (1 + 1e-6)
    constant = ((target @ root.T) ** 2).sum()
    assert problem.loss(rows, found) + constant == pytest.approx(error(found), rel=1e-9)


@given(st.integers(0, 10**6))
def test_no_sweep_raises_the_loss(seed):
    rng = np.random.default_rng(seed)
    base, target = rng.standard_normal((2, 6, 8))
    root = rng.standard_normal((5, 8))  # singular
    problem = RankOne(base, root.T @ root, target @ root.T @ root)
    rows, columns = np.ones(6), np.ones(8)
    losses = [problem.loss(rows, columns)]
    for _ in range(5):
        rows = problem.best_rows(rows, columns)
        losses.append(problem.loss(rows, columns))
        columns = problem.best_columns(rows, columns)
        losses.append(problem.loss(rows, columns))
    assert all(after <= before + 1e-9 * abs(before) for before, after in itertools.pairwise(losses))
    assert problem.loss(*problem.solve()) <= losses[2]


def test_a_weight_of_this_form_comes_back():
    rng = np.random.default_rng(7)
    signs = np.tile([1.0, -1.0], (6, 5))[:, rng.permutation(10)]
    weight = rng.uniform(0.5, 2, 6)[:, None] * signs * rng.uniform(0.8, 1.2, 10)
    second = np.cov(rng.standard_normal((10, 50)))
    layer = LayerData(weight, second=second, peak=np.ones(10))
    found = ptq161(layer, Format(GRID), fraction=0.0)
    start = binary(layer, Format(GRID))
    assert layer.error(found.dense()) < 0.02 * layer.error(start.dense())


def test_the_mask_is_that_of_the_largest_inputs():
    layer = layer_of(0)
    high, low = ptq161(layer, Format(GRID)).parts
    np.testing.assert_array_equal(high.columns, np.sort(np.argsort(-layer.peak)[:4]))
    np.testing.assert_array_equal(np.sort([*high.columns, *low.columns]), np.arange(20))


def test_the_int4_step_spans_salient_columns_only():
    layer = layer_of(1)
    layer.weight[:, np.argmin(layer.peak)] = 100.0
    high = ptq161(layer, Format(GRID)).parts[0]
    expected = np.abs(layer.weight[:, high.columns]).max(axis=1) / 7
    np.testing.assert_allclose(high.scale[:, 0], expected, rtol=1e-6)


@pytest.mark.parametrize("block", [-1, 0, 5])
def test_the_product_by_parts(block):
    layer = layer_of(2)
    found = ptq161(layer, Format(GRID, block))
    high, low = found.parts
    x = np.random.default_rng(0).standard_normal(20)
    y = high.scale[:, 0] * (high.codes @ x[high.columns])
    z = (found.columns * x)[low.columns]
    width = block if block > 0 else len(z)
    for k, first in enumerate(range(0, len(z), width)):
        piece = slice(first, first + width)
        y += low.scale[:, k] * ((2.0 * low.codes[:, piece] - 1) @ z[piece])
        y += low.offset[:, k] * z[piece].sum()
    np.testing.assert_allclose(found.dense() @ x, y, rtol=1e-9)


def test_both_ends():
    layer = layer_of(3)
    (high,) = ptq161(layer, Format(GRID), fraction=1.0).parts
    np.testing.assert_array_equal(high.dense(), rtn(layer, Format(Grid("int4"))).dense())
    (low,) = ptq161(layer, Format(GRID), fraction=0.0).parts
    assert low.codes.shape == (8, 20)
    with pytest.raises(ValueError, match=r"expected a fraction in \[0, 1\], got -1"):
        ptq161(layer, Format(GRID), fraction=-1)


def test_without_statistics_it_fits_the_weight_itself_and_says_so():
    weight = layer_of(4).weight
    found = ptq161(LayerData(weight), Format(GRID))
    assert "no statistics" in found.notes[0]
    start, _ = plain(LayerData(weight, peak=np.abs(weight).max(axis=0)))
    assert ((weight - found.dense()) ** 2).sum() < ((weight - start) ** 2).sum()


def bits(rows, width, salient, number, index):
    """Codes, three numbers a row, r2, and the index of each column."""
    codes = rows * (4 * salient + width - salient)
    return codes + number * (3 * rows + width) + index * width


def test_bits_are_about_1_61_at_full_size():
    for rows, width in ((8, 20), (30, 40), (17, 55)):
        size = ptq161(layer_of(0, rows, width), Format(GRID)).bits
        assert size == bits(rows, width, round(0.2 * width), 32, 32) + 64  # 64: the sign table
    # The paper counts float16 scales and a bit a column; parts hold float32 and 32-bit indices.
    assert bits(4096, 4096, 819, 16, 1) / 4096**2 == pytest.approx(1.61, abs=0.01)
    assert bits(4096, 4096, 819, 32, 32) / 4096**2 == pytest.approx(1.64, abs=0.01)
