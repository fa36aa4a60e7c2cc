"""partial-binary: its two ends, the mask's share in μ and α, and GPTQ with explicit inverses."""

from functools import partial

import numpy as np
import pytest

from passel.passes.quantization.grid import Grid
from passel.passes.quantization.layer import LayerData
from passel.passes.quantization.rounded import Format, Part
from passel.passes.quantization.rounding.binary import binary
from passel.passes.quantization.rounding.partial_binary import most_salient, partial_binary
from passel.passes.quantization.rounding.rtn import rtn

GRID = Grid("int8")


def correlated(rng, width, samples=200):
    x = rng.standard_normal((samples, width)) @ rng.standard_normal((width, width))
    return x.T @ x / samples


@pytest.fixture
def weight():
    return np.random.default_rng(0).standard_normal((6, 12)).astype(np.float32) + np.float32(0.2)


@pytest.mark.parametrize("block", [-1, 0, 4, 5])
def test_all_salient_is_int8_rounding(weight, block):
    wanted = Format(GRID, block)
    found = partial_binary(LayerData(weight), wanted, fraction=1.0)
    np.testing.assert_array_equal(found.dense(), rtn(LayerData(weight), wanted).dense())


@pytest.mark.parametrize("block", [-1, 0, 4, 5])
def test_none_salient_is_binary(weight, block):
    wanted = Format(GRID, block)
    found = partial_binary(LayerData(weight), wanted, fraction=0.0)
    np.testing.assert_array_equal(found.dense(), binary(LayerData(weight), wanted).dense())


def test_mean_and_distance_are_those_of_the_binary_entries_alone():
    weight = np.random.default_rng(1).standard_normal((4, 400))
    low, high = partial_binary(LayerData(weight), Format(GRID), fraction=0.5).parts
    error = biased = 0.0
    for row, salient, mean, distance in zip(
        weight, high.mask, low.offset[:, 0], low.scale[:, 0], strict=True
    ):
        rest = row[~salient]
        assert mean == pytest.approx(rest.mean(), abs=1e-6)
        assert distance == pytest.approx(np.abs(rest - mean).mean(), rel=1e-6)
        error += ((np.abs(rest - mean) - distance) ** 2).sum()
        filled = np.where(salient, 0, row)
        wrong = filled.mean()
        biased += ((np.abs(rest - wrong) - np.abs(filled - wrong).mean()) ** 2).sum()
    assert biased > 1.5 * error  # what counting the mask's zeros would cost


def test_salient_weights_are_the_largest_of_each_tile(weight):
    _, high = partial_binary(LayerData(weight), Format(GRID, 5), fraction=0.2).parts
    for first in (0, 5, 10):
        tile, mask = np.abs(weight[:, first : first + 5]), high.mask[:, first : first + 5]
        assert mask.sum() == round(0.2 * tile.size)
        assert tile[mask].min() >= tile[~mask].max()


def test_ties_go_to_the_first():
    np.testing.assert_array_equal(most_salient(np.ones((2, 2)), 0.5), [[True, True], [False] * 2])


def test_every_salient_weight_is_within_half_a_step(weight):
    found = partial_binary(LayerData(weight), Format(GRID), fraction=0.3)
    high = found.parts[1]
    off = np.abs(weight - found.dense())
    assert np.all(off[high.mask] <= np.broadcast_to(high.scale / 2, off.shape)[high.mask] + 1e-7)
    assert not np.any(high.codes[~high.mask])


def reference(weight, second, block, fraction):
    """Greedy rounding with the inverse of what is still free, computed anew for every column."""
    rows, width = weight.shape
    damped = second + 0.01 * np.trace(second) / width * np.eye(width)
    inverse_diagonal = np.array([np.linalg.inv(damped[j:, j:])[0, 0] for j in range(width)])
    work, result = weight.astype(np.float64), np.zeros(weight.shape)
    for first in range(0, width, block):
        window = slice(first, min(first + block, width))
        tile = work[:, window].copy()
        score = tile**2 / inverse_diagonal[window]
        cut = np.sort(score, axis=None)[::-1][round(fraction * tile.size) - 1]
        salient = score >= cut
        mean = np.array([tile[o][~salient[o]].mean() for o in range(rows)])[:, None]
        distance = np.array([np.abs(tile[o][~salient[o]] - mean[o]).mean() for o in range(rows)])[
            :, None
        ]
        signs = np.where(tile >= mean, 1, -1)
        rest = np.where(salient, tile - mean - distance * signs, 0)
        step = np.abs(rest).max(axis=1, keepdims=True) / 127
        step[step == 0] = 1
        for j in range(window.start, window.stop):
            now = work[:, j : j + 1]
            low = mean + distance * np.where(now >= mean, 1, -1)
            codes = np.clip(np.round((now - low) / step), -127, 127)
            value = low + np.where(salient[:, j - first : j - first + 1], step * codes, 0)
            result[:, j : j + 1] = value
            inverse = np.linalg.inv(damped[j:, j:])
            work[:, j:] = work[:, j:] - (now - value) / inverse[0, 0] * inverse[0]
    return result


