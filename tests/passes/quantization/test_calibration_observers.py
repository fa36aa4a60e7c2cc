"""Observers against numpy on all data at once, direct KL and brute-force searches."""

import math
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from passel.errors import InvalidInput
from passel.passes.quantization.calibration import METHODS, observer
from passel.passes.quantization.calibration.histogram import Histogram
from passel.passes.quantization.calibration.histogram_ranges import SMOOTHING, squared_error
from passel.passes.quantization.grid import Grid

INT8, UINT8 = Grid("int8"), Grid("uint8", symmetric=False)
INT4, UINT4 = Grid("int4"), Grid("uint4", symmetric=False)
FP8 = Grid("float8_e4m3fn")


def stream(count=20, size=(7, 30), seed=0, scale=1.0):
    generator = np.random.default_rng(seed)
    return [
        (generator.normal(size=size) * scale * (1 + i)).astype(np.float32) for i in range(count)
    ]


def fed(method, data, axis=None, **parameters):
    made = observer(method, axis, **parameters)
    for array in data:
        made.update(array)
    return made


def histogram(numbers, bins=64):
    made = Histogram(1, bins)
    for array in numbers:
        rows = np.asarray(array, np.float64).reshape(1, -1)
        made.update(rows, rows.min(axis=1), rows.max(axis=1))
    return made


# -- the histogram ---------------------------------------------------------------------------------

floats = st.floats(-1e6, 1e6, width=32)


@settings(max_examples=100)
@given(st.lists(st.lists(floats, min_size=1, max_size=8), min_size=1, max_size=8))
def test_histogram_is_what_the_final_width_would_have_counted(blocks):
    """Whatever the order and growth: counts of ⌊x/w⌋, in exact arithmetic, at the least width."""
    made = histogram(blocks)
    numbers = [x for block in blocks for x in block]
    width = Fraction(2) ** int(made.exponent[0])
    counts: dict[int, int] = {}
    for x in numbers:
        number = math.floor(Fraction(x) / width)
        counts[number] = counts.get(number, 0) + 1
    window = made.first[0] + np.arange(made.bins)
    assert {int(n): int(c) for n, c in zip(window, made.counts[0], strict=True) if c} == counts
    assert made.zeros[0] == sum(x == 0 for x in numbers)
    if max(numbers) > min(numbers):
        finer = width / 2
        spread = math.floor(Fraction(max(numbers)) / finer) - math.floor(
            Fraction(min(numbers)) / finer
        )
        peak = max(abs(x) for x in numbers)
        assert spread + 1 > made.bins or finer < Fraction(peak) / 2**40 * 2


@given(st.permutations([0.0, 1e-8, -3.5, 7.25, 1000.0, -0.1]))
def test_histogram_does_not_depend_on_the_order(order):
    one, other = histogram([[x] for x in order]), histogram([sorted(order)])
    for name in Histogram.fields:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_channels_have_windows_of_their_own():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(3, 500)) * np.array([[1e-3], [1.0], [1e4]]) + [[0], [5], [0]]
    together = Histogram(3, 64)
    for part in np.split(x, 10, axis=1):
        together.update(part, part.min(axis=1), part.max(axis=1))
    for index in range(3):
        alone = histogram([x[index]])
        np.testing.assert_array_equal(together.counts[index], alone.counts[0])
        assert together.exponent[index] == alone.exponent[0]


@given(st.lists(floats, min_size=1, max_size=50))
def test_magnitude_is_the_histogram_of_absolute_values(numbers):
    folded = histogram([numbers]).channel(0).magnitude()
    found, _ = np.histogram(np.abs([x for x in numbers if x]), folded.edges)
    inside = folded.counts.sum() == sum(x != 0 for x in numbers)
    assert inside
    # A negative number on an edge belongs to the bin above it by |x| and below it by x.
    assert np.abs(np.cumsum(found) - np.cumsum(folded.counts)).max(initial=0) <= sum(
        x < 0 and x / (folded.edges[1] - folded.edges[0]) % 1 == 0 for x in numbers
    )
    assert folded.high == max(abs(x) for x in numbers)


# -- min-max and its average -----------------------------------------------------------------------


@pytest.mark.parametrize("axis", [None, 0, 1, -1])
@pytest.mark.parametrize("method", ["minmax", "percentile"])
def test_minmax_and_the_hundredth_percentile_are_numpys(method, axis):
    data = stream()
    low, high = fed(method, data, axis, percentile=100).range(UINT8)
    whole = np.stack(data)
    axes = None if axis is None else tuple(i for i in range(3) if i != (axis % 2) + 1)
    assert low.dtype == high.dtype == np.float64
    np.testing.assert_array_equal(low, whole.min(axis=axes))
    np.testing.assert_array_equal(high, whole.max(axis=axes))


