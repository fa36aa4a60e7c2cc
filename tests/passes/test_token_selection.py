"""Parts of values: positions, boxes, and what is merged into one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from passel.graph import Graph, Value
from passel.graph.ops import TopK
from passel.graph.shapes import reshape_groups
from passel.passes.tokens.regroup import regrouped
from passel.passes.tokens.selection import (
    KEPT_SHARE,
    UNKNOWN_EXTENT,
    WHOLE,
    Choice,
    Chosen,
    Positions,
    _hull,
    count,
    covers,
    merged,
    normal,
    same,
    shape_of,
    volume,
)

SHAPE = (3, 12, 8)
some_positions = st.sets(st.integers(0, 11), min_size=1).map(Positions.of)
ends = st.sets(st.integers(-4, 11), min_size=1)


def selections(extent):
    return st.sets(st.integers(0, extent - 1), min_size=1).map(Positions.of)


boxes = st.fixed_dictionaries({}, optional={k: selections(n) for k, n in enumerate(SHAPE)})


def elements(box, shape=SHAPE):
    """Where a box is, as a mask of the whole value."""
    found = np.ones(shape, bool)
    for axis, selection in box.items():
        along = np.zeros(shape[axis], bool)
        along[list(selection.index)] = True
        found &= along.reshape([-1 if k == axis else 1 for k in range(len(shape))])
    return found


@given(ends)
def test_positions_keep_every_number_once(numbers):
    found = Positions.of(numbers)
    assert set(found.index) == numbers
    assert len(found) == len(numbers)
    assert Positions.of([*found.index, *found.index]) == found


@given(st.integers(-5, 9), st.integers(1, 6))
def test_a_range_is_a_range(start, length):
    numbers = range(start, start + length)
    found = Positions.of(numbers)
    split = start < 0 < start + length  # −2, −1, 0, 1: from the end, then from the front
    assert isinstance(found.index, range) != split


@given(some_positions, st.data())
def test_places(held, data):
    part = Positions.of(data.draw(st.sets(st.sampled_from(list(held.index)), min_size=1)))
    assert held.covers(part)
    values = np.arange(100, 112)
    whole = values[list(held.index)]
    assert np.array_equal(whole[held.places(part)], values[list(part.index)])


@given(st.sets(st.integers(-4, 6), min_size=1), st.data())
def test_places_from_the_end(numbers, data):
    held = Positions.of(numbers)
    part = Positions.of(data.draw(st.sets(st.sampled_from(sorted(numbers)), min_size=1)))
    order = list(held.index)
    assert [order[place] for place in held.places(part)] == list(part.index)


@given(some_positions, some_positions)
def test_covering(left, right):
    assert left.covers(right) == (set(right.index) <= set(left.index))


@given(boxes, boxes)
def test_a_box_covers_its_parts(whole, part):
    if covers(whole, part):
        assert not (elements(part) & ~elements(whole)).any()


@given(boxes)
def test_the_whole_covers_everything(box):
    assert covers(WHOLE, box)
    assert covers(box, box)
    assert same(box, dict(box))


@given(boxes, boxes)
def test_the_hull_covers_both(left, right):
    hull = _hull(left, right)
    assert covers(hull, left)
    assert covers(hull, right)
    assert not (elements(left) & ~elements(hull)).any()


@given(boxes)
def test_volume_counts_elements(box):
    assert volume(box, SHAPE) == elements(box).sum()
    assert np.prod(shape_of(SHAPE, box)) == volume(box, SHAPE)


@given(boxes)
def test_normal_keeps_all_and_drops_what_is_nearly_all(box):
    found = normal(box, SHAPE)
    assert covers(found, box)
    assert all(len(s) <= KEPT_SHARE * SHAPE[axis] for axis, s in found.items())


@given(st.lists(boxes, max_size=5))
def test_merged_covers_each_at_no_more_cost(asked):
    found = merged(asked, SHAPE)
    assert all(any(covers(whole, box) for whole in found) for box in asked)
    largest = sum(max(volume(box, SHAPE), volume(normal(box, SHAPE), SHAPE)) for box in asked)
    assert sum(volume(box, SHAPE) for box in found) <= largest / KEPT_SHARE
    assert len(found) <= len(asked)
    assert not any(covers(a, b) for k, a in enumerate(found) for m, b in enumerate(found) if k != m)


@given(st.lists(boxes, max_size=4))
def test_merged_has_settled(asked):
    found = merged(asked, SHAPE)
    again = merged(found, SHAPE)
    assert len(again) == len(found)
    assert all(any(same(a, b) for b in again) for a in found)


def test_merging_joins_neighbours_and_keeps_strangers():
    row = {1: Positions.of([0])}
    assert merged([row, {1: Positions.of([1])}], SHAPE) == [{1: Positions.of([0, 1])}]
    assert merged([row, row], SHAPE) == [row]
    assert merged([row, WHOLE], SHAPE) == [WHOLE]
    column = {2: Positions.of([3])}
    assert merged([row, column], SHAPE) == [row, column]


def choice(extent=12, kept=4, batch=0):
    scores = Value("scores", (3, extent), np.dtype(np.float32))
    top = TopK(inputs=[scores], axis=1, k=kept)
    int64 = np.dtype(np.int64)
    Graph(binding=None).add(top, ((3, kept), scores.dtype), ((3, kept), int64))
    return Choice(top, top.outputs[1], batch, 1, extent, kept)


def test_choices():
    one, other = choice(), choice()
    a, b = {1: Chosen(one, 0)}, {1: Chosen(other, 0)}
    assert shape_of(SHAPE, a) == (3, 4, 8)
    assert volume(a, SHAPE) == 3 * 4 * 8
    assert covers(a, a)
    assert not covers(a, b)
    assert same(_hull(a, b), WHOLE)
    assert same(_hull(a, {1: Positions.of([0])}), WHOLE)
    assert merged([a, a], SHAPE) == [a]
    assert covers(WHOLE, a)
    assert one.tops == [one.top]


def test_a_choice_of_nearly_all_stays():
    """What is kept at run time is never taken for the whole."""
    box = {1: Chosen(choice(kept=11), 0)}
    assert normal(box, SHAPE) == box


def test_a_symbolic_count():
    chosen = Chosen(choice(extent="n", kept="k"), 0)
    assert count(chosen) == "k"
    assert len(chosen) < UNKNOWN_EXTENT
    assert shape_of((3, "n", 8), {1: chosen}) == (3, "k", 8)


# -- through a reshape ----------------------------------------------------------------------------

RESHAPES = [
    ((6, 4), (24,)),
    ((24,), (6, 4)),
    ((2, 3, 4), (6, 4)),
    ((6, 4), (2, 3, 4)),
    ((4, 6), (3, 8)),
    ((2, 12), (2, 3, 4)),
    ((2, 1, 6), (2, 6, 1)),
]


@pytest.mark.parametrize(("before", "after"), RESHAPES)
@given(data=st.data())
def test_what_a_reshape_reads(before, after, data):
    """The elements that a part of the result holds are those of the part of the operand."""
    axes = st.sampled_from(range(len(after)))
    axis = data.draw(axes)
    selection = data.draw(selections(after[axis]))
    numbers = np.arange(np.prod(before))
    wanted = numbers.reshape(after)[elements({axis: selection}, after)]
    for group in reshape_groups(before, after):
        if axis not in group.after:
            continue
        moved = regrouped(group, {axis: selection}, before, after)
        if moved is None:
            return
        read = numbers.reshape(before)[elements(moved, before)]
        assert np.array_equal(read, wanted)
