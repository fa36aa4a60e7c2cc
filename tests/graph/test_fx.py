"""The torch view: what lifting shows of a program, and what it can run."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from torch.export import Dim, ExportedProgram

from passel.graph import ops
from passel.graph.fx import lift
from passel.graph.graph import Graph
from passel.graph.value import Op


class Mlp(torch.nn.Module):
    def __init__(self, flag: int | None = 7) -> None:
        super().__init__()
        self.flag = flag
        self.first = torch.nn.Linear(4, 6)
        self.second = torch.nn.Linear(6, 4, bias=False)

    def forward(self, x: torch.Tensor, *, scale: torch.Tensor) -> dict[str, Any]:
        hidden = torch.nn.functional.gelu(self.first(x))
        rows = hidden.reshape(x.shape[0], -1)
        return {"out": self.second(hidden) * scale, "parts": (rows, self.flag)}


X, SCALE = torch.linspace(-1, 1, 24).reshape(2, 3, 4), torch.tensor(1.5)


@pytest.fixture
def mlp() -> ExportedProgram:
    return exported_mlp()


def exported_mlp(flag: int | None = 7) -> ExportedProgram:
    torch.manual_seed(0)
    dynamic = {"x": {0: Dim("batch", min=2, max=64)}, "scale": None}
    return torch.export.export(Mlp(flag).eval(), (X,), {"scale": SCALE}, dynamic_shapes=dynamic)


def exported(forward: Any, *inputs: torch.Tensor, **kwargs: Any) -> ExportedProgram:
    module = torch.nn.Module()
    module.forward = forward  # type: ignore[method-assign]
    return torch.export.export(module, inputs, **kwargs)


def named(graph: Graph, name: str) -> Op:
    (found,) = (op for op in graph.ops if op.name == name)
    return found


def test_values_share_the_weights(mlp: ExportedProgram) -> None:
    graph = lift(mlp)
    weight = named(graph, "linear").require(1)
    ours, theirs = weight.array(), mlp.state_dict["first.weight"]
    assert np.shares_memory(ours, theirs.detach().numpy())
    assert not ours.flags.writeable
    assert weight.constant is not None
    assert weight.constant.source is theirs
    lowered = graph.binding.lower(graph)
    assert all(lowered.state_dict[name] is mlp.state_dict[name] for name in mlp.state_dict)


def test_names_scopes_and_symbols(mlp: ExportedProgram) -> None:
    graph = lift(mlp)
    assert [value.name for value in graph.inputs] == ["x", "scale"]
    assert [op.scope for op in graph.walk(ops.Linear)] == ["first", "second"]
    assert graph.output_names == ["mul", "reshape"]
    batch = graph.inputs[0].shape[0]  # type: ignore[index]
    assert isinstance(batch, str)
    assert graph.outputs[0].shape == (batch, 3, 4)
    (size,) = graph.walk(ops.ShapeOf)
    assert (size.axes, size.scalar, size.output.shape) == ((0,), True, ())
    (reshape,) = graph.walk(ops.Reshape)
    assert reshape.dims == (ops.Ref(1), -1)
    assert reshape.inputs[1] is size.output


def test_run_takes_and_gives_flat_arrays(mlp: ExportedProgram) -> None:
    out, rows = lift(mlp).run([X.numpy(), SCALE.numpy()])
    theirs = mlp.module()(X, scale=SCALE)
    np.testing.assert_array_equal(out, theirs["out"].detach().numpy())
    np.testing.assert_array_equal(rows, theirs["parts"][0].detach().numpy())


def test_order_of_operands() -> None:
    def forward(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return (2 - x * x).masked_fill(mask, 0.0)

    graph = lift(exported(forward, torch.randn(2, 3), torch.ones(2, 3, dtype=torch.bool)))
    square, difference, where = graph.ops
    assert square.order is None
    assert square.inputs == [graph.inputs[0]] * 2
    assert difference.order == (1,)
    assert difference.require(0).array() == 2.0
    assert where.order == (2, 0)
    assert where.require(1).array().dtype == np.float32
    graph.set_input(square, 1, graph.constant(np.full(3, 4, np.float32)))
    (result,) = graph.run([np.ones((2, 3), np.float32), np.eye(2, 3, dtype=bool)])
    np.testing.assert_array_equal(result, -2 * (1 - np.eye(2, 3)))


def test_tied_weights() -> None:
    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = torch.nn.Embedding(7, 4)
            self.head = torch.nn.Linear(4, 7, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.head(self.embedding(ids))

    ids = torch.tensor([[1, 2, 6]])
    program = torch.export.export(Tied(), (ids,))
    graph = lift(program)
    (gather,), (linear,) = graph.walk(ops.Gather), graph.walk(ops.Linear)
    assert gather.x is linear.weight
    assert len(gather.x.uses) == 2
    lowered = graph.binding.lower(graph)
    assert torch.equal(lowered.module()(ids), program.module()(ids))


def test_writes_in_place_are_made_functional() -> None:
    def forward(x: torch.Tensor) -> torch.Tensor:
        y = x * 2
        z = y + 1
        y.relu_()
        return y + z

    program, x = exported(forward, torch.randn(2, 3)), torch.randn(2, 3)
    graph = lift(program)
    assert [op.kind for op in graph.ops] == ["mul", "add", "relu", "add"]
    assert torch.equal(graph.binding.lower(graph).module()(x), program.module()(x))


def test_mutated_buffers_are_no_constants() -> None:
    class Counter(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.zeros(()))
            self.register_buffer("table", torch.ones(3), persistent=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.count += 1
            return x * self.count + self.table

    program = torch.export.export(Counter(), (torch.ones(3),))
    graph = lift(program)
    assert [value.name for value in graph.constants() if value.shape] == ["b_table"]
    assert len(graph.pinned) == 1
    assert len(graph.outputs) == 1
    module = graph.binding.lower(graph).module()
    assert [module(torch.ones(3))[0].item() for _ in range(2)] == [2.0, 3.0]
    assert graph.run([np.ones(3, np.float32)])[0][0] == 2.0
    assert program.state_dict["count"] == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn])
def test_types_that_numpy_lacks(dtype: torch.dtype) -> None:
    weight = torch.nn.Parameter(torch.tensor([1.5, -2.0]).to(dtype), requires_grad=False)
    module = torch.nn.Module()
    module.weight = weight
    module.forward = lambda x: x * module.weight.to(torch.float32)  # type: ignore[method-assign]
    graph = lift(torch.export.export(module, (torch.ones(2),)))
    (cast,) = graph.walk(ops.Cast)
    array = cast.require(0).array()
    assert array.dtype == getattr(ml_dtypes, str(dtype).removeprefix("torch."))
    assert array.astype(np.float32).tolist() == [1.5, -2.0]
    graph.set_input(cast, 0, graph.constant(array * 2))
    assert graph.run([np.ones(2, np.float32)])[0].tolist() == [3.0, -4.0]


def test_pieces() -> None:
    def forward(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        first, _, last = x.split([1, 2, 3], dim=-1)
        values, indices = x.topk(2)
        return first * 2, last, values, indices + x.unbind(0)[1].sum().long()

    program, x = exported(forward, torch.randn(2, 6)), torch.randn(2, 6)
    graph = lift(program)
    split, topk = named(graph, "split_with_sizes"), named(graph, "topk")
    assert isinstance(split, ops.Split)
    assert (split.axis, split.sizes) == (1, (1, 2, 3))
    assert [value.shape for value in split.outputs] == [(2, 1), (2, 2), (2, 3)]
    assert isinstance(topk, ops.TopK)
    assert (topk.axis, topk.k, topk.largest) == (1, 2, True)
    assert [value.dtype for value in topk.outputs] == [np.float32, np.int64]
    for _ in range(2):
        ours, theirs = graph.binding.lower(graph).module()(x), program.module()(x)
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
        split.source = topk.source = None


def test_randomness_and_assertions_are_effects() -> None:
    def forward(x: torch.Tensor) -> torch.Tensor:
        torch._check(x.sum().item() > 0)
        return torch.rand_like(x) + torch.dropout(x, 0.5, True) + torch.dropout(x, 0.5, False)

    graph = lift(exported(forward, torch.ones(3)))
    effects = {op.kind for op in graph.ops if op.effectful}
    assert {"aten.rand_like.default", "aten.dropout.default"} <= effects
    assert any("assert" in kind for kind in effects)
    assert "aten.item.default" not in effects
    assert sum(isinstance(op, ops.Identity) for op in graph.ops) == 1


def test_evaluate_prefers_double_precision() -> None:
    def forward(x: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
        return x.cumsum(0) + torch.bitwise_left_shift(n, 1) + (x == 0.1)

    graph = lift(exported(forward, torch.ones(3), torch.ones(3, dtype=torch.int64)))
    third = np.full(3, 1 / 3, np.float32)
    (total,) = graph.binding.evaluate(named(graph, "cumsum"), [third])
    assert total.dtype == np.float64
    assert total[2] == np.float64(third[0]) * 3
    (shifted,) = graph.binding.evaluate(named(graph, "bitwise_left_shift"), [np.arange(3)])
    assert shifted.tolist() == [0, 2, 4]
    # A comparison is made in the type that the program compares in.
    equal = named(graph, "eq")
    tenths = np.full(3, 0.1, np.float32)
    (found,) = graph.binding.evaluate(equal, [tenths, equal.require(1).array()])
    assert found.all()


def test_an_operand_read_for_its_shape_alone_is_let_go() -> None:
    class Like(torch.nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return x.reshape_as(y) + x.view_as(y) + x[:1, :1].expand_as(y)

    program = torch.export.export(Like(), (torch.arange(6.0).reshape(2, 3), torch.ones(3, 2)))
    graph = lift(program)
    assert {op.kind for op in graph.ops} >= {"Reshape", "Expand"}
    assert not graph.inputs[1].uses
    arrays = [np.arange(6.0, dtype=np.float32).reshape(2, 3), np.ones((3, 2), np.float32)]
    np.testing.assert_array_equal(graph.run(arrays)[0], 2 * arrays[0].reshape(3, 2))
