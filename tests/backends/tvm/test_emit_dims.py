"""Extents: what their spellings mean, and what is known of them."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from passel.backends.tvm.emit.bounds import clamped
from passel.backends.tvm.emit.dims import Dims, Unknown
from passel.graph import Value

NAMES = {"s0": 5, "s1": 3}
FLOAT = np.dtype(np.float32)


def dims_of(*shapes):
    return Dims([Value(f"x{k}", shape, FLOAT) for k, shape in enumerate(shapes)])


def number(dims, extent, **sizes):
    """An extent with these sizes for the variables."""
    import tvm
    import tvm_ffi
    from tvm import tirx

    if isinstance(extent, int):
        return extent
    return int(
        dims.simple(
            tvm_ffi.structural_map(
                extent, (tvm.ir.Var, lambda v: tirx.const(sizes[v.name], "int64")), order="post"
            )
        )
    )


@st.composite
def spellings(draw, depth=3):
    if depth == 0 or draw(st.booleans()):
        return draw(st.sampled_from(["s0", "s1", "1", "2", "7"]))
    left, right = draw(spellings(depth=depth - 1)), draw(spellings(depth=depth - 1))
    form = draw(st.sampled_from(["({} + {})", "({}*{})", "(({})//({}))", "Max({}, {})"]))
    return form.format(left, right)


@given(spellings(), st.integers(1, 9), st.integers(1, 9))
def test_a_spelling_means_what_python_means(text, s0, s1):
    dims = dims_of(("s0", "s1"))
    try:
        expected = eval(text, {"s0": s0, "s1": s1, "Max": max})
        for size in range(1, 4):  # a divisor that is 0 for some sizes means nothing
            eval(text, {"s0": size, "s1": 4 - size, "Max": max})
    except ZeroDivisionError:
        assume(False)
    assert number(dims, dims(text), s0=s0, s1=s1) == expected


def test_other_spellings():
    dims = dims_of(("s0", "s1", 4))
    for text, expected in {"s0**2": 25, "Mod(s0, s1)": 2, "Min(s0, 4)": 4, "-s0 + 9": 4}.items():
        assert number(dims, dims(text), **NAMES) == expected


@pytest.mark.parametrize("text", ["unk__3", "s2", "s0 + s2", "?1", "s0.x", "f(s0)", "s0 +", "a b"])
def test_what_does_not_follow_from_the_inputs(text):
    with pytest.raises(Unknown, match=r"."):
        dims_of(("s0", "s1"))(text)


def test_an_input_may_be_derived_from_another():
    dims = dims_of(("2*s0 + 1",), ("s0",))
    assert [v.name for v in dims.variables] == ["s0"]
    assert number(dims, dims("2*s0 + 1"), s0=4) == 9


def test_an_extent_is_solved_for_its_name():
    dims = dims_of(("2*s0 + 1",))
    (variable,) = dims.variables
    assert number(dims, dims("s0"), **{variable.name: 9}) == 4
    assert number(dims, dims("s0*3"), **{variable.name: 9}) == 12


def test_names_that_are_no_expressions():
    dims = dims_of(("batch size", "s0"))
    assert len(dims.variables) == 2
    assert dims("batch size") is dims("batch size")


def test_what_is_known():
    dims = dims_of(("s0", "s1"))
    s0, s1 = dims("s0"), dims("s1")
    assert dims.equal(s0 * s1, s1 * s0) is True
    assert dims.equal(s0 + 1, s0) is False
    assert dims.equal(s0, s1) is None
    assert dims.equal(s0, -1) is False
    assert dims.at_least(s0, 1) is True
    assert dims.at_least(-1, s0) is False
    assert dims.at_least(s0, 2) is None
    assert dims.simple((s0 * s1 * 384) // (s0 * s1 * 64)) == 6


@given(
    st.integers(-12, 12) | st.none(),
    st.integers(-12, 12) | st.none() | st.just(2**63 - 1),
    st.sampled_from([1, 2, 3, -1, -2]),
    st.integers(1, 9),
)
def test_slices_are_those_of_python(start, end, step, extent):
    expected = range(extent)[slice(start, end, step)]
    dims = dims_of(("s0",))
    if step < 0 and end is not None and end <= -1 and end + extent < 0:
        end = -(2**40)  # before the first element, however many there are
    for bounds in (
        clamped(dims, start, end, step, extent),
        clamped(dims, start, end, step, dims("s0")),
    ):
        first, by, count = (number(dims, bound, s0=extent) for bound in bounds)
        assert [first + by * k for k in range(count)] == list(expected)
