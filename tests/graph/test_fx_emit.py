"""Every op that a pass may make, written into a program and run at once, against numpy or torch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from passel.errors import InvalidGraph
from passel.graph import ops
from passel.graph.fx import lift
from passel.graph.graph import Graph
from passel.graph.value import Op

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 3, 4))
IMAGE = RNG.standard_normal((2, 4, 7, 6))
W, B = RNG.standard_normal((5, 4)), RNG.standard_normal(5)
SCALE, SHIFT = RNG.standard_normal(4), RNG.standard_normal(4)
MEAN, VAR = RNG.standard_normal(4), RNG.uniform(0.5, 2, 4)
KERNEL, UPKERNEL = RNG.standard_normal((6, 4, 3, 3)), RNG.standard_normal((4, 6, 3, 3))
Q, K, V = (RNG.standard_normal((2, heads, 3, 4)) for heads in (4, 2, 2))
MASK = RNG.random((2, 1, 3, 3)) > 0.3
TABLE, IDS = RNG.standard_normal((9, 4)), np.array([[1, 8, 0], [3, 3, 2]])
HALF = np.array(0.5)


class Echo(torch.nn.Module):
    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return inputs[0] + 0


def graph_of(*arrays: np.ndarray) -> Graph:
    """A graph whose inputs have the shapes and types of these arrays."""
    inputs = tuple(torch.from_numpy(array) for array in arrays)
    return lift(torch.export.export(Echo(), inputs))


def result_of(op: Op, arrays: Sequence[np.ndarray | None], constant: int) -> np.ndarray:
    """The first result of `op`; operands from number `constant` on are constants."""
    given = [array for array in arrays[:constant] if array is not None]
    graph = graph_of(*given)
    inputs = iter(graph.inputs)
    op.inputs = [
        None if array is None else next(inputs) if i < constant else graph.constant(array)
        for i, array in enumerate(arrays)
    ]
    graph.add(op, *[(None, None)] * max(1, len(getattr(op, "sizes", ()))))
    graph.replace(graph.outputs[0], op.outputs[-1])
    (result,) = graph.run(given)
    immediate = graph.binding.evaluate(op, arrays)
    np.testing.assert_allclose(immediate[-1], result, rtol=1e-12, atol=1e-13)
    return result


def t(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array)


def conv(padding: Any, **kwargs: Any) -> ops.Conv:
    kwargs = {"stride": (1, 1), "dilation": (1, 1), **kwargs}
    return ops.Conv(padding=padding, **kwargs)


def rms(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)


def crms(x: np.ndarray) -> np.ndarray:
    total = (x**2).sum(-1, keepdims=True) + x.sum(-1, keepdims=True) ** 2
    return x / np.sqrt(total / (x.shape[-1] + 1) + 1e-5)


def attention(scale: float | None = None, mask: Any = None, causal: bool = False) -> torch.Tensor:
    return F.scaled_dot_product_attention(
        t(Q), t(K), t(V), mask, is_causal=causal, scale=scale, enable_gqa=True
    )


def uneven_transposed() -> torch.Tensor:
    return F.conv_transpose2d(t(IMAGE), t(UPKERNEL), stride=2)[:, :, 1:, 2:-1]


NORM = t(B[:4])
PRODUCTS: list[tuple[Op, list[Any], Any]] = [
    (ops.Linear(), [X, W, B], X @ W.T + B),
    (ops.Linear(layout="io"), [X, W.T, B], X @ W.T + B),
    (ops.Linear(layout="io"), [X[0], W.T, B], X[0] @ W.T + B),
    (ops.Linear(layout="io"), [X[0], W.T], X[0] @ W.T),
    (ops.MatMul(), [X, W.T], X @ W.T),
    (conv(((1, 1), (1, 1))), [IMAGE, KERNEL], F.conv2d(t(IMAGE), t(KERNEL), padding=1)),
    (
        conv(((1, 0), (0, 2)), stride=(2, 1)),
        [IMAGE, KERNEL],
        F.conv2d(F.pad(t(IMAGE), (0, 2, 1, 0)), t(KERNEL), stride=(2, 1)),
    ),
    (conv(None), [IMAGE, KERNEL], F.conv2d(t(IMAGE), t(KERNEL), padding="same")),
    (
        conv(((1, 1), (1, 1)), stride=(2, 2), transposed=True, output_padding=(1, 0)),
        [IMAGE, UPKERNEL],
        F.conv_transpose2d(t(IMAGE), t(UPKERNEL), None, 2, 1, (1, 0)),
    ),
    (
        conv(((1, 0), (2, 1)), stride=(2, 2), transposed=True),
        [IMAGE, UPKERNEL],
        uneven_transposed(),
    ),
    (ops.Attention(), [Q, K, V], attention()),
    (ops.Attention(scale=0.3), [Q, K, V, MASK], attention(0.3, t(MASK))),
    (ops.Attention(causal=True), [Q, K, V], attention(causal=True)),
]
NORMS: list[tuple[Op, list[Any], Any]] = [
    (ops.Norm(), [X, SCALE, SHIFT], F.layer_norm(t(X), (4,), t(SCALE), t(SHIFT))),
    (ops.Norm(), [X, None, SHIFT], F.layer_norm(t(X), (4,)).numpy() + SHIFT),
    (ops.Norm(ndim=2, eps=0.1), [X], F.layer_norm(t(X), (3, 4), eps=0.1)),
    (ops.Norm(norm="rms"), [X, SCALE], rms(X) * SCALE),
    (ops.Norm(norm="rms"), [X, SCALE, SHIFT], rms(X) * SCALE + SHIFT),
    (ops.Norm(norm="crms"), [X, SCALE, SHIFT], crms(X) * SCALE + SHIFT),
    (ops.Norm(norm="crms"), [X], crms(X)),
    (
        ops.BatchNorm(eps=0.1),
        [IMAGE, SCALE, SHIFT, MEAN, VAR],
        F.batch_norm(t(IMAGE), t(MEAN), t(VAR), t(SCALE), t(SHIFT), eps=0.1),
    ),
    (ops.Affine(), [X, SCALE, SHIFT], X * SCALE + SHIFT),
    (ops.Affine(), [X, None, SHIFT], X + SHIFT),
    (ops.Affine(), [X, HALF], X * 0.5),
    (ops.Softmax(axis=1), [X], torch.softmax(t(X), 1)),
    (ops.Reduce(fn="mean", axes=(0, 2)), [X], X.mean((0, 2), keepdims=True)),
    (ops.Reduce(fn="sum", axes=(1,), keepdims=False), [X], X.sum(1)),
    (ops.Reduce(fn="max", axes=(2,)), [X], X.max(2, keepdims=True)),
    (ops.Reduce(fn="min", axes=(2,), keepdims=False), [X], X.min(2)),
    (ops.Reduce(fn="prod", axes=(0, 1), keepdims=False), [X], X.prod((0, 1))),
    (ops.Reduce(fn="var", axes=(1,)), [X], X.var(1, keepdims=True)),
    (ops.Reduce(fn="var_unbiased", axes=(1,)), [X], X.var(1, keepdims=True, ddof=1)),
]
MOVES: list[tuple[Op, list[Any], Any]] = [
    (ops.Reshape(dims=(3, -1)), [X], X.reshape(3, 8)),
    (ops.Reshape(dims=(ops.Ref(1), -1)), [X, np.array(4)], X.reshape(4, 6)),
    (ops.Expand(dims=(2, -1, -1, -1)), [X], np.broadcast_to(X, (2, 2, 3, 4))),
    (ops.Transpose(perm=(2, 0, 1)), [X], X.transpose(2, 0, 1)),
    (ops.Squeeze(axes=(1,)), [X[:, :1]], X[:, 0]),
    (ops.Unsqueeze(axes=(3, 0)), [X], X[None, :, :, None]),
    (
        ops.Slice(axes=(1, 2), starts=(-2, 0), ends=(2**63 - 1, 3), steps=(1, 2)),
        [X],
        X[:, -2:, 0:3:2],
    ),
    (ops.Concat(axis=1), [X, X], np.concatenate([X, X], 1)),
    (ops.Split(axis=2, sizes=(1, 3)), [X], X[..., 1:]),
    (ops.Gather(), [TABLE, IDS], TABLE[IDS]),
    (ops.Gather(axis=1), [X, np.array([2, 0])], X[:, [2, 0]]),
    (ops.Gather(axis=1), [X, IDS % 3], X[:, IDS % 3]),
    (ops.Gather(axis=2), [X, np.array(-1)], X[..., -1]),
    (ops.Cast(dtype=np.dtype(np.float32)), [X], X.astype(np.float32)),
    (ops.Identity(), [X], X),
    (ops.ShapeOf(axes=(2, 0)), [X], np.array([4, 2])),
]


def named(cases: list[tuple[Op, list[Any], Any]]) -> list[str]:
    return [f"{op.kind}-{number}" for number, (op, _, _) in enumerate(cases)]


@pytest.mark.parametrize("constant", [1, 9], ids=["weights", "computed"])
@pytest.mark.parametrize(
    ("op", "arrays", "expected"), PRODUCTS + NORMS + MOVES, ids=named(PRODUCTS + NORMS + MOVES)
)
def test_vocabulary(op: Op, arrays: list[Any], expected: Any, constant: int) -> None:
    if constant > 1 and any(a is not None and a.ndim == 0 for a in arrays):
        pytest.skip("a number that is no constant is an input of another kind")
    fields = {k: v for k, v in vars(op).items() if k in type(op).__dataclass_fields__}
    own = {k: v for k, v in fields.items() if k not in Op.__dataclass_fields__}
    result = result_of(type(op)(**own), arrays, constant)
    np.testing.assert_allclose(result, np.asarray(expected), rtol=1e-11, atol=1e-12)


def test_every_piece_of_a_split_and_an_unbind() -> None:
    for op, count in ((ops.Split(axis=1, sizes=(1, 2)), 2), (ops.Unbind(axis=1), 3)):
        graph = graph_of(X)
        op.inputs = [graph.inputs[0]]
        graph.add(op, *[(None, None)] * count)
        graph.replace(graph.outputs[0], op.outputs[1])
        expected = X[:, 1:] if count == 2 else X[:, 1]
        np.testing.assert_array_equal(graph.run([X])[0], expected)


def test_result_has_the_promised_type() -> None:
    graph = graph_of(X)
    op = ops.Elementwise(inputs=[graph.inputs[0], graph.constant(np.array(2))], fn="mul")
    graph.add(op, (X.shape, np.dtype(np.float32)))
    graph.replace(graph.outputs[0], op.output)
    assert graph.run([X])[0].dtype == np.float32


@pytest.mark.parametrize(
    ("op", "message"),
    [
        (ops.Opaque(target="Foo"), "expected an op that ATen can spell"),
        (ops.Slice(axes=(0,)), "to know its bounds, got computed ones"),
        (ops.Reshape(), "to name its dims, got one computed tensor"),
    ],
)
def test_what_cannot_be_written(op: Op, message: str) -> None:
    graph = graph_of(X)
    op.inputs = [graph.inputs[0]]
    graph.add(op, (None, None))
    graph.replace(graph.outputs[0], op.output)
    with pytest.raises(InvalidGraph, match=message):
        graph.binding.lower(graph)
