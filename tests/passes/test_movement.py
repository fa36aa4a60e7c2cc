"""onto_result and onto_operand against numpy: moving an array equals moving what it stands for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from passel.graph import Constant, Value
from passel.graph.ops import (
    Cast,
    Concat,
    Expand,
    Gather,
    Identity,
    Reduce,
    Reshape,
    Slice,
    Softmax,
    Split,
    Squeeze,
    Transpose,
    Unbind,
    Unsqueeze,
)
from passel.passes.movement import concat_piece, concat_spread, onto_operand, onto_result

F64 = np.dtype(np.float64)


def value(shape, dtype=F64):
    return Value("v", tuple(shape), np.dtype(dtype))


def constant(array):
    payload = Constant.of(np.asarray(array))
    return Value("c", payload.shape, payload.dtype, constant=payload)


def moving(op, shape, results, *more):
    """`op` on an operand of this shape, with results of those shapes."""
    op.inputs = [value(shape), *more]
    op.outputs = [value(result) for result in results]
    return op


@st.composite
def shapes(draw, low=1, high=4):
    return tuple(draw(st.lists(st.integers(1, 4), min_size=low, max_size=high)))


@st.composite
def factored(draw):
    """Two shapes of the same elements, made by joining factors in two ways."""
    factors = draw(st.lists(st.sampled_from([1, 2, 3]), min_size=1, max_size=5))
    return tuple(tuple(int(np.prod(part)) for part in _cut(draw, factors)) for _ in range(2))


def _cut(draw, factors):
    parts, current = [], []
    for factor in factors:
        current.append(factor)
        if draw(st.booleans()):
            parts.append(current)
            current = []
    return [*parts, current] if current or not parts else parts


@st.composite
def moves(draw):
    """An op, the shape of its operand, and what numpy does for each of its results."""
    kind = draw(st.sampled_from(sorted(MAKERS)))
    return MAKERS[kind](draw)


def _transpose(draw):
    shape = draw(shapes())
    perm = tuple(draw(st.permutations(range(len(shape)))))
    return Transpose(perm=perm), shape, [lambda x: x.transpose(perm)]


def _reshape(draw):
    before, after = draw(factored())
    return Reshape(dims=after), before, [lambda x: x.reshape(after)]


def _squeeze(draw):
    shape = draw(shapes())
    axes = tuple(axis for axis, extent in enumerate(shape) if extent == 1 and draw(st.booleans()))
    return Squeeze(axes=axes), shape, [lambda x: x.squeeze(axes)]


def _unsqueeze(draw):
    shape = draw(shapes(high=3))
    axes = tuple(sorted(draw(st.sets(st.integers(0, len(shape)), min_size=1, max_size=1))))
    return Unsqueeze(axes=axes), shape, [lambda x: np.expand_dims(x, axes)]


def _expand(draw):
    shape = draw(shapes(high=3))
    wide = tuple(3 if extent == 1 and draw(st.booleans()) else extent for extent in shape)
    target = (*draw(shapes(low=0, high=1)), *wide)
    return Expand(dims=target), shape, [lambda x: np.broadcast_to(x, target)]


def _slice(draw):
    shape = draw(shapes())
    axis = draw(st.integers(0, len(shape) - 1))
    start, end = (draw(st.integers(-5, 5)) for _ in range(2))
    step = draw(st.sampled_from([1, 2, -1]))
    window = tuple(slice(start, end, step) if k == axis else slice(None) for k in range(len(shape)))
    op = Slice(axes=(axis,), starts=(start,), ends=(end,), steps=(step,))
    return op, shape, [lambda x: x[window]]


def _split(draw):
    shape = draw(shapes())
    axis = draw(st.integers(0, len(shape) - 1))
    cuts = sorted(draw(st.sets(st.integers(1, shape[axis]), max_size=2)) | {shape[axis]})
    starts = [0, *cuts[:-1]]
    sizes = tuple(end - start for start, end in zip(starts, cuts, strict=True))
    pieces = [
        lambda x, a=start, b=end: x.take(range(a, b), axis=axis)
        for start, end in zip(starts, cuts, strict=True)
    ]
    return Split(axis=axis, sizes=sizes), shape, pieces


def _unbind(draw):
    shape = draw(shapes())
    axis = draw(st.integers(0, len(shape) - 1))
    entries = [lambda x, k=k: x.take(k, axis=axis) for k in range(shape[axis])]
    return Unbind(axis=axis), shape, entries


def _gather(draw):
    shape = draw(shapes())
    axis = draw(st.integers(0, len(shape) - 1))
    positions = st.integers(-shape[axis], shape[axis] - 1)
    rank = draw(st.integers(0, 2))
    indices = np.array(draw(st.lists(positions, min_size=4, max_size=4)), np.int64)
    indices = (indices[0], indices[:3], indices.reshape(2, 2))[rank]
    op = Gather(axis=axis)
    op.inputs = [None, constant(indices)]
    return op, shape, [lambda x: x.take(indices, axis=axis)]


def _mean(draw):
    shape = draw(shapes())
    axes = tuple(sorted(draw(st.sets(st.integers(0, len(shape) - 1), min_size=1))))
    keepdims = draw(st.booleans())
    op = Reduce(fn="mean", axes=axes, keepdims=keepdims)
    return op, shape, [lambda x: x.mean(axis=axes, keepdims=keepdims)]


def _same(draw):
    kind = draw(st.sampled_from([Identity, lambda: Cast(dtype=F64)]))
    return kind(), draw(shapes()), [lambda x: x]


MAKERS = {
    "transpose": _transpose,
    "reshape": _reshape,
    "squeeze": _squeeze,
    "unsqueeze": _unsqueeze,
    "expand": _expand,
    "slice": _slice,
    "split": _split,
    "unbind": _unbind,
    "gather": _gather,
    "mean": _mean,
    "same": _same,
}


def _array(draw, shape):
    """Numbers that broadcast to a shape, and vary along some of its axes."""
    extents = tuple(extent if draw(st.booleans()) else 1 for extent in shape)
    size = int(np.prod(extents, dtype=int))
    return np.arange(1.0, size + 1).reshape(extents)


@given(moves(), st.data())
def test_onto_result_moves_what_the_array_stands_for(move, data):
    op, shape, functions = move
    full = np.zeros(shape)
    moving(op, shape, [function(full).shape for function in functions], *op.inputs[1:])
    array = _array(data.draw, shape)
    for result, function in enumerate(functions):
        for neutral in (1.0, 0.0):
            moved = onto_result(op, array, neutral, result)
            expected = function(np.broadcast_to(array, shape))
            if moved is None:
                assert isinstance(op, Reduce)
                continue
            assert moved.ndim == expected.ndim
            np.testing.assert_allclose(np.broadcast_to(moved, expected.shape), expected)


@given(moves(), st.data())
def test_onto_operand_asks_for_no_more_and_no_less(move, data):
    """Scaling (or shifting) the operand by what came back does the same to the result."""
    op, shape, functions = move
    x = np.random.default_rng(0).normal(size=shape)
    moving(op, shape, [function(x).shape for function in functions], *op.inputs[1:])
    result = data.draw(st.integers(0, len(functions) - 1))
    array = _array(data.draw, functions[result](x).shape)
    for neutral, combine in ((1.0, np.multiply), (0.0, np.add)):
        moved = onto_operand(op, array, neutral, result)
        if moved is None:
            continue
        changed = combine(x, moved)
        assert changed.shape == x.shape
        for k, function in enumerate(functions):
            expected = combine(function(x), array) if k == result else function(x)
            np.testing.assert_allclose(function(changed), expected)


REFUSED_FORWARD = {
    "integers": moving(Cast(dtype=np.dtype(np.int64)), (4,), [(4,)]),
    "another op": moving(Softmax(axis=0), (4,), [(4,)]),
    "computed bounds": moving(Slice(axes=(0,)), (4,), [("n",)]),
    "computed indices": moving(Gather(axis=0), (4,), [(2,)], value((2,), np.int64)),
    "maximum": moving(Reduce(fn="max", axes=(0,)), (4,), [(1,)]),
    "mean of the axis": moving(Reduce(fn="mean", axes=(0,)), (4,), [(1,)]),
    "unknown shape": moving(Reshape(), (4,), [(4,)]),
    "symbolic extent": moving(Reshape(), (4, "n"), [("m",)]),
}
REFUSED_FORWARD["integers"].outputs = [value((4,), np.int64)]
REFUSED_FORWARD["unknown shape"].outputs = [Value("v", None, F64)]


@pytest.mark.parametrize("case", REFUSED_FORWARD)
def test_onto_result_gives_up(case):
    op = REFUSED_FORWARD[case]
    shape = op.inputs[0].shape
    array = np.arange(4.0).reshape(tuple(n if isinstance(n, int) else 1 for n in shape))
    assert onto_result(op, array, 1.0, 0) is None


REFUSED_BACKWARD = {
    "from integers": moving(Cast(dtype=F64), (4,), [(4,)]),
    "another op": moving(Softmax(axis=0), (4,), [(4,)]),
    "computed bounds": moving(Slice(axes=(0,)), (5,), [(4,)]),
    "symbolic operand": moving(
        Slice(axes=(0,), starts=(0,), ends=(4,), steps=(1,)), ("n",), [(4,)]
    ),
    "repeated": moving(Expand(dims=(4,)), (1,), [(4,)]),
    "new axis": moving(Expand(dims=(4, 1)), (1,), [(4, 1)]),
    "several entries": moving(Gather(axis=0), (9,), [(4,)], constant([1, 2, 3, 4])),
    "maximum": moving(Reduce(fn="max", axes=(1,), keepdims=False), (4, 2), [(4,)]),
}
REFUSED_BACKWARD["from integers"].inputs = [value((4,), np.int64)]


@pytest.mark.parametrize("case", REFUSED_BACKWARD)
def test_onto_operand_gives_up(case):
    op = REFUSED_BACKWARD[case]
    array = np.arange(4.0).reshape(op.outputs[0].shape)
    assert onto_operand(op, array, 1.0, 0) is None


def test_a_sum_takes_a_scale_and_no_shift():
    op = moving(Reduce(fn="sum", axes=(0,), keepdims=False), (3, 4), [(4,)])
    row = np.arange(1.0, 5.0)
    assert onto_result(op, row[None], 0.0, 0) is None
    np.testing.assert_array_equal(onto_result(op, row[None], 1.0, 0), row)
    assert onto_operand(op, row, 0.0, 0) is None
    np.testing.assert_array_equal(onto_operand(op, row, 1.0, 0), row[None])


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.data())
def test_concatenation(widths, data):
    op = Concat(axis=1)
    op.inputs = [value((2, width)) for width in widths]
    op.outputs = [value((2, sum(widths)))]
    index = data.draw(st.integers(0, len(widths) - 1))
    start = sum(widths[:index])
    whole = np.arange(1.0, 2 * sum(widths) + 1).reshape(2, -1)
    piece = concat_piece(op, whole, 1.0, index)
    np.testing.assert_array_equal(piece, whole[:, start : start + widths[index]])
    assert concat_piece(op, whole[:, :1], 1.0, index).shape == (2, 1)
    spread = concat_spread(op, piece, 7.0, index)
    expected = np.full_like(whole, 7.0)
    expected[:, start : start + widths[index]] = piece
    np.testing.assert_array_equal(np.broadcast_to(spread, whole.shape), expected)


def test_a_symbolic_concatenation_gives_up():
    op = Concat(axis=0)
    op.inputs, op.outputs = [value(("n",)), value((3,))], [value(("m",))]
    assert concat_piece(op, np.arange(4.0), 1.0, 1) is None
    assert concat_spread(op, np.arange(1.0, 4.0), 0.0, 1) is None
