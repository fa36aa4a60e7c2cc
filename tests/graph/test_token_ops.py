"""Ops that choose positions at run time: lifted from torch, copied, written anew, made by passes.

Each on both views; ONNX also on ONNX Runtime, whose kernels are what runs in the end.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from passel.graph import Graph, ops
from passel.graph.onnx_lower import Declared
from passel.graph.value import Op, Value
from tests.conftest import View

RNG = np.random.default_rng(0)
X = torch.from_numpy(RNG.permutation(3 * 6 * 4).reshape(3, 6, 4).astype(np.float32))
SCORES = torch.from_numpy(RNG.permutation(18).reshape(3, 6).astype(np.float32))
CHOSEN = torch.tensor([[5, 0], [2, 4], [1, 2]])
NEGATIVE = torch.tensor([[-1, 0], [2, -6], [1, 2]])
INT32 = torch.tensor([3, 1], dtype=torch.int32)
INT64 = np.dtype(np.int64)


class Call(nn.Module):
    """A function of some inputs as a module."""

    def __init__(self, rule: Callable[..., Any], count: int) -> None:
        super().__init__()
        self.rule = rule
        self.forward = getattr(self, f"forward{count}")

    def forward1(self, x: Tensor) -> Any:
        return self.rule(x)

    def forward2(self, x: Tensor, chosen: Tensor) -> Any:
        return self.rule(x, chosen)

    def forward3(self, x: Tensor, chosen: Tensor, updates: Tensor) -> Any:
        return self.rule(x, chosen, updates)


def rows(x: Tensor, chosen: Tensor) -> Tensor:
    return x[torch.arange(x.shape[0], device=x.device).unsqueeze(1), chosen]


LIFTED: dict[str, tuple[Callable[..., Any], Sequence[Tensor], type[Op] | None]] = {
    "topk": (lambda x: x.topk(2, 1), [X], ops.TopK),
    "topk, only indices": (lambda x: x.topk(2, 1).indices, [X], ops.TopK),
    "topk, smallest": (lambda x: x.topk(3, 1, largest=False), [SCORES], ops.TopK),
    "sort": (lambda x: x.sort(1), [SCORES], ops.TopK),
    "sort, descending": (lambda x: x.sort(1, descending=True), [X], ops.TopK),
    "sort, stable": (lambda x: (x % 3).sort(dim=1, stable=True), [SCORES], None),
    "scatter, source": (
        lambda x, i: x.scatter(1, i, i.to(x.dtype)),
        [SCORES, CHOSEN],
        ops.Scatter,
    ),
    "scatter, number": (lambda x, i: x.scatter(1, i, 1.5), [SCORES, CHOSEN], ops.Scatter),
    "scatter, corner": (lambda x, i: x.scatter(1, i, x + 0.5), [SCORES, CHOSEN], None),
    "mask": (
        lambda x: torch.zeros_like(x).scatter(1, x.topk(2, 1).indices, 1.0),
        [SCORES],
        ops.Fill,
    ),
    "zeros_like": (lambda x: x + torch.zeros_like(x), [X], ops.Fill),
    "ones_like, bool": (lambda x: torch.ones_like(x, dtype=torch.bool), [X], ops.Fill),
    "full_like": (lambda x: torch.full_like(x, -torch.inf), [X], ops.Fill),
    "zeros": (lambda x: x[:, :2] + torch.zeros(x.shape[0], 2, 4), [X], ops.Fill),
    "ones": (lambda x: x[:, :2] + torch.ones(2, 1), [X], ops.Fill),
    "full": (lambda x: x.long() + torch.full((), 7), [X], ops.Fill),
    "largest integer": (lambda x: torch.full((x.shape[0],), 2**63 - 1), [X], ops.Fill),
    "new_zeros": (lambda x: x.new_zeros(2, x.shape[0]), [X], ops.Fill),
    "new_ones": (lambda x: x.new_ones(2, dtype=torch.int64), [X], ops.Fill),
    "new_full": (lambda x: x.new_full((x.shape[0], 2), 2.5), [X], ops.Fill),
    "index": (lambda x, i: x[i], [X, CHOSEN[:, 0] % 3], ops.Gather),
    "index, second axis": (lambda x, i: x[:, i], [X, CHOSEN], ops.Gather),
    "index, last axis": (lambda x, i: x[:, :, i], [X, CHOSEN % 4], ops.Gather),
    "index, int32": (lambda x, i: x[:, i], [X, INT32], ops.Gather),
    "index, int32, of a matrix": (lambda x, i: x[i % 3], [SCORES, INT32], ops.Gather),
    "index, negative": (lambda x, i: x[:, i], [X, NEGATIVE], ops.Gather),
    "index, negative, of a matrix": (lambda x, i: x[i % 3 - 3], [SCORES, CHOSEN], ops.Gather),
    "index, by top-k": (lambda x: x[:, x[0, :, 0].topk(2).indices], [X], ops.Gather),
    "rows": (rows, [X, CHOSEN], ops.Take),
    "rows of a matrix": (rows, [SCORES, CHOSEN], ops.Take),
    "rows, int32": (lambda x, i: rows(x, i.int()), [X, CHOSEN], None),
    "rows, backwards": (
        lambda x, i: x[torch.arange(x.shape[0] - 1, -1, -1).unsqueeze(1), i],
        [X, CHOSEN],
        None,
    ),
    "pairs": (lambda x, i: x[i % 3, i], [X, CHOSEN], None),
    "a mask": (lambda x, i: x[:, torch.tensor([True, False] * 3)], [X, CHOSEN], None),
}
"""What torch calls, on what, and the op that its torch view has for it; None for none."""
TOKENS = (ops.TopK, ops.Fill, ops.Scatter, ops.Gather, ops.Take)
BEYOND_ONNX = {
    *("sort, stable", "scatter, corner", "rows, int32"),
    *("index, int32", "index, int32, of a matrix"),
}
"""What torch.onnx refuses, or writes as a model that ONNX Runtime refuses."""


def forget_sources(graph: Graph) -> None:
    for op in graph.ops:
        if not isinstance(op, ops.Opaque) and not (isinstance(op, ops.Slice) and op.starts is None):
            op.source = None


def on_onnxruntime(graph: Graph, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    proto = ir.to_proto(graph.binding.lower(graph))
    options = ort.SessionOptions()
    options.log_severity_level = 3  # outputs keep the shapes that the test's stub declared
    session = ort.InferenceSession(proto.SerializeToString(), options)
    names = [value.name for value in graph.inputs]
    return session.run(None, dict(zip(names, arrays, strict=True)))


def results(graph: Graph, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """What the graph computes; where it is ONNX, ONNX Runtime has to say the same."""
    found = graph.run(arrays)
    if graph.binding.frontend == "onnx":
        for ours, theirs in zip(found, on_onnxruntime(graph, arrays), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    return found


def wanted(rule: Callable[..., Any], inputs: Sequence[Tensor]) -> list[np.ndarray]:
    expected = rule(*inputs)
    listed = [expected] if isinstance(expected, Tensor) else list(expected)
    return [tensor.numpy() for tensor in listed]


def check(graph: Graph, rule: Callable[..., Any], inputs: Sequence[Tensor]) -> None:
    """Copied and written anew, the graph computes what the function does."""
    expected, arrays = wanted(rule, inputs), [tensor.numpy() for tensor in inputs]
    for _ in range(2):
        for ours, theirs in zip(results(graph, arrays), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
            assert ours.dtype == theirs.dtype
        forget_sources(graph)


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("name", LIFTED)
def test_what_torch_calls(view: View, name: str, dynamic: bool) -> None:
    if view.name == "onnx" and name in BEYOND_ONNX:
        pytest.skip("torch.onnx refuses it, or ONNX Runtime what torch.onnx writes")
    rule, inputs, kind = LIFTED[name]
    batched = [dynamic and len(tensor) == 3 for tensor in inputs]
    shapes = tuple({0: Dim("batch", min=2)} if batch else None for batch in batched)
    how = {"dynamic_shapes": shapes} if any(batched) else {}
    graph, _ = view.lift(Call(rule, len(inputs)), inputs, **how)
    if view.name == "fx":
        found = [type(op) for op in graph.ops if isinstance(op, TOKENS)]
        assert kind in found if kind else not found
    twice = [torch.cat([x, x]) if b else x for x, b in zip(inputs, batched, strict=True)]
    check(graph, rule, twice if dynamic else inputs)


def made(
    view: View, inputs: Sequence[Tensor], axes: Sequence[int | None], make: Callable[..., Op]
) -> Graph:
    """A graph whose only result is of the op that `make` gives for its inputs.

    `axes` are those of the inputs whose extent stays unknown, the same for all.
    """
    shapes = tuple(None if axis is None else {axis: Dim("batch", min=2)} for axis in axes)
    dynamic = {} if set(axes) == {None} else {"dynamic_shapes": shapes}
    stub = Call(lambda x, *_: -x, len(inputs))
    graph, _ = view.lift(stub, inputs, **dynamic)
    op = make(graph, *graph.inputs)
    (old,) = graph.outputs
    graph.replace(old, op.output)
    if view.name == "onnx":
        kind = ir.TensorType(ir.DataType.from_numpy(op.output.dtype))
        graph.binding.outputs = [Declared(None, kind)]
    return graph


def chosen_rows(batch: int, count: int, axis: int) -> np.ndarray:
    return np.argsort(np.random.default_rng(axis).random((batch, count)), 1)[:, : count - 1]


def apart(array: np.ndarray, batch: int, axis: int) -> np.ndarray:
    """The array with these axes in front."""
    return np.moveaxis(array, (batch, axis), (0, 1))


PLACES = [(2, 1, 0), (2, 0, 1), (3, 1, 0), (3, 2, 0), (3, 0, 1), (3, 1, 2), (4, 2, 0), (4, 0, 3)]
"""Rank, axis, batch."""


@pytest.mark.parametrize("known", [True, False], ids=["static", "dynamic"])
@pytest.mark.parametrize(("rank", "axis", "batch"), PLACES)
def test_take_and_put(view: View, rank: int, axis: int, batch: int, known: bool) -> None:
    x = np.random.default_rng(0).standard_normal((3, 4, 2, 5)[:rank]).astype(np.float32)
    indices = chosen_rows(x.shape[batch], x.shape[axis], axis)
    taken = apart(x, batch, axis)[np.arange(len(indices))[:, None], indices]
    taken = np.moveaxis(taken, (0, 1), (batch, axis))
    replaced = x.copy()
    apart(replaced, batch, axis)[np.arange(len(indices))[:, None], indices] = apart(
        -2 * taken, batch, axis
    )
    tensors = [torch.from_numpy(array) for array in (x, indices, -2 * taken)]
    dims = [None] * 3 if known else [batch, 0, batch]

    def take(graph: Graph, x: Value, indices: Value, updates: Value) -> Op:
        op = ops.Take(inputs=[x, indices], axis=axis, batch=batch)
        return graph.add(op, (updates.shape, x.dtype))

    def put(graph: Graph, x: Value, indices: Value, updates: Value) -> Op:
        op = ops.Put(inputs=[x, indices, updates], axis=axis, batch=batch)
        return graph.add(op, (x.shape, x.dtype))

    for make, expected in ((take, taken), (put, replaced)):
        graph = made(view, tensors, dims, make)
        (found,) = results(graph, [tensor.numpy() for tensor in tensors])
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("start", [0, 2])
@pytest.mark.parametrize("known", [True, False], ids=["static", "dynamic"])
def test_range(view: View, start: int, known: bool) -> None:
    def count(graph: Graph, x: Value) -> Op:
        extent = graph.constant(np.array(3)) if known else None
        if extent is None:
            size = ops.ShapeOf(inputs=[x], axes=(0,), scalar=True)
            extent = graph.add(size, ((), INT64)).output
        return graph.add(ops.Range(inputs=[extent], start=start), ((x.shape[0],), INT64))

    graph = made(view, [X], [None if known else 0], count)
    for x in (X,) if known else (X, torch.cat([X, X])):
        (found,) = results(graph, [x.numpy()])
        np.testing.assert_array_equal(found, np.arange(start, start + len(x)))
        assert found.dtype == np.int64


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
@pytest.mark.parametrize("axis", [None, 0, 1], ids=["static", "rows", "columns"])
def test_sort(view: View, dtype: torch.dtype, axis: int | None) -> None:
    def ordered(graph: Graph, x: Value) -> Op:
        return graph.add(ops.Sort(inputs=[x]), (x.shape, x.dtype))

    graph = made(view, [SCORES.to(dtype)], [axis], ordered)
    x = SCORES if axis is None else torch.cat([SCORES, SCORES + 0.5], axis)
    (found,) = results(graph, [x.to(dtype).numpy()])
    np.testing.assert_array_equal(found, np.sort(x.to(dtype).numpy(), -1))


@pytest.mark.parametrize("dynamic", [True, False])
def test_fill_of_computed_extents(view: View, dynamic: bool) -> None:
    def filled(graph: Graph, x: Value) -> Op:
        size = graph.add(ops.ShapeOf(inputs=[x], axes=(0,), scalar=True), ((), INT64))
        extent = size.output if dynamic else graph.constant(np.array(3))
        op = ops.Fill(inputs=[extent], dims=(2, ops.Ref(0)), number=True)
        return graph.add(op, ((2, x.shape[0]), np.dtype(np.bool_)))

    graph = made(view, [X], [0 if dynamic else None], filled)
    x = torch.cat([X, X]) if dynamic else X
    (found,) = results(graph, [x.numpy()])
    np.testing.assert_array_equal(found, np.ones((2, len(x)), bool))


def test_a_computed_count(view: View) -> None:
    """k is a share of a dynamic number of tokens."""

    def half(x: Tensor) -> tuple[Tensor, Tensor]:
        return tuple(x.topk(torch.sym_max(1, x.shape[1] // 2), 1))

    graph, _ = view.lift(Call(half, 1), [SCORES], dynamic_shapes=({1: Dim.DYNAMIC},))
    (top,) = graph.walk(ops.TopK)
    assert top.k is None
    assert top.inputs[1] is not None
    check(graph, half, [torch.cat([SCORES, SCORES + 0.5], 1)])


@pytest.mark.parametrize("largest", [True, False])
def test_nan_is_the_largest_score(view: View, largest: bool) -> None:
    """Torch, ONNX Runtime and the reference all say so; ONNX itself leaves it open."""
    scores = SCORES.clone()
    scores[:, 3] = torch.nan

    def top(x: Tensor) -> tuple[Tensor, Tensor]:
        return tuple(x.topk(6, 1, largest=largest))

    graph, _ = view.lift(Call(top, 1), [SCORES])
    check(graph, top, [scores])
    found = graph.run([scores.numpy()])[1]
    assert (found[:, 0 if largest else -1] == 3).all()


def test_equal_entries_keep_their_order_on_onnxruntime() -> None:
    graph, _ = View("onnx").lift(Call(lambda x: x.topk(3, 1).indices, 1), [SCORES])
    (found,) = results(graph, [np.zeros((3, 6), np.float32)])
    assert found.tolist() == [[0, 1, 2]] * 3