def test_moving_average_is_its_recurrence():
    data = stream()
    low, high = float(data[0].min()), float(data[0].max())
    for array in data[1:]:
        low, high = 0.9 * low + 0.1 * float(array.min()), 0.9 * high + 0.1 * float(array.max())
    found = fed("moving-average", data).range(INT8)
    np.testing.assert_allclose(found, (low, high), rtol=1e-12)


def test_moving_average_against_torch():
    torch_observer = torch.ao.quantization.MovingAverageMinMaxObserver(averaging_constant=0.25)
    data = stream()
    for array in data:
        torch_observer(torch.from_numpy(array))
    found = fed("moving-average", data, momentum=0.75).range(INT8)
    expected = torch_observer.min_val.item(), torch_observer.max_val.item()
    np.testing.assert_allclose(found, expected, rtol=1e-5)


# -- percentile ------------------------------------------------------------------------------------


@pytest.mark.parametrize("percentile", [90, 99, 99.9, 99.99])
@pytest.mark.parametrize("shape", ["normal", "relu", "shifted"])
def test_percentile_is_within_a_bin_of_numpys(percentile, shape):
    data = stream(count=30, size=(40, 50))
    if shape == "relu":
        data = [np.maximum(a, 0) for a in data]
    if shape == "shifted":
        data = [a + 100 for a in data]
    made = fed("percentile", data, percentile=percentile)
    flat = np.sort(np.stack(data).astype(np.float64).ravel())
    width = 2 * (flat[-1] - flat[0]) / 4096
    cut = (100 - percentile) / 2
    for found, share in zip(made.range(UINT8), (cut, 100 - cut), strict=True):
        assert between(found, flat, share, width)
    low, high = made.range(INT8)
    assert between(max(-low, high), np.sort(np.abs(flat)), percentile, width)


def between(found, flat, share, width):
    """Whether it is within a bin of the two numbers around a percentile."""
    below = np.percentile(flat, share, method="lower")
    above = np.percentile(flat, share, method="higher")
    return below - width <= found <= above + width


def test_percentile_cuts_an_outlier_that_minmax_keeps():
    data = [*stream(count=10, scale=0.1), np.array([[1000.0]], np.float32)]
    assert fed("minmax", data).range(UINT8)[1] == 1000
    assert fed("percentile", data, percentile=99.9).range(UINT8)[1] < 6


# -- entropy ---------------------------------------------------------------------------------------


def divergence(numbers, width, reach, grid):
    """KL of a clip at ±reach, with loops and dictionaries, from the numbers themselves."""
    low, high = max(numbers.min(), -reach), min(numbers.max(), reach)
    scale, zero = grid.fit(np.array(low), np.array(high))
    kept: dict[int, float] = {}
    below = above = 0
    for x in numbers[numbers != 0]:
        number = math.floor(x / width)
        centre = min(max((number + 0.5) * width, numbers.min()), numbers.max())
        below, above = below + (centre < low), above + (centre > high)
        if low <= centre <= high:
            kept[number] = kept.get(number, 0) + 1
    order = sorted(range(math.floor(low / width) - 1, math.floor(high / width) + 2))
    inside = [
        n for n in order if low <= min(max((n + 0.5) * width, numbers.min()), numbers.max()) <= high
    ]
    inside = [
        n
        for n in inside
        if math.floor(numbers.min() / width) <= n <= math.floor(numbers.max() / width)
    ]
    p = dict.fromkeys(inside, 0.0) | kept
    q = {}
    for n in inside:
        centre = min(max((n + 0.5) * width, numbers.min()), numbers.max())
        q.setdefault(float(grid.encode(np.array(centre), scale, zero)), []).append(n)
    spread = {}
    for group in q.values():
        held = [n for n in group if kept.get(n)]
        for n in held:
            spread[n] = sum(kept[m] for m in held) / len(held)
    p[inside[0]] += below
    p[inside[-1]] += above
    total, mass = sum(p.values()), max(sum(spread.values()), 1e-300)
    held = [n for n in p if p[n] > 0]
    kl = 0.0
    for n in held:
        mixed = (1 - SMOOTHING) * spread.get(n, 0) / mass + SMOOTHING / len(held)
        kl += p[n] / total * math.log(p[n] / total / mixed)
    return kl


