"""Rounded weights through .npz and back: every bit, and few of them."""

import io

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from passel.passes.quantization.archive import pack, restored, storable, unpack
from passel.passes.quantization.grid import Grid
from passel.passes.quantization.rounded import Format, Part, Rounded
from passel.passes.quantization.rounding import round_weight
from tests.passes.quantization.layers import FORMATS, trained_like

STAGES = [
    ("rtn",),
    ("mse", "gptq"),
    ("mse", "gptq", "lorc:3"),
    ("flexround",),
    ("binary",),
    ("ternary",),
    ("partial-binary",),
    ("codebook",),
    ("nupes",),
    ("pow2-group",),
    ("statsq",),
]
GRIDS = {"binary": Grid("uint1", symmetric=False), "partial-binary": Grid("uint1", symmetric=False)}


def through_file(rounded):
    file = io.BytesIO()
    np.savez(file, **pack(rounded))
    size = file.tell()
    file.seek(0)
    with np.load(file, allow_pickle=False) as held:
        return unpack({name: held[name] for name in held.files}), size


def same(one, other):
    """Whether two arrays are equal in type, shape and every bit."""
    if one is None or other is None:
        return one is other
    alike = one.dtype == other.dtype and one.shape == other.shape
    return alike and np.ascontiguousarray(one).tobytes() == np.ascontiguousarray(other).tobytes()


def check(before, after):
    assert (before.shape, before.method, before.notes) == (after.shape, after.method, after.notes)
    for name in ("rows", "columns", "left", "right"):
        assert same(getattr(before, name), getattr(after, name)), name
    assert len(before.parts) == len(after.parts)
    for one, other in zip(before.parts, after.parts, strict=True):
        assert one.format == other.format
        for name in ("codes", "scale", "zero", "table", "columns", "offset", "mask"):
            assert same(getattr(one, name), getattr(other, name)), name
    assert before.dense().tobytes() == after.dense().tobytes()


@pytest.mark.parametrize("stages", STAGES, ids="+".join)
def test_what_algorithms_make(stages):
    layer = trained_like(rows=12, width=16)
    wanted = Format(GRIDS.get(stages[0], Grid("int4")), 8 if stages[0] == "rtn" else 0)
    rounded = round_weight(layer, wanted, stages)
    after, _ = through_file(rounded)
    check(rounded, after)


@pytest.mark.parametrize("wanted", FORMATS, ids=str)
def test_formats_and_sizes(wanted):
    rounded = round_weight(trained_like(rows=64, width=128), wanted, ("rtn",))
    assert rounded.parts[0].codes.nbytes >= 4 * 64 * 128
    after, size = through_file(rounded)
    check(rounded, after)
    scales = rounded.parts[0].scale.nbytes + rounded.parts[0].zero.nbytes
    assert size <= 64 * 128 * (1 + 1 / 8) + scales + 6000  # a byte a code, and a bit for −0.0


@given(
    st.sampled_from(["float32", "float64", "int64", "int8", "float8_e4m3fn", "int4", "bfloat16"]),
    st.lists(st.sampled_from([-0.0, 0.0, 1.0, -3.0, 7.0]), min_size=1, max_size=9),
    st.booleans(),
)
def test_signs_of_zero_and_types_of_codes(dtype, codes, floats):
    held = np.array([codes]).astype(np.dtype(getattr(ml_dtypes, dtype, dtype)))
    grid = Grid("float8_e4m3fn") if floats else Grid("int4")
    one = np.ones((1, 1))
    part = Part(held, one, 0 * one, Format(grid))
    rounded = Rounded((part,), (1, len(codes)), method="x", notes=("ein Hinweis – ß",))
    check(rounded, through_file(rounded)[0])


@pytest.mark.parametrize(
    "codes", [[[0.5, -0.0]], [[np.nan, 1.0]], [[2.0**40, -0.0]], [[300.0, -1]]]
)
def test_codes_that_fit_no_narrow_type(codes):
    part = Part(np.array(codes), np.ones((1, 1)), np.zeros((1, 1)), Format(Grid("int8")))
    after, _ = through_file(Rounded((part,), (1, 2)))
    assert same(part.codes, after.parts[0].codes)


def test_all_fields():
    rng = np.random.default_rng(0)
    first = Part(
        rng.integers(0, 4, (3, 2)).astype(np.int64),
        rng.random((3, 1)).astype(np.float32),
        np.zeros((3, 1)),
        Format(Grid("uint2", symmetric=False), 4),
        table=rng.random((3, 4)),
        columns=np.array([1, 4]),
        offset=rng.random((3, 1)),
        mask=rng.random((3, 2)) < 0.5,
    )
    second = Part(rng.random((3, 5)), np.ones((1, 1)), np.zeros((1, 1)), Format(Grid("int8"), -1))
    extras = {"rows": rng.random(3), "columns": rng.random(5).astype(np.float16)}
    low_rank = {"left": rng.random((3, 1)), "right": rng.random((1, 5))}
    rounded = Rounded((first, second), (3, 5), **extras, **low_rank, method="a+b", notes=("n", "m"))
    check(rounded, through_file(rounded)[0])


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, ml_dtypes.float8_e5m2, np.float16, np.int64])
def test_arrays_of_any_type_are_storable(dtype):
    array = np.array([[1, -2], [0, 3]]).astype(dtype).T
    file = io.BytesIO()
    np.save(file, storable(array), allow_pickle=False)
    file.seek(0)
    assert same(array, restored(np.load(file), array.dtype.name))
