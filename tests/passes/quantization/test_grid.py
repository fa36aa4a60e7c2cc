"""Number formats: the floating-point tables, saturation, ties, and ZeroQuant-FP's error."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from passel.passes.quantization.grid import Grid
from passel.passes.quantization.layer import LayerData
from passel.passes.quantization.rounded import Format
from passel.passes.quantization.rounding.rtn import rtn

FP4 = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
FLOATS = ["float4_e2m1fn", "float8_e4m3fn", "float8_e5m2"]


def encode(name, x):
    return Grid(name).encode(np.asarray(x, dtype=np.float64), np.float64(1), np.float64(0))


def minifloats(exponent_bits, mantissa_bits, bias, specials):
    """All finite numbers ≥ 0 of a format, from its definition; `specials`: codes left off."""
    found = []
    for code in range(2 ** (exponent_bits + mantissa_bits) - specials):
        exponent, mantissa = divmod(code, 2**mantissa_bits)
        lead, power = (0, 1) if exponent == 0 else (1, exponent)
        found.append((lead + mantissa / 2**mantissa_bits) * 2.0 ** (power - bias))
    return np.array(found)


TABLES = {
    "float4_e2m1fn": minifloats(2, 1, 1, 0),
    "float8_e4m3fn": minifloats(4, 3, 7, 1),
    "float8_e5m2": minifloats(5, 2, 15, 4),
}


def test_fp4_has_these_values():
    assert TABLES["float4_e2m1fn"].tolist() == FP4
    both = np.array([*(-value for value in FP4), *FP4])
    np.testing.assert_array_equal(encode("float4_e2m1fn", both), both)
    bytes_of = np.arange(16, dtype=np.uint8).view(ml_dtypes.float4_e2m1fn).astype(np.float64)
    np.testing.assert_array_equal(bytes_of, [*FP4, *(-value for value in FP4)])


@pytest.mark.parametrize("name", FLOATS)
def test_every_value_of_a_float_format_is_its_own_code(name):
    table = TABLES[name]
    np.testing.assert_array_equal(encode(name, table), table)
    np.testing.assert_array_equal(encode(name, -table), -table)
    assert Grid(name).high == table[-1]


@pytest.mark.parametrize("name", FLOATS)
def test_ties_go_to_the_even_code_and_others_to_the_nearest(name):
    table = TABLES[name]
    middles = (table[1:] + table[:-1]) / 2
    lower = np.arange(len(middles))
    even = np.where(lower % 2 == 0, table[:-1], table[1:])
    np.testing.assert_array_equal(encode(name, middles), even)
    np.testing.assert_array_equal(encode(name, middles * (1 + 1e-6)), table[1:])
    np.testing.assert_array_equal(encode(name, middles * (1 - 1e-6)), table[:-1])


@pytest.mark.parametrize(
    ("name", "most"), [("float4_e2m1fn", 6), ("float8_e4m3fn", 448), ("float8_e5m2", 57344)]
)
def test_what_is_too_large_saturates(name, most):
    large = np.array([most * 1.01, most * 1.5, 1e30, 1e300, np.inf])
    np.testing.assert_array_equal(encode(name, large), np.full(5, most))
    np.testing.assert_array_equal(encode(name, -large), np.full(5, -most))


@pytest.mark.parametrize("name", ["float4_e2m1fn", "float8_e4m3fn"])
def test_fp4_is_exact_in_fp8(name):
    np.testing.assert_array_equal(encode("float8_e4m3fn", TABLES["float4_e2m1fn"]), FP4)


@given(
    bits=st.integers(2, 8),
    kind=st.sampled_from([("int", True), ("int", False), ("uint", True), ("uint", False)]),
    seed=st.integers(0, 10**6),
)
def test_integer_codes_are_the_nearest_on_the_grid(bits, kind, seed):
    prefix, symmetric = kind
    grid = Grid(f"{prefix}{bits}", symmetric)
    x = np.random.default_rng(seed).standard_normal(50) * 3 + 1
    scale, zero = grid.fit(x.min(keepdims=True), x.max(keepdims=True))
    values = scale * (np.arange(grid.low, grid.high + 1) - zero)
    nearest = np.abs(x[:, None] - values).min(axis=1)
    codes = grid.encode(x, scale, zero)
    np.testing.assert_allclose(np.abs(scale * (codes - zero) - x), nearest, atol=1e-12)
    assert nearest.max() <= scale[0] * (0.5 if symmetric else 1.0) + 1e-12


def scattered(seed=0):
    """Gaussian blocks of 64 whose sizes are log-normal, [256, 1024]."""
    rng = np.random.default_rng(seed)
    sizes = np.exp(0.5 * rng.standard_normal((256, 16, 1)))
    return (rng.standard_normal((256, 16, 64)) * sizes).reshape(256, 1024)


@pytest.mark.parametrize(("name", "stated"), [("float4_e2m1fn", 0.0112), ("int4", 0.0115)])
def test_relative_error_of_zeroquant_fp(name, stated):
    weight = scattered()
    rounded = rtn(LayerData(weight), Format(Grid(name), 64))
    error = ((rounded.dense() - weight) ** 2).sum() / (weight**2).sum()
    assert error == pytest.approx(stated, abs=3e-4)
