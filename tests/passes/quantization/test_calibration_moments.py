"""Moments against numpy on all rows at once; patches against torch's unfold and convolution."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from passel.errors import InvalidInput
from passel.graph import Value
from passel.graph.ops import Conv
from passel.passes.quantization.calibration import Moments, PatchMoments, bytes_for
from passel.passes.quantization.calibration.patches import patches


def blocks(width=12, seed=0, dtype=np.float32):
    generator = np.random.default_rng(seed)
    mix = generator.normal(size=(width, width))
    shapes = [(3, width), (2, 5, width), (1, 1, 1, width), (1500, width), (0, width)]
    return [(generator.normal(size=shape) @ mix + 1).astype(dtype) for shape in shapes]


def fed(data, **options):
    made = Moments(data[0].shape[-1], **options)
    for array in data:
        made.update(array)
    return made


def whole(data):
    return np.concatenate([a.reshape(-1, a.shape[-1]) for a in data]).astype(np.float64)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int32])
def test_moments_are_those_of_all_rows(dtype):
    data = blocks(dtype=dtype)
    made, x = fed(data), whole(data)
    tolerance = 1e-12 if dtype in (np.float64, np.int32) else 1e-6
    second = x.T @ x / len(x)
    assert made.count == len(x)
    assert made.second.dtype == np.float64
    np.testing.assert_allclose(made.second, second, atol=tolerance * np.abs(second).max())
    np.testing.assert_allclose(made.diagonal, np.diag(second), rtol=tolerance)
    np.testing.assert_allclose(made.mean_abs, np.abs(x).mean(axis=0), rtol=tolerance)
    np.testing.assert_array_equal(made.peak, np.abs(x).max(axis=0))


def test_the_diagonal_alone_above_the_limit():
    data = blocks()
    made, x = fed(data, limit=11), whole(data)
    assert not made.full
    assert made.second is None
    np.testing.assert_allclose(made.diagonal, (x**2).mean(axis=0), rtol=1e-6)
    assert made.nbytes < fed(data).nbytes / 3


def test_cross_moments():
    data, twins = blocks(), blocks(seed=1)
    made = Moments(12, cross=True)
    for array, twin in zip(data, twins, strict=True):
        made.update(array, twin)
    expected = whole(twins).T @ whole(data) / len(whole(data))
    np.testing.assert_allclose(made.cross, expected, atol=1e-6 * np.abs(expected).max())
    assert fed(data).cross is None


def test_layer_data_carries_them():
    weight = np.random.default_rng(0).normal(size=(4, 12))
    made = fed(blocks())
    layer = made.layer(weight, "fc")
    other = weight + 0.1
    outputs = whole(blocks()) @ (weight - other).T
    assert layer.error(other) == pytest.approx((outputs**2).sum(axis=1).mean(), rel=1e-5)
    assert layer.name == "fc"
    np.testing.assert_array_equal(layer.peak, made.peak)
    assert Moments(12).layer(weight).second is None


@given(st.integers(0, 4), st.booleans())
def test_state_goes_on_bit_for_bit(cut, cross):
    data, twins = blocks(), blocks(seed=1)
    pair = list(zip(data, twins if cross else [None] * len(data), strict=True))
    one, half = Moments(12, cross=cross), Moments(12, cross=cross)
    for x, twin in pair:
        one.update(x, twin)
    for x, twin in pair[:cut]:
        half.update(x, twin)
    other = Moments(12, cross=cross)
    other.restore({name: array.copy() for name, array in half.state().items()})
    for x, twin in pair[cut:]:
        other.update(x, twin)
    assert one.spec == other.spec
    for name, array in one.state().items():
        np.testing.assert_array_equal(array, other.state()[name])


@pytest.mark.parametrize("cross", [False, True])
def test_memory_does_not_grow_and_is_foretold(cross):
    made = Moments(64, cross=cross)
    before = made.nbytes
    for seed in range(20):
        x = np.random.default_rng(seed).normal(size=(50, 64)).astype(np.float32)
        made.update(x, x if cross else None)
    assert made.nbytes == before
    assert before <= bytes_for(64, cross=cross)
    assert bytes_for(20_000) < bytes_for(8192) < 2**30
    assert bytes_for(4096) > 4096**2 * 8


def test_large_numbers_do_not_overflow():
    made = fed([np.full((4, 2), 1e30, np.float32)])
    np.testing.assert_allclose(made.second, np.full((2, 2), 1e60), rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_must_be_finite(bad):
    x = np.ones((4, 3), np.float32)
    x[2, 1] = bad
    with pytest.raises(InvalidInput, match="it holds NaN or Inf"):
        fed([x])


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"expected a last axis of 3, got \(2, 4\)"):
        Moments(3).update(np.ones((2, 4)))
    with pytest.raises(ValueError, match=r"expected the float model's rows \(2, 3\), got None"):
        Moments(3, cross=True).update(np.ones((2, 3)))
    with pytest.raises(ValueError, match="width of at least 1, got 0"):
        Moments(0)


# -- convolutions ----------------------------------------------------------------------------------


def conv(weight, stride=1, padding=((0, 0),), dilation=1, **options):
    rank = weight.ndim - 2
    value = Value("w", weight.shape, weight.dtype)
    return Conv(
        inputs=[Value("x", None, weight.dtype), value],
        stride=(stride,) * rank,
        padding=None if padding is None else tuple(padding) * rank,
        dilation=(dilation,) * rank,
        name="conv",
        **options,
    )


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", [0, 2])
@pytest.mark.parametrize("dilation", [1, 2])
def test_patches_are_torchs_unfold(stride, padding, dilation):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(2, 3, 9, 8)).astype(np.float32)
    op = conv(np.ones((4, 3, 3, 3), np.float32), stride, ((padding, padding),), dilation)
    unfolded = functional.unfold(torch.from_numpy(x), 3, dilation, padding, stride)
    expected = unfolded.transpose(1, 2).reshape(-1, 27).numpy()
    np.testing.assert_array_equal(patches(x, op, budget=10**6), expected)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_convolution_is_its_weight_times_the_patches(rank):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(2, 3, *(7, 6, 5)[:rank]))
    weight = generator.normal(size=(4, 3, *(3, 2, 2)[:rank]))
    op = conv(weight, 2, ((1, 2),))
    padded = torch.from_numpy(np.pad(x, [(0, 0), (0, 0), *[(1, 2)] * rank]))
    run = (functional.conv1d, functional.conv2d, functional.conv3d)[rank - 1]
    expected = run(padded, torch.from_numpy(weight), stride=2).numpy()
    found = patches(x, op, budget=10**6) @ weight.reshape(4, -1).T
    np.testing.assert_allclose(found, np.moveaxis(expected, 1, -1).reshape(-1, 4), atol=1e-12)


@pytest.mark.parametrize("kernel", [2, 3])
def test_same_padding(kernel):
    x = np.random.default_rng(0).normal(size=(1, 2, 7, 7))
    weight = np.random.default_rng(1).normal(size=(4, 2, kernel, kernel))
    before, after = (kernel - 1) // 2, kernel // 2
    padded = torch.from_numpy(np.pad(x, [(0, 0), (0, 0), *[(before, after)] * 2]))
    expected = functional.conv2d(padded, torch.from_numpy(weight))
    found = patches(x, conv(weight, padding=None)) @ weight.reshape(4, -1).T
    expected = np.moveaxis(expected.numpy(), 1, -1).reshape(-1, 4)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_a_budget_takes_a_seeded_part():
    x = np.random.default_rng(0).normal(size=(4, 3, 20, 20)).astype(np.float32)
    op = conv(np.ones((4, 3, 3, 3), np.float32))
    every = {row.tobytes() for row in patches(x, op, budget=10**6)}
    one, again, other = (patches(x, op, budget=50, seed=seed) for seed in (0, 0, 1))
    assert one.shape == (50, 27)
    rows = {row.tobytes() for row in one}
    assert len(rows) == 50
    assert rows <= every
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


def test_patch_moments_see_other_places_each_time_and_the_same_in_the_twin():
    op = conv(np.ones((4, 3, 3, 3), np.float32))
    x = np.random.default_rng(0).normal(size=(2, 3, 12, 12)).astype(np.float32)
    made = PatchMoments(op, 27, budget=40, cross=True)
    made.update(x, 2 * x)
    made.update(x, 2 * x)
    taken = np.concatenate([patches(x, op, budget=40, seed=seed) for seed in (0, 1)])
    expected = taken.T.astype(np.float64) @ taken / 80
    assert made.count == 80
    np.testing.assert_allclose(made.second, expected, atol=1e-5)
    np.testing.assert_allclose(made.cross, 2 * made.second, rtol=1e-5, atol=1e-12)
    other = PatchMoments(op, 27, budget=40, cross=True)
    other.restore(made.state())
    for moments in (made, other):
        moments.update(x, x)
    np.testing.assert_array_equal(made.second, other.second)
    assert "conv='conv', budget=40" in made.spec


def test_patches_of_other_convolutions_are_refused():
    x, weight = np.ones((1, 4, 5, 5)), np.ones((4, 2, 3, 3))
    with pytest.raises(ValueError, match="one group, got groups=2, transposed=False at 'conv'"):
        patches(x, conv(weight, groups=2))
    with pytest.raises(ValueError, match="transposed=True"):
        patches(x, conv(weight, transposed=True))
    op = conv(weight)
    op.inputs[1].shape = None
    with pytest.raises(ValueError, match="kernel of known shape, got None at 'conv'"):
        patches(x, op)
