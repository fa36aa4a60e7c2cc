"""The numbers of quantization, against the standard's text spelled out element by element."""

from fractions import Fraction

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from passel.graph.quant_numbers import dequantized, dynamically_quantized, limits, quantized

INTEGERS = {
    "int8": (-128, 127),
    "uint8": (0, 255),
    "int16": (-32768, 32767),
    "uint16": (0, 65535),
    "int4": (-8, 7),
    "uint4": (0, 15),
    "int2": (-2, 1),
    "uint2": (0, 3),
}
FLOATS = {"float8_e4m3fn": 448, "float8_e5m2": 57344, "float4_e2m1fn": 6}
LAYOUTS = [(None, 0), (0, 0), (1, 0), (2, 0), (0, 2), (1, 2), (1, 3), (2, 4)]
SHAPE = (3, 4, 5)


def dtype_of(name):
    return np.dtype(getattr(ml_dtypes, name, None) or name)


def grid_shape(axis, block):
    if axis is None:
        return ()
    if not block:
        return (SHAPE[axis],)
    return tuple(-(-n // block) if k == axis else n for k, n in enumerate(SHAPE))


def entry(grid, index, axis, block):
    """The scale or zero point of one element, as the standard has it."""
    if axis is None:
        return grid[()]
    if not block:
        return grid[index[axis]]
    return grid[tuple(i // block if k == axis else i for k, i in enumerate(index))]


def half_even(number):
    floor = number.numerator // number.denominator
    rest = number - floor
    return floor + (rest > Fraction(1, 2) or (rest == Fraction(1, 2) and floor % 2 == 1))


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize(("axis", "block"), LAYOUTS)
def test_integer_codes_and_what_they_stand_for(name, axis, block):
    rng, (low, high) = np.random.default_rng(len(name)), INTEGERS[name]
    shape = grid_shape(axis, block)
    scale = (2.0 ** rng.integers(-3, 3, shape)).astype(np.float32)  # so that x/scale is exact
    zero = rng.integers(low, high + 1, shape).astype(np.int32).astype(dtype_of(name))
    x = (rng.integers(-4 * high - 9, 4 * high + 9, SHAPE) / 4).astype(np.float32)  # many ties
    codes = quantized(x, scale, zero, dtype_of(name), axis, block)
    back = dequantized(codes, scale, zero, np.dtype(np.float32), axis, block)
    assert codes.dtype == dtype_of(name)
    assert back.dtype == np.float32
    for index in np.ndindex(SHAPE):
        s, z = entry(scale, index, axis, block), int(entry(zero, index, axis, block))
        want = half_even(Fraction(float(x[index])) / Fraction(float(s))) + z
        assert int(codes[index]) == min(max(want, low), high)
        assert back[index] == np.float32((int(codes[index]) - z) * float(s))


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize(("axis", "block"), LAYOUTS)
def test_float_codes_are_the_nearest_and_saturate(name, axis, block):
    rng, peak = np.random.default_rng(len(name)), FLOATS[name]
    scale = (2.0 ** rng.integers(-3, 3, grid_shape(axis, block))).astype(np.float32)
    x = (rng.standard_normal(SHAPE) * peak).astype(np.float32)
    x[0, 0, :2] = np.inf, -np.inf
    codes = quantized(x, scale, None, dtype_of(name), axis, block)
    size = 16 if name.startswith("float4") else 256
    every = np.arange(size, dtype=np.uint8).view(dtype_of(name)).astype(np.float64)
    every = every[np.isfinite(every)]
    for index in np.ndindex(SHAPE):
        wanted = float(x[index]) / float(entry(scale, index, axis, block))
        wanted = min(max(wanted, -peak), peak)
        assert abs(float(codes[index]) - wanted) == np.abs(every - wanted).min()
    back = dequantized(codes, scale, None, np.dtype(np.float64), axis, block)
    for index in np.ndindex(SHAPE):
        assert back[index] == float(codes[index]) * float(entry(scale, index, axis, block))


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=12))
def test_dynamic_quantization_covers_the_range_and_zero(numbers):
    x = np.array(numbers, np.float32)
    codes, scale, zero = dynamically_quantized(x)
    assert (codes.dtype, scale.dtype, zero.dtype) == (np.uint8, np.float32, np.uint8)
    assert (scale.shape, zero.shape) == ((), ())
    low, high = min(0.0, float(x.min())), max(0.0, float(x.max()))
    assert scale == np.float32(1 if low == high else np.float32(high) - np.float32(low)) / 255
    back = dequantized(codes, scale, zero, np.dtype(np.float64))
    assert np.abs(back - x).max() <= float(scale) * 1.01
    np.testing.assert_array_equal(codes[x == 0], np.full((x == 0).sum(), zero))


def test_the_reference_evaluator_agrees_where_it_is_right():
    text = """<ir_version: 10, opset_import: ["": 21]>
    g (float[4,6] x, float[2,6] s, int8[2,6] z) => (float[4,6] y) {
      q = QuantizeLinear <axis = 0, block_size = 2> (x, s, z)
      y = DequantizeLinear <axis = 0, block_size = 2> (q, s, z) }"""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 6)).astype(np.float32)
    scale = rng.uniform(0.01, 0.02, (2, 6)).astype(np.float32)
    zero = rng.integers(-9, 9, (2, 6)).astype(np.int8)
    feeds = {"x": x, "s": scale, "z": zero}
    want = ReferenceEvaluator(onnx.parser.parse_model(text)).run(None, feeds)
    codes = quantized(x, scale, zero, np.dtype(np.int8), 0, 2)
    got = dequantized(codes, scale, zero, np.dtype(np.float32), 0, 2)
    np.testing.assert_array_equal(got, want[0])


def test_huge_numbers_saturate_and_do_not_wrap():
    x = np.array([1e30, -1e30, np.inf, -np.inf], np.float32)
    codes = quantized(x, np.float32(1e-3).reshape(()), None, np.dtype(np.int8))
    assert codes.tolist() == [127, -128, 127, -128]


def test_narrow_floats_are_divided_in_float32():
    x, scale = np.array([0.3], np.float16), np.array(0.0123, np.float16)
    want = np.rint(x.astype(np.float32) / scale.astype(np.float32))
    assert quantized(x, scale, None, np.dtype(np.int8)).tolist() == want.tolist()


@pytest.mark.parametrize(("name", "bounds"), INTEGERS.items())
def test_limits(name, bounds):
    assert limits(dtype_of(name)) == bounds
