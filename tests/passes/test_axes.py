"""The axis table against brute force: cutting operands and then computing is cutting the result."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from passel.graph import Graph, Op, Value
from passel.graph import ops as o
from passel.models import GPT, GPTConfig, ViT, ViTConfig, gpt_inputs, vit_inputs
from passel.passes.axes import carried
from passel.passes.axis_roles import AxisClasses
from passel.passes.driver import run_passes
from tests.token_nets import PREPARE, CrossAttention, Net, noise

F64 = np.dtype(np.float64)
Run = Callable[[list[Tensor], tuple[int, ...], int], Tensor]


@dataclass
class Case:
    """One op on operands, what computes it, and the axes that it must carry, by result.

    Attributes:
        run: gives a result of the operands, for a target shape.
        indices: operands that hold positions, and how many there are.
    """

    op: Op
    operands: list[tuple[int, ...]]
    run: Run
    carries: tuple[int, ...]
    indices: dict[int, int]

    def tensors(self, seed: int) -> list[Tensor]:
        return [
            self._positions(k, shape, seed) if k in self.indices else noise(*shape, seed=seed + k)
            for k, shape in enumerate(self.operands)
        ]

    def _positions(self, operand: int, shape: tuple[int, ...], seed: int) -> Tensor:
        """Positions without repeats along the last axis, where there can be some."""
        generator = torch.Generator().manual_seed(seed)
        extent = self.indices[operand]
        if not shape or shape[-1] > extent:
            return torch.randint(extent, shape, generator=generator)
        rows = torch.rand(*shape[:-1], extent, generator=generator).argsort(-1)
        return rows[..., : shape[-1]]


def case(op: Op, operands: Any, results: Any, run: Run, *carries: int, **indices: int) -> Case:
    shapes = list(operands)
    op.inputs = [Value(f"x{k}", shape, F64) for k, shape in enumerate(shapes)]
    results = [results] if isinstance(results, tuple) else results
    Graph(binding=None).add(op, *((shape, F64) for shape in results))
    return Case(op, shapes, run, carries, {int(k[1:]): n for k, n in indices.items()})


def plain(function: Callable[..., Tensor]) -> Run:
    return lambda xs, target, result: function(*xs)


def batch_norm(x, scale, shift, mean, variance):
    return F.batch_norm(x, mean, variance, scale, shift)


def put(x, indices, updates):
    spread = indices[..., None].expand_as(updates)
    return x.scatter(1, spread, updates)


def attention(q, k, v, mask=None):
    return F.scaled_dot_product_attention(q, k, v, mask)


B, N, D = 2, 5, 4
X, W = (B, N, D), (6, D)
Q = (B, 2, N, D)
HEADS_OF_KEYS = (B, 2, 7, D)


CASES = {
    "Identity": case(o.Identity(), [X], X, plain(lambda x: x), 0, 1, 2),
    "Cast": case(o.Cast(dtype=F64), [X], X, plain(lambda x: x), 0, 1, 2),
    "add": case(o.Elementwise(fn="add"), [X, X], X, plain(torch.add), 0, 1, 2),
    "add, broadcast": case(
        o.Elementwise(fn="add"), [X, (N, 1)], X, plain(torch.add), 0, 1, 2
    ),
    "mul, both broadcast": case(
        o.Elementwise(fn="mul"), [(B, 1, D), (N, 1)], X, plain(torch.mul), 0, 1, 2
    ),
    "where": case(
        o.Elementwise(fn="where"), [(B, N, 1), X, X], X,
        plain(lambda c, a, b: torch.where(c > 0, a, b)), 0, 1, 2,
    ),
    "Affine": case(
        o.Affine(), [X, (D,), (1, N, 1)], X, plain(lambda x, s, t: x * s + t), 0, 1, 2
    ),
    "Linear": case(o.Linear(), [X, W, (6,)], (B, N, 6), plain(F.linear), 0, 1),
    "LayerNorm": case(
        o.Norm(), [X, (D,), (D,)], X, plain(lambda x, s, t: F.layer_norm(x, (D,), s, t)), 0, 1
    ),
    "LayerNorm of two axes": case(
        o.Norm(ndim=2), [X], X, plain(lambda x: F.layer_norm(x, x.shape[1:])), 0
    ),
    "BatchNorm": case(
        o.BatchNorm(), [(B, D, N), (D,), (D,), (D,), (D,)], (B, D, N),
        plain(lambda x, s, t, m, v: batch_norm(x, s, t, m, v.abs() + 1)), 0, 2,
    ),
    "Conv": case(
        o.Conv(stride=(1,), padding=((1, 1),), dilation=(1,)), [(B, D, N), (6, D, 3)], (B, 6, N),
        plain(lambda x, w: F.conv1d(x, w, padding=1)), 0,
    ),
    "Softmax": case(o.Softmax(axis=2), [X], X, plain(lambda x: x.softmax(2)), 0, 1),
    "MatMul": case(o.MatMul(), [(B, N, D), (B, D, 6)], (B, N, 6), plain(torch.matmul), 0, 1, 2),
    "MatMul, one shared": case(
        o.MatMul(), [(B, 3, N, D), (3, D, 6)], (B, 3, N, 6), plain(torch.matmul), 0, 1, 2, 3
    ),
    "Attention": case(
        o.Attention(), [Q, HEADS_OF_KEYS, (B, 2, 7, 3)], (B, 2, N, 3), plain(attention), 0, 1, 2, 3
    ),
    "Attention, mask of queries": case(
        o.Attention(), [Q, HEADS_OF_KEYS, HEADS_OF_KEYS, (B, 1, N, 7)], Q, plain(attention),
        0, 1, 2, 3,
    ),
    "Attention, mask of keys": case(
        o.Attention(), [Q, HEADS_OF_KEYS, HEADS_OF_KEYS, (2, 1, 7)], Q, plain(attention), 0, 1, 2, 3
    ),
    "Attention, grouped": case(
        o.Attention(), [(B, 4, N, D), HEADS_OF_KEYS, HEADS_OF_KEYS], (B, 4, N, D),
        plain(lambda q, k, v: attention(q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1))),
        0, 2, 3,
    ),
    "mean": case(
        o.Reduce(fn="mean", axes=(1,), keepdims=True), [X], (B, 1, D),
        plain(lambda x: x.mean(1, keepdim=True)), 0, 2,
    ),
    "sum without its axis": case(
        o.Reduce(fn="sum", axes=(1,), keepdims=False), [X], (B, D), plain(lambda x: x.sum(1)), 0, 1
    ),
    "Transpose": case(
        o.Transpose(perm=(2, 0, 1)), [X], (D, B, N), plain(lambda x: x.permute(2, 0, 1)), 0, 1, 2
    ),
    "Slice": case(
        o.Slice(axes=(1,), starts=(1,), ends=(4,), steps=(1,)), [X], (B, 3, D),
        plain(lambda x: x[:, 1:4]), 0, 2,
    ),
    "Split": case(
        o.Split(axis=2, sizes=(1, 3)), [X], [(B, N, 1), (B, N, 3)],
        lambda xs, target, result: xs[0].split((1, 3), 2)[result], 0, 1,
    ),
    "Unbind": case(
        o.Unbind(axis=1), [X], [(B, D)] * N, lambda xs, target, result: xs[0].unbind(1)[result],
        0, 1,
    ),
    "Concat": case(
        o.Concat(axis=1), [X, (B, 3, D)], (B, N + 3, D), plain(lambda a, b: torch.cat((a, b), 1)),
        0, 2,
    ),
    "Gather": case(
        o.Gather(axis=1), [X, (3, 2)], (B, 3, 2, D), plain(lambda x, i: x[:, i]), 0, 1, 2, 3, _1=N
    ),
    "Gather of one": case(
        o.Gather(axis=1), [X, ()], (B, D), plain(lambda x, i: x[:, i]), 0, 1, _1=N
    ),
    "Take": case(
        o.Take(axis=1, batch=0), [X, (B, 3)], (B, 3, D),
        plain(lambda x, i: x[torch.arange(len(x))[:, None], i]), 0, 1, 2, _1=N,
    ),
    "Put": case(
        o.Put(axis=1, batch=0), [X, (B, 3), (B, 3, D)], X, plain(put), 0, 2, _1=N
    ),
    "Expand": case(
        o.Expand(dims=(B, N, D)), [(N, 1)], X, lambda xs, target, result: xs[0].expand(target),
        0, 1, 2,
    ),
    "Reshape": case(
        o.Reshape(dims=(B, N, 2, 2)), [X], (B, N, 2, 2),
        lambda xs, target, result: xs[0].reshape(target), 0, 1,
    ),
    "Reshape that flattens": case(
        o.Reshape(dims=(B * N, D)), [X], (B * N, D),
        lambda xs, target, result: xs[0].reshape(target), 1,
    ),
    "Quantize": case(
        o.Quantize(), [X, (1,), (1,)], X,
        plain(lambda x, s, z: (x / (s.abs() + 1)).round() + z), 0, 1, 2,
    ),
    "Quantize, a scale each": case(
        o.Quantize(axis=2), [X, (D,)], X, plain(lambda x, s: (x / (s.abs() + 1)).round()), 0, 1, 2
    ),
    "Dequantize, a scale each": case(
        o.Dequantize(axis=1), [X, (N,), (N,)], X,
        plain(lambda x, s, z: (x - z[:, None]) * s[:, None]), 0, 1, 2,
    ),
    "Dequantize of blocks": case(
        o.Dequantize(axis=2, block=2), [X, (B, N, (D + 1) // 2)], X,
        plain(lambda x, s: x * s.repeat_interleave(2, 2)[..., : x.shape[2]]), 0, 1,
    ),
    "Squeeze": case(o.Squeeze(axes=(1,)), [(B, 1, D)], (B, D), plain(lambda x: x[:, 0]), 0, 1),
    "Unsqueeze": case(
        o.Unsqueeze(axes=(0, 2)), [(B, D)], (1, B, 1, D), plain(lambda x: x[None, :, None]),
        0, 1, 2, 3,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
@given(data=st.data())
def test_cutting_operands_cuts_the_result(name, data):
    one = CASES[name]
    tensors = one.tensors(data.draw(st.integers(0, 9)))
    for result, value in enumerate(one.op.outputs):
        whole = one.run(tensors, value.shape, result)
        assert whole.shape == value.shape
        for axis, extent in enumerate(value.shape):
            pairs = carried(one.op, result, axis)
            if pairs is None:
                continue
            chosen = data.draw(st.lists(st.integers(0, extent - 1), min_size=1, unique=True))
            cut = cut_operands(tensors, pairs, torch.tensor(chosen))
            target = tuple(len(chosen) if k == axis else n for k, n in enumerate(value.shape))
            if extent == 1:
                continue  # nothing is cut
            torch.testing.assert_close(
                one.run(cut, target, result).expand(target),
                whole.index_select(axis, torch.tensor(chosen)),
                rtol=0,
                atol=1e-5,
            )


def cut_operands(tensors, pairs, chosen):
    cut = list(tensors)
    for operand, own in pairs:
        cut[operand] = cut[operand].index_select(own, chosen)
    return cut


@pytest.mark.parametrize("name", CASES)
def test_no_axis_is_given_up_without_need(name):
    one = CASES[name]
    for result, value in enumerate(one.op.outputs):
        found = [k for k in range(len(value.shape)) if carried(one.op, result, k) is not None]
        assert tuple(found) == one.carries


def test_every_kind_is_tested():
    """What is registered in the table, but for its base classes."""
    registered = {kind for kind in carried.registry if kind is not object}
    tested = {type(one.op) for one in CASES.values()}
    assert registered <= tested


def test_what_is_not_in_the_table_computes_along_every_axis():
    op = o.Opaque(target="cumsum", inputs=[Value("x", X, F64)])
    Graph(binding=None).add(op, (X, F64))
    assert [carried(op, 0, axis) for axis in range(3)] == [None] * 3


def test_unknown_shapes():
    x = Value("x", None, F64)
    op = o.Elementwise(inputs=[x, x], fn="add")
    Graph(binding=None).add(op, (None, F64))
    assert carried(op, 0, 0) is None


def test_symbolic_extents_that_may_differ():
    """n against m: one of them may be 1, and which is not known."""
    op = o.Elementwise(inputs=[Value("x", ("n", 4), F64), Value("y", ("m", 4), F64)], fn="add")
    Graph(binding=None).add(op, (("n", 4), F64))
    assert carried(op, 0, 0) is None
    assert carried(op, 0, 1) == [(0, 1), (1, 1)]


# -- roles ----------------------------------------------------------------------------------------


def roles_of(view, model, inputs, *kinds, **lifting):
    graph, _ = view.lift(model, inputs, **lifting)
    run_passes(graph, PREPARE)
    classes = AxisClasses(graph)
    return {op.kind: classes.roles(op.output) for op in graph.ops if op.kind in kinds}, classes


TOKENWISE = ("batch", "tokens", "channels")
PER_HEAD = ("batch", "heads", "tokens", "channels")


@pytest.mark.parametrize("fused", [True, False])
def test_roles_of_a_vit(fused, view):
    config = ViTConfig(
        image_size=8, patch_size=2, channels=1, dim=8, depth=2, heads=2, classes=3, fused_qkv=fused
    )
    kinds = ("LayerNorm", "add", "gelu", "Attention", "Concat")
    found, _ = roles_of(view, ViT(config), vit_inputs(config, 2), *kinds)
    assert found["LayerNorm"] == found["add"] == found["gelu"] == TOKENWISE
    assert found["Attention"] == PER_HEAD
    assert found["Concat"] == TOKENWISE


def test_roles_of_a_gpt(view):
    config = GPTConfig(vocab=40, context=16, dim=8, depth=2, heads=2)
    inputs = gpt_inputs(config, 2, 6)
    found, _ = roles_of(view, GPT(config), inputs, "LayerNorm", "Attention", "Linear")
    assert found["LayerNorm"] == found["Linear"] == TOKENWISE
    assert found["Attention"] == PER_HEAD


def test_roles_with_symbolic_extents(either_view):
    config = GPTConfig(vocab=40, context=16, dim=8, depth=2, heads=2)
    inputs = gpt_inputs(config, 2, 6)
    dynamic = {"dynamic_shapes": ({0: "batch", 1: "tokens"},)}
    kinds = ("LayerNorm", "Attention", "Softmax")
    found, _ = roles_of(either_view, GPT(config), inputs, *kinds, **dynamic)
    assert found["LayerNorm"] == TOKENWISE
    if either_view.name == "fx":
        assert found["Attention"] == PER_HEAD
    else:  # its mask is computed, so it stays in parts
        assert found["Softmax"] == ("batch", "heads", "tokens", "tokens")


def test_queries_and_keys_of_two_sequences_are_two_classes(view):
    net = Net(lambda m, x, memory: m.cross(x, memory), cross=CrossAttention())
    graph, _ = view.lift(net, (noise(2, 5, 8), noise(2, 7, 8)))
    classes = AxisClasses(graph)
    x, memory = graph.inputs[-2:]
    assert classes.key(x, 1) != classes.key(memory, 1)
    assert classes.key(x, 1) == classes.key(graph.outputs[0], 1)


def test_a_constant_joins_nothing():
    """Two sequences that add the same table are still two."""
    graph = Graph(binding=None)
    x, y = (Value(name, X, F64) for name in "xy")
    table = graph.constant(np.zeros((N, D)), "table")
    sums = [graph.add(o.Elementwise(inputs=[v, table], fn="add"), (X, F64)).output for v in (x, y)]
    classes = AxisClasses(graph)
    assert classes.key(sums[0], 1) == classes.key(x, 1)
    assert classes.key(x, 1) != classes.key(y, 1)
    assert classes.role(x, 1) is None