@pytest.mark.parametrize("grid", [INT4, UINT4, Grid("float4_e2m1fn")], ids=str)
@pytest.mark.parametrize("shape", ["normal", "relu", "negative", "gelu", "offset"])
def test_entropy_is_the_least_of_direct_divergences(grid, shape):
    generator = np.random.default_rng(1)
    x = generator.standard_t(3, size=400)
    x = {
        "normal": x,
        "relu": np.maximum(x, 0),
        "negative": -np.abs(x),
        "gelu": np.where(x > 0, x, 0.05 * x),
        "offset": np.abs(x) + 2,
    }[shape]
    made = fed("entropy", np.split(x, 10), bins=64)
    width = 2.0 ** int(made.state()["exponent"][0])
    reach = max(-x.min(), x.max())
    one_sided = x.min() >= 0 or x.max() <= 0
    codes = 2 ** (grid.bits - (0 if one_sided and grid is UINT4 else 1))
    least = max(x.min(), -x.max(), 0) + codes * width
    steps = np.arange(math.ceil(least / width - 1e-9), math.floor(reach / width + 0.5) + 1)
    costs = [divergence(x, width, step * width, grid) for step in steps]
    low, high = made.range(grid)
    found = divergence(x, width, max(-low, high), grid)
    assert found <= min(costs) * (1 + 1e-9) + 1e-12
    assert len(set(np.round(costs, 9))) > 5  # the costs tell candidates apart


def test_entropy_clips_a_heavy_tail_and_keeps_a_uniform():
    generator = np.random.default_rng(0)
    tail = generator.standard_t(2, size=50_000)
    assert fed("entropy", [tail]).range(INT8)[1] < 0.7 * np.abs(tail).max()
    flat = generator.uniform(-1, 1, size=50_000)
    assert fed("entropy", [flat]).range(INT8)[1] > 0.95


def test_entropy_is_not_moved_by_padding():
    """However many exact zeros, the range is that of the other numbers."""
    x = np.random.default_rng(0).standard_t(3, size=20_000)
    alone = fed("entropy", [x]).range(INT8)
    padded = fed("entropy", [x, *[np.zeros(10**6)] * 5]).range(INT8)
    np.testing.assert_array_equal(alone, padded)


def test_a_grid_finer_than_the_histogram_gets_the_extremes():
    x = np.random.default_rng(0).standard_t(3, size=5000)
    for method in ("entropy", "mse"):
        low, high = fed(method, [x]).range(Grid("int16"))
        assert (low, high) == (x.min(), x.max())


# -- mse -------------------------------------------------------------------------------------------


def true_error(x, grid, low, high):
    scale, zero = grid.fit(np.array(low), np.array(high))
    return float(((x - scale * (grid.encode(x, scale, zero) - zero)) ** 2).mean())


@pytest.mark.parametrize(
    "grid", [INT8, INT4, Grid("int2"), FP8, Grid("float4_e2m1fn")], ids=lambda g: g.name
)
@pytest.mark.parametrize("shape", ["normal", "tail", "gelu"])
def test_mse_of_a_symmetric_grid_is_the_best_scale(grid, shape):
    generator = np.random.default_rng(2)
    x = generator.standard_t(3, size=4000) if shape == "tail" else generator.normal(size=4000)
    x = np.where(x > 0, x, 0.1 * x) if shape == "gelu" else x
    low, high = fed("mse", np.split(x, 8)).range(grid)
    found = true_error(x, grid, low, high)
    best = min(true_error(x, grid, -r, r) for r in np.geomspace(0.02, 1, 300) * np.abs(x).max())
    assert found <= best * 1.03


@pytest.mark.parametrize("shape", ["normal", "gelu", "relu"])
def test_mse_of_an_asymmetric_grid_is_near_the_best_pair(shape):
    generator = np.random.default_rng(3)
    x = generator.normal(size=1000) + 0.3
    x = {"normal": x, "gelu": np.where(x > 0, x, 0.1 * x), "relu": np.maximum(x, 0)}[shape]
    low, high = fed("mse", [x]).range(UINT4)
    shares = np.linspace(0.2, 1, 60)
    lows = shares * x.min() if x.min() < 0 else [0.0]
    best = min(true_error(x, UINT4, a, b) for a in lows for b in shares * x.max())
    assert true_error(x, UINT4, low, high) <= best * 1.05


def test_squared_error_is_that_of_the_numbers():
    x = np.random.default_rng(0).normal(size=5000)
    bins = fed("mse", [x])._store.channel(0)
    found = squared_error(bins, INT4, np.array([-2.0]), np.array([2.0])) / x.size
    assert found[0] == pytest.approx(true_error(x, INT4, -2.0, 2.0), rel=1e-2)


# -- all of them -----------------------------------------------------------------------------------

each = pytest.mark.parametrize("method", METHODS)


@each
@pytest.mark.parametrize("axis", [None, 1])
def test_memory_does_not_grow(method, axis):
    data = stream(count=40)
    made = fed(method, data[:1], axis)
    before = made.nbytes
    for array in data:
        made.update(array * 1e3)
    assert made.nbytes == before > 0


@each
def test_channels_are_tensors_of_their_own(method):
    data = stream(size=(6, 4, 5))
    low, high = fed(method, data, axis=1).range(UINT4)
    assert low.shape == high.shape == (4,)
    for index in range(4):
        alone = fed(method, [a[:, index] for a in data], bins=1024).range(UINT4)
        np.testing.assert_array_equal((low[index], high[index]), alone)