@pytest.mark.parametrize("block", [6, 12])
def test_feedback_against_explicit_inverses(weight, block):
    second = correlated(np.random.default_rng(2), 12)
    found = partial_binary(LayerData(weight, second=second), Format(GRID, block), fraction=0.25)
    expected = reference(weight, second, block, 0.25)
    np.testing.assert_allclose(found.dense(), expected, atol=2e-5)


@pytest.mark.parametrize("block", [0, 16])
def test_feedback_over_several_chunks_lowers_the_error(monkeypatch, block):
    rng = np.random.default_rng(3)
    basis = np.linalg.qr(rng.standard_normal((40, 40)))[0]
    second = basis.T @ np.diag(1.0 / np.arange(1, 41)) @ basis
    layer = LayerData(rng.standard_normal((32, 40)), second=second)
    stage = partial(partial_binary, layer, Format(GRID, block))
    whole = stage()
    monkeypatch.setattr("passel.passes.quantization.rounding.partial_binary.CHUNK", 7)
    np.testing.assert_allclose(stage().dense(), whole.dense(), atol=1e-6)
    blind = partial_binary(LayerData(layer.weight), Format(GRID, block)).dense()
    assert layer.error(whole.dense()) < 0.85 * layer.error(blind)


def test_feedback_that_does_not_help_is_dropped():
    rng = np.random.default_rng(3)
    weight, second = rng.standard_normal((8, 40)), correlated(rng, 40)
    found = partial_binary(LayerData(weight, second=second), Format(GRID))
    blind = partial_binary(LayerData(weight), Format(GRID))
    np.testing.assert_array_equal(found.dense(), blind.dense())
    assert "did not help" in found.notes[0]


def test_a_channel_that_was_always_zero_is_never_salient(weight):
    second = correlated(np.random.default_rng(4), 12)
    second[3, :] = second[:, 3] = 0
    layer = LayerData(weight, second=second)
    _, high = partial_binary(layer, Format(GRID), fraction=0.5).parts
    assert not high.mask[:, 3].any()


def test_without_statistics_it_says_so(weight):
    assert "no statistics" in partial_binary(LayerData(weight), Format(GRID)).notes[0]
    zero = LayerData(weight, second=np.zeros((12, 12)))
    found = partial_binary(zero, Format(GRID))
    np.testing.assert_array_equal(
        found.dense(), partial_binary(LayerData(weight), Format(GRID)).dense()
    )
    seen = LayerData(weight, second=np.eye(12))
    assert not partial_binary(seen, Format(GRID)).notes


def test_the_product_is_a_binary_and_a_sparse_one(weight):
    found = partial_binary(LayerData(weight), Format(GRID))
    low, high = found.parts
    x = np.random.default_rng(5).standard_normal(12)
    y = low.scale[:, 0] * ((2.0 * low.codes - 1) @ x) + low.offset[:, 0] * x.sum()
    rows, columns = np.nonzero(high.mask)
    sparse = high.codes[rows, columns] * high.scale[rows, 0] * x[columns]
    np.add.at(y, rows, sparse)
    np.testing.assert_allclose(found.dense() @ x, y, rtol=1e-9)


def test_bits(weight):
    found = partial_binary(LayerData(weight), Format(GRID, 4), fraction=0.25)
    signs, table, bitmap, salient = 72, 64, 72, 3 * 6
    assert found.bits == signs + table + bitmap + 8 * salient + 32 * 3 * 18


def test_a_part_holds_nothing_outside_its_mask_whatever_is_added_to_it():
    mask = np.array([[True, False], [False, True]])
    zero, scale, offset = np.zeros((2, 1)), np.array([[2.0], [3.0]]), np.array([[0.5], [-1.0]])
    part = Part(np.eye(2), scale, zero, Format(GRID), offset=offset, mask=mask)
    np.testing.assert_array_equal(part.dense(), [[2.5, 0.0], [0.0, 2.0]])
    assert part.bits == 2 * 8 + 4 + 2 * 32 + 2 * 32


def test_a_fraction_that_is_none(weight):
    with pytest.raises(ValueError, match=r"expected a fraction in \[0, 1\], got 1.5"):
        partial_binary(LayerData(weight), Format(GRID), fraction=1.5)
