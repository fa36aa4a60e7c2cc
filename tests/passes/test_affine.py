"""Properties of `Diagonal`, and what `as_affine` reads."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from passel.graph import Value
from passel.graph.ops import Affine, BatchNorm, Elementwise
from passel.passes.affine import Diagonal, as_affine

NUMBERS = st.floats(-4, 4, allow_subnormal=False)


@st.composite
def diagonals(draw, shape=(3, 4, 5)):
    """A map on values of this shape, that varies along any of its axes."""
    parts = []
    for _ in range(2):
        extents = tuple(n if draw(st.booleans()) else 1 for n in shape)
        parts.append(draw(arrays(np.float64, extents, elements=NUMBERS)))
    return Diagonal(*parts)


def applied(diagonal, x):
    return diagonal.scale * x + diagonal.shift


@given(diagonals(), diagonals(), arrays(np.float64, (3, 4, 5), elements=NUMBERS))
def test_then_is_composition(inner, outer, x):
    np.testing.assert_allclose(
        applied(inner.then(outer), x), applied(outer, applied(inner, x)), atol=1e-12
    )


@given(diagonals(), arrays(np.float64, (3, 4, 5), elements=NUMBERS))
def test_without_shift_and_cost(diagonal, x):
    np.testing.assert_array_equal(applied(diagonal.without_shift(), x), diagonal.scale * x)
    assert diagonal.without_shift().rank == diagonal.rank
    assert diagonal.cost == diagonal.scales + diagonal.shifts
    if diagonal.cost == 0:
        np.testing.assert_array_equal(applied(diagonal, x), x)


@given(diagonals())
def test_axes_are_those_along_which_it_varies(diagonal):
    wide = np.broadcast_shapes(diagonal.scale.shape, diagonal.shift.shape)
    assert diagonal.axes == tuple(axis for axis, extent in enumerate(wide) if extent > 1)


@given(diagonals())
def test_map_moves_both_and_gives_up_when_one_cannot_pass(diagonal):
    moved = diagonal.map(lambda array, neutral: array.transpose(2, 0, 1))
    assert moved is not None
    assert moved.axes == tuple(sorted((axis + 1) % 3 for axis in diagonal.axes))
    assert diagonal.map(lambda array, neutral: None if neutral == 0.0 else array) is None


@given(diagonals(shape=(1, 4, 1)))
def test_vectors_spell_out_the_one_axis(diagonal):
    scale, shift = diagonal.vectors(1, 4)
    x = np.arange(24.0).reshape(2, 4, 3)
    expected = scale[None, :, None] * x + shift[None, :, None]
    np.testing.assert_array_equal(applied(diagonal, x), expected)


@given(diagonals(shape=(3, 1, 5)), st.integers(0, 4))
def test_drop_leading(diagonal, rank):
    found = diagonal.drop_leading(rank)
    fits = rank <= 3 and all(axis >= 3 - rank for axis in diagonal.axes)
    assert (found is not None) == fits
    if found is not None and rank == 2:
        x = np.arange(10.0).reshape(2, 5)
        np.testing.assert_array_equal(applied(found, x), applied(diagonal, x)[0])


def value(shape=(2, 4, 3), dtype=np.float32, constant=None):
    from passel.graph import Constant

    payload = None if constant is None else Constant.of(np.asarray(constant, dtype))
    return Value(
        "v", shape if payload is None else payload.shape, np.dtype(dtype), constant=payload
    )


def affine_op(op, *inputs, shape=(2, 4, 3), dtype=np.float32):
    op.inputs = list(inputs)
    op.outputs = [value(shape, dtype)]
    return op


ROW = [1.0, 2.0, 4.0]
READ = {
    "mul": (lambda: affine_op(Elementwise(fn="mul"), value(), value(constant=ROW)), ROW, [0.0]),
    "mul left": (lambda: affine_op(Elementwise(fn="mul"), value(constant=ROW), value()), ROW, [0]),
    "div": (
        lambda: affine_op(Elementwise(fn="div"), value(), value(constant=ROW)),
        [1.0, 0.5, 0.25],
        [0.0],
    ),
    "add": (lambda: affine_op(Elementwise(fn="add"), value(), value(constant=ROW)), [1.0], ROW),
    "sub": (
        lambda: affine_op(Elementwise(fn="sub"), value(), value(constant=ROW)),
        [1.0],
        [-1.0, -2.0, -4.0],
    ),
    "sub left": (
        lambda: affine_op(Elementwise(fn="sub"), value(constant=ROW), value()),
        [-1.0],
        ROW,
    ),
    "neg": (lambda: affine_op(Elementwise(fn="neg"), value()), [-1.0], [0.0]),
    "affine": (
        lambda: affine_op(Affine(), value(), value(constant=ROW), value(constant=[3.0])),
        ROW,
        [3.0],
    ),
}


@pytest.mark.parametrize("case", READ)
def test_reads(case):
    make, scale, shift = READ[case]
    found = as_affine(make())
    assert found is not None
    np.testing.assert_array_equal(found[1].scale.ravel(), scale)
    np.testing.assert_array_equal(found[1].shift.ravel(), shift)


def test_reads_a_batch_norm_along_axis_one():
    parts = [value(constant=np.arange(4.0) + k) for k in (1, 2, 3, 4)]
    op = affine_op(BatchNorm(eps=0.5), value(), *parts)
    found = as_affine(op)
    assert found is not None
    scale, shift, mean, variance = (part.array().astype(np.float64) for part in parts)
    gain = scale / np.sqrt(variance + 0.5)
    np.testing.assert_allclose(found[1].scale, gain.reshape(1, 4, 1))
    np.testing.assert_allclose(found[1].shift, (shift - mean * gain).reshape(1, 4, 1))


NOT_READ = {
    "a table": lambda: affine_op(Elementwise(fn="add"), value(), value(constant=np.ones((4, 3)))),
    "a quotient of a constant": lambda: affine_op(
        Elementwise(fn="div"), value(constant=ROW), value()
    ),
    "a division by zero": lambda: affine_op(
        Elementwise(fn="div"), value(), value(constant=[1.0, 0.0, 2.0])
    ),
    "an infinity": lambda: affine_op(
        Elementwise(fn="mul"), value(), value(constant=[1.0, np.inf, 2.0])
    ),
    "a broadcast": lambda: affine_op(Elementwise(fn="mul"), value((2, 4, 1)), value(constant=ROW)),
    "a promotion": lambda: affine_op(
        Elementwise(fn="mul"), value(dtype=np.float16), value(constant=ROW)
    ),
    "integers": lambda: affine_op(
        Elementwise(fn="mul"),
        value(dtype=np.int64),
        value(dtype=np.int64, constant=[1, 2, 3]),
        dtype=np.int64,
    ),
    "two operands": lambda: affine_op(Elementwise(fn="mul"), value(), value()),
    "another function": lambda: affine_op(Elementwise(fn="pow"), value(), value(constant=[2.0])),
    "scale and shift along different axes": lambda: affine_op(
        Affine(), value(), value(constant=ROW), value(constant=np.ones((4, 1)))
    ),
    "an unknown shape": lambda: affine_op(
        Elementwise(fn="mul"), value(None), value(constant=ROW), shape=None
    ),
    "constants alone": lambda: affine_op(
        Elementwise(fn="mul"), value(constant=ROW), value(constant=ROW), shape=(3,)
    ),
}


@pytest.mark.parametrize("case", NOT_READ)
def test_does_not_read(case):
    assert as_affine(NOT_READ[case]()) is None