@each
@pytest.mark.parametrize("axis", [None, 0])
def test_state_goes_on_bit_for_bit(method, axis):
    data = stream()
    whole, half = fed(method, data, axis), fed(method, data[:9], axis)
    again = observer(method, axis)
    again.update(np.full((7, 3), 1e9, np.float32))  # forgotten by restore
    again.restore({name: array.copy() for name, array in half.state().items()})
    for array in data[9:]:
        again.update(array)
    assert whole.spec == again.spec
    for name, array in whole.state().items():
        np.testing.assert_array_equal(array, again.state()[name])
    fresh = observer(method, axis)
    fresh.restore(observer(method, axis).state())
    with pytest.raises(InvalidInput, match="no finite number"):
        fresh.range(INT8)


@each
def test_zeros_alone_have_a_range_of_zero(method):
    low, high = fed(method, [np.zeros((4, 4), np.float32)] * 3).range(INT8)
    assert (low, high) == (0, 0)
    assert INT8.fit(low, high)[0] == 1


@each
@pytest.mark.parametrize("number", [3.5, -2.0])
def test_one_number_repeated(method, number):
    low, high = fed(method, [np.full((4, 4), number, np.float32)] * 3).range(UINT8)
    assert (low, high) == (number, number)


@each
@pytest.mark.parametrize("axis", [None, 0])
def test_infinity_is_left_out_and_counted(method, axis):
    data = stream(count=3)
    masked = [a.copy() for a in data]
    masked[0][2, 3:5] = -np.inf
    masked[1][4, 1] = np.inf
    made = fed(method, masked, axis)
    kept = [np.where(np.isfinite(m), m, m[2, 0]) for m in masked]
    assert made.skipped == 3
    low, high = made.range(UINT8)
    assert np.isfinite(low).all()
    if method in ("minmax", "moving-average"):
        expected = fed(method, kept, axis).range(UINT8)
        if axis is None:
            np.testing.assert_array_equal((low, high), expected)
    else:
        counts = made.state()["counts"].sum(axis=1)
        assert counts.sum() == sum(np.isfinite(m).sum() for m in masked)
        assert (made.state()["counts"] >= 0).all()


@each
def test_a_channel_of_masks_only(method):
    x = np.stack([np.full(50, -np.inf), np.linspace(-1, 2, 50)]).astype(np.float32)
    made = fed(method, [x], axis=0)
    low, high = made.range(UINT8)
    assert (low[0], high[0]) == (0, 0)
    assert -1 <= low[1] < high[1] <= 2
    made.update(np.abs(np.nan_to_num(x, neginf=7.0)))
    assert made.range(UINT8)[1][0] == 7


@each
def test_nan_is_refused(method):
    with pytest.raises(InvalidInput, match="it holds NaN"):
        fed(method, [np.array([1.0, np.nan], np.float32)])


@each
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.int32, np.float64])
def test_other_types(method, dtype):
    data = [np.arange(-8, 9).astype(dtype)]
    wide = [np.arange(-8, 9).astype(np.float32)]
    np.testing.assert_array_equal(fed(method, data).range(INT4), fed(method, wide).range(INT4))


@each
def test_ranges_stay_within_the_extremes(method):
    data = [np.abs(a) + 0.5 for a in stream()]
    for grid in (INT8, UINT8, INT4, UINT4, FP8):
        low, high = fed(method, data).range(grid)
        assert min(a.min() for a in data) <= low < high <= max(a.max() for a in data)


@pytest.mark.parametrize(
    ("spelling", "method"),
    [
        ("MinMax", "minmax"),
        ("min_max", "minmax"),
        ("Entropy", "entropy"),
        ("PERCENTILE", "percentile"),
        ("Moving_Average", "moving-average"),
        ("MSE", "mse"),
    ],
)
def test_spellings(spelling, method):
    assert observer(spelling).spec == observer(method).spec


def test_bad_arguments():
    with pytest.raises(InvalidInput, match=r"calibration method of minmax, entropy, .* got 'best'"):
        observer("best")
    with pytest.raises(InvalidInput, match=r"percentile in \(50, 100\], got 101"):
        observer("percentile", percentile=101)
    with pytest.raises(InvalidInput, match=r"momentum in \[0, 1\), got 1"):
        observer("moving-average", momentum=1)
    with pytest.raises(ValueError, match="at least 4 bins"):
        fed("mse", stream(1), bins=2)
    with pytest.raises(ValueError, match="expected 7 channels along axis 0, got 6"):
        fed("minmax", [np.ones((7, 2)), np.ones((6, 2))], axis=0)
    with pytest.raises(InvalidInput, match="no finite number was seen"):
        fed("minmax", [np.full(3, np.inf)]).range(INT8)
