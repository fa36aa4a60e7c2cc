"""Shape arithmetic against numpy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from passel.graph.shapes import AxisGroup, broadcast, normal_axis, reshape_groups

EXTENTS = st.lists(st.integers(1, 4), max_size=4)


@st.composite
def compatible(draw):
    """Shapes that broadcast together."""
    full = draw(EXTENTS)
    found = []
    for _ in range(draw(st.integers(1, 3))):
        kept = full[draw(st.integers(0, len(full))) :]
        found.append(tuple(1 if draw(st.booleans()) else extent for extent in kept))
    return found


@given(compatible())
def test_broadcast_is_numpys(shapes):
    assert broadcast(*shapes) == np.broadcast_shapes(*shapes)


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        ([("n", 1), (1, 8)], ("n", 8)),
        ([("n", 8), (8,)], ("n", 8)),
        ([("n", 1), (5, 1)], (5, 1)),
        ([(1,), ("m",)], ("m",)),
        ([(), ("n",)], ("n",)),
    ],
)
def test_broadcast_of_symbols(shapes, expected):
    assert broadcast(*shapes) == expected


def test_normal_axis():
    assert [normal_axis(axis, 3) for axis in (-3, -1, 0, 2)] == [0, 2, 0, 2]


@st.composite
def reshapes(draw):
    """Two shapes of the same elements, symbolic extents among them."""
    atoms = draw(st.lists(st.sampled_from([1, 2, 3, 5, "n", "m"]), max_size=6))
    return _cut(draw, atoms), _cut(draw, atoms)


def _cut(draw, atoms):
    """Join neighbours; a symbol is joined to nothing."""
    parts = []
    for atom in atoms:
        joins = parts and isinstance(parts[-1], int) and isinstance(atom, int)
        if joins and draw(st.booleans()):
            parts[-1] *= atom
        else:
            parts.append(atom)
    return tuple(parts)


SIZES = {"n": 7, "m": 11}


def size(dims):
    return int(np.prod([SIZES.get(dim, dim) for dim in dims], dtype=int))


@given(reshapes())
def test_groups_partition_both_shapes_and_hold_the_same_elements(pair):
    before, after = pair
    groups = reshape_groups(before, after)
    assert [axis for group in groups for axis in group.before] == list(range(len(before)))
    assert [axis for group in groups for axis in group.after] == list(range(len(after)))
    for group in groups:
        assert size([before[k] for k in group.before]) == size([after[k] for k in group.after])


@given(reshapes())
def test_groups_of_numbers_are_independent_reshapes(pair):
    """Reshaping each group by itself is the whole reshape."""
    before, after = (tuple(SIZES.get(dim, dim) for dim in shape) for shape in pair)
    x = np.arange(size(before)).reshape(before)
    parts = []
    for group in reshape_groups(before, after):
        indices = np.arange(size([before[k] for k in group.before]))
        parts.append((indices, [before[k] for k in group.before], [after[k] for k in group.after]))
    flat = x.reshape([len(indices) for indices, _, _ in parts])
    for axis, (indices, _, target) in enumerate(parts):
        assert np.array_equal(flat.take(indices.reshape(target).ravel(), axis=axis), flat)
    assert np.array_equal(flat.reshape(after), x.reshape(after))


@pytest.mark.parametrize(
    ("before", "after", "groups"),
    [
        ((2, 6), (2, 2, 3), [((0,), (0,)), ((1,), (1, 2))]),
        (("n", 5, 8), ("n", 5, 2, 4), [((0,), (0,)), ((1,), (1,)), ((2,), (2, 3))]),
        (("n", 5, 8), ("n*5", 8), [((0, 1), (0,)), ((2,), (1,))]),
        ((4, 1, 3), (4, 3), [((0,), (0,)), ((1,), ()), ((2,), (1,))]),
        ((6,), (1, 6, 1), [((), (0,)), ((0,), (1,)), ((), (2,))]),
        (("n", "m"), ("m", "n"), [((0, 1), (0, 1))]),
        ((2, 3), (3, 2), [((0, 1), (0, 1))]),
        ((), (), []),
        ((1,), (), [((0,), ())]),
    ],
)
def test_groups(before, after, groups):
    assert reshape_groups(before, after) == [AxisGroup(*pair) for pair in groups]
