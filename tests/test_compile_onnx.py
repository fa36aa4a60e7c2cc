"""ONNX in every form, with everything in it that torch does not write."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto, helper

import passel
from passel.errors import InvalidInput, InvalidModel
from tests.api import close, example, net, onnx_model, quickly

X = example()
RELU = [helper.make_node("Relu", ["x"], ["y"])]
WEIGHT = np.arange(64, dtype=np.float32).reshape(8, 8) / 64
DOUBLE = TensorProto.DOUBLE


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "net.onnx"
    passel.export_onnx(net(), X, path)
    return path


@pytest.mark.parametrize(
    "opened",
    [
        pytest.param(str, id="str"),
        pytest.param(Path, id="Path"),
        pytest.param(lambda path: onnx.load(str(path)), id="ModelProto"),
        pytest.param(ir.load, id="ir.Model"),
        pytest.param(lambda path: path.read_bytes(), id="bytes"),
    ],
)
def test_every_form(file, opened):
    compiled = quickly(opened(file), {"x": X})
    for found in (compiled(X), compiled(x=X), compiled({"x": X})):
        assert close(found, net()(X))
    assert close(torch.from_numpy(compiled(X.numpy())), net()(X))


def test_an_exported_program():
    program = torch.export.export(net(), (X,))
    assert close(quickly(program)(X), net()(X))
    assert close(quickly(program, X)(X), net()(X))


def test_the_model_given_is_left_alone(file):
    model = ir.load(file)
    before = ir.to_proto(model).SerializeToString()
    quickly(model)
    assert ir.to_proto(model).SerializeToString() == before


def test_examples_are_made_where_there_are_none():
    model = onnx_model(RELU, {"x": ["batch", 8]}, {"y": ["batch", 8]})
    compiled = quickly(model)
    assert "on 3 input sets" in compiled.report.verified
    assert torch.equal(compiled(X), X.relu())


def test_an_initializer_that_can_be_overridden_keeps_its_value():
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    model = onnx_model(nodes, {"x": ["n", 8], "w": [8, 8]}, {"y": ["n", 8]}, {"w": WEIGHT})
    compiled = quickly(model)
    assert compiled.signature.inputs == ["x"]
    assert close(compiled(X), X @ torch.from_numpy(WEIGHT))
    with pytest.raises(InvalidInput, match="expected inputs x; got 2 positional"):
        compiled(X, torch.ones(8, 8))


def test_local_functions_are_inlined():
    body = [helper.make_node("Relu", ["a"], ["t"]), helper.make_node("Add", ["t", "t"], ["b"])]
    twice = helper.make_function("own", "Twice", ["a"], ["b"], body, [helper.make_opsetid("", 20)])
    model = onnx_model(
        [helper.make_node("Twice", ["x"], ["y"], domain="own")],
        {"x": ["n", 8]},
        {"y": ["n", 8]},
        functions=[twice],
        opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("own", 1)],
    )
    assert torch.equal(quickly(model)(X), 2 * X.relu())


def test_a_rank_that_is_unknown_needs_examples():
    model = onnx_model(RELU, {"x": None}, {"y": None})
    assert torch.equal(quickly(model, X)(X), X.relu())
    with pytest.raises(InvalidInput, match="input 'x' has no shape or type: give example_inputs"):
        quickly(model)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (helper.make_tensor_value_info("x", TensorProto.STRING, ["n"]), "STRING"),
        (helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, ["n"]), r"Sequence\("),
    ],
)
def test_inputs_that_are_no_tensors_of_numbers(value, kind):
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "odd", [value], [value])
    graph.output[0].name = "y"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    for function in (quickly, passel.optimize):
        with pytest.raises(InvalidModel, match=f"odd: input 'x' is {kind}.*tensor of numbers"):
            function(model)


def test_a_model_that_the_passes_make_unsupported_runs_as_it_is(monkeypatch):
    """As when a decomposed GELU in float64 became the operator, which has no such kernel."""
    nodes = [helper.make_node("Add", ["x", "x"], ["y"])]
    model = onnx_model(nodes, {"x": ["n", 8]}, {"y": ["n", 8]})

    def unsupported(*_: object, **__: object) -> None:
        raise passel.errors.UnsupportedModel("no kernel for Gelu")

    monkeypatch.setattr("passel.lower.select", unsupported)
    compiled = quickly(model)
    assert torch.equal(compiled(X), X + X)
    assert compiled.report.notes == ["left as it is: after the passes, no kernel for Gelu"]
    assert compiled.report.chosen == {"form": "as given"}
    assert compiled.report.verified == "nothing was changed"


def test_torch_cannot_run_onnx():
    model = onnx_model(RELU, {"x": ["n", 8]}, {"y": ["n", 8]})
    with pytest.raises(InvalidInput, match="backend: expected 'onnxruntime' or 'auto' for an ONNX"):
        quickly(model, backend="torch")
