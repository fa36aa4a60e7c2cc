"""Lowering an edited graph: what is written anew, what is kept, and what it can be used for."""

import io
from typing import Any

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


def test_calling_convention_survives(mlp: ExportedProgram) -> None:
    graph = lift(mlp)
    module = graph.binding.lower(graph).module()
    x = torch.randn(5, 3, 4)
    ours, theirs = module(x, scale=SCALE), mlp.module()(x, scale=SCALE)
    assert torch.equal(ours["out"], theirs["out"])
    assert torch.equal(ours["parts"][0], theirs["parts"][0])
    assert ours["parts"][1] == 7
    with pytest.raises((RuntimeError, AssertionError)):
        module(torch.randn(65, 3, 4), scale=SCALE)


def edited(program: ExportedProgram) -> Graph:
    """The program with one weight doubled, a bias added, and one linear fed by a new op."""
    graph = lift(program)
    first, second = graph.walk(ops.Linear)
    graph.set_input(first, 1, graph.constant(first.weight.array() * 2, "doubled"))
    graph.set_input(second, 2, graph.constant(np.arange(4, dtype=np.float32), "bias"))
    absolute = ops.Elementwise(inputs=[second.x], fn="abs")
    graph.add(absolute, (second.x.shape, second.x.dtype), before=second)
    graph.set_input(second, 0, absolute.output)
    return graph


def expected(program: ExportedProgram, x: torch.Tensor) -> torch.Tensor:
    state = program.state_dict
    hidden = torch.nn.functional.linear(x, state["first.weight"] * 2, state["first.bias"])
    hidden = torch.nn.functional.gelu(hidden).abs()
    return (hidden @ state["second.weight"].T + torch.arange(4)) * SCALE


def test_edits_are_written_and_the_original_stays(mlp: ExportedProgram) -> None:
    before = str(mlp), list(mlp._guards_code), {k: v.clone() for k, v in mlp.state_dict.items()}
    graph = edited(mlp)
    lowered = graph.binding.lower(graph)
    x = torch.randn(5, 3, 4)
    torch.testing.assert_close(lowered.module()(x, scale=SCALE)["out"], expected(mlp, x))
    assert (str(mlp), list(mlp._guards_code)) == before[:2]
    assert all(torch.equal(mlp.state_dict[name], old) for name, old in before[2].items())
    assert set(lowered.state_dict) == {
        *("first.bias", "second.weight", "passel.doubled", "passel.bias")
    }
    assert lowered.range_constraints == mlp.range_constraints
    assert lowered._guards_code == mlp._guards_code


def test_unedited_nodes_keep_their_metadata(mlp: ExportedProgram) -> None:
    graph = edited(mlp)
    old = {node.name: node for node in mlp.graph.nodes}
    new = {node.name: node for node in graph.binding.lower(graph).graph.nodes}
    assert new["gelu"].meta["val"] is old["gelu"].meta["val"]
    assert new["linear"].meta["stack_trace"] == old["linear"].meta["stack_trace"]
    assert new["linear_1"].meta["nn_module_stack"] == old["linear_1"].meta["nn_module_stack"]
    assert tuple(new["linear_1"].meta["val"].shape[1:]) == (3, 4)


@pytest.mark.parametrize("how", ["save", "decompose", "compile", "onnx", "twice"])
def test_lowered_program_is_usable(how: str) -> None:
    mlp = exported_mlp(None if how == "onnx" else 7)  # the ONNX exporter takes no number as output
    graph = edited(mlp)
    lowered, x = graph.binding.lower(graph), torch.randn(5, 3, 4)
    if how == "save":
        buffer = io.BytesIO()
        torch.export.save(lowered, buffer)
        lowered = torch.export.load(io.BytesIO(buffer.getvalue()))
        module = lowered.module()
    elif how == "decompose":
        module = lowered.run_decompositions().module()
    elif how == "compile":
        module = torch.compile(lowered.module(), backend="aot_eager")
    elif how == "onnx":
        onnx_program = torch.onnx.export(lowered, dynamo=True, verbose=False)
        module = lambda x, scale: {"out": onnx_program(x, scale=scale)[0]}  # noqa: E731
    else:
        again = lift(lowered)
        module = again.binding.lower(again).module()
    torch.testing.assert_close(module(x, scale=SCALE)["out"], expected(mlp, x))


def test_inputs_and_constants_as_outputs(mlp: ExportedProgram) -> None:
    graph = lift(mlp)
    graph.replace(graph.outputs[1], graph.inputs[0])
    graph.replace(graph.outputs[0], graph.constant(np.ones(3, np.float32)))
    lowered = graph.binding.lower(graph)
    ours = lowered.module()(X, scale=SCALE)
    assert torch.equal(ours["parts"][0], X)
    assert torch.equal(ours["out"], torch.ones(3))
    assert torch.equal(lowered.run_decompositions().module()(X, scale=SCALE)["out"], torch.ones(3))


def test_symbolic_extent_that_becomes_known(mlp: ExportedProgram) -> None:
    graph = lift(mlp)
    (size,) = graph.walk(ops.ShapeOf)
    graph.replace(size.output, graph.constant(np.array(2)))
    for source in (named(graph, "reshape").source, None):
        named(graph, "reshape").source = source
        assert graph.run([X.numpy(), SCALE.numpy()])[1].shape == (2, 18)


def test_narrower_operand_reaches_copied_nodes() -> None:
    program = exported(lambda x: torch.relu(x + 1).exp(), torch.randn(2, 5))
    graph = lift(program)
    narrow = ops.Slice(axes=(1,), starts=(4,), ends=(5,), steps=(1,), inputs=[graph.inputs[0]])
    graph.add(narrow, ((2, 1), np.dtype(np.float32)), before=named(graph, "add"))
    graph.set_input(named(graph, "add"), 0, narrow.output)
    lowered = graph.binding.lower(graph)
    shapes = {n.name: tuple(n.meta["val"].shape) for n in lowered.graph.nodes if n.op != "output"}
    assert shapes["add"] == shapes["relu"] == shapes["exp"] == (2, 1)


def test_view_of_what_became_non_contiguous() -> None:
    program = exported(lambda x: (x + 1).view(-1), torch.randn(2, 3))
    graph = lift(program)
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    there = ops.Transpose(perm=(1, 0), inputs=[graph.inputs[0]])
    graph.add(there, ((3, 2), np.dtype(np.float32)), before=named(graph, "add"))
    graph.set_input(named(graph, "add"), 0, there.output)
    np.testing.assert_array_equal(graph.run([x])[0], (x.T + 1).reshape(-1))
