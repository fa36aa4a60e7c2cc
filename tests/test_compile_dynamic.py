"""Dynamic shapes: other sizes than the example's are right, and verification tries some."""

import pytest
import torch
from onnx import helper
from torch import Tensor, nn

import passel
from passel.capture import capture
from passel.errors import InvalidInput
from passel.models import GPT, GPT_TINY, gpt_inputs
from passel.samples import other_sizes, random_like
from tests.api import close, example, net, onnx_model, quickly


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    "shapes",
    [
        pytest.param({"x": {0: "batch"}}, id="name"),
        pytest.param(({0: torch.export.Dim("batch", max=9)},), id="Dim"),
        pytest.param({"x": (torch.export.Dim.DYNAMIC, None)}, id="DYNAMIC"),
    ],
)
def test_a_dynamic_batch(shapes, batch):
    compiled = quickly(net(), example(batch), dynamic_shapes=shapes)
    for other in (1, 2, 3, 7):
        assert close(compiled(example(other)), net()(example(other)))
    assert compiled(torch.zeros(0, 8)).shape == (0, 4)


def test_batch_and_sequence_of_a_decoder():
    model = GPT(GPT_TINY).eval()
    given = gpt_inputs(GPT_TINY, batch=1, tokens=5)
    compiled = quickly(model, given, dynamic_shapes={"ids": {0: "batch", 1: "tokens"}})
    for batch, tokens in ((1, 5), (3, 9), (2, 1)):
        ids = gpt_inputs(GPT_TINY, batch=batch, tokens=tokens)
        assert close(compiled(*ids), model(*ids))


def test_equal_names_are_one_size():
    class Both(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x + y

    model, x = Both().eval(), example(1)
    shapes = {"x": {0: "batch"}, "y": {0: "batch"}}
    compiled = quickly(model, (x, x), dynamic_shapes=shapes)
    assert close(compiled(example(4), y=example(4, 1)), model(example(4), example(4, 1)))
    with pytest.raises(InvalidInput, match=r"input 'y': expected batch = 4 as in 'x', got 3"):
        compiled(example(4), example(3))


def test_dynamic_shapes_in_keyword_inputs_and_nesting():
    class Nested(nn.Module):
        def forward(self, parts: list[Tensor], *, more: dict[str, Tensor]) -> Tensor:
            return parts[0] + parts[1] * more["z"]

    x = example(1)
    shapes = {"parts": [{0: "b"}, {0: "b"}], "more": {"z": {0: "b"}}}
    inputs = {"parts": [x, x], "more": {"z": x}}
    compiled = quickly(Nested().eval(), inputs, dynamic_shapes=shapes)
    y = example(4)
    assert close(compiled([y, y + 1], more={"z": y}), y + (y + 1) * y)


def test_verification_tries_other_sizes():
    captured = capture(net(), example(3), {"x": {0: "batch"}})
    assert other_sizes(captured.program, captured.inputs) == [[4, 8]]
    at_the_end = capture(net(), example(3), ({0: torch.export.Dim("batch", max=3)},))
    assert other_sizes(at_the_end.program, at_the_end.inputs) == [[2, 8]]
    assert other_sizes(capture(net(), example(3)).program, [example(3)]) is None
    assert random_like([example(3)], 1, [[4, 8]])[0].shape == (4, 8)


def test_a_size_that_the_original_refuses_is_left_out_with_a_note():
    """A reshape to a fixed size, behind an input that is called dynamic."""
    model = onnx_model(
        [helper.make_node("Reshape", ["x", "shape"], ["y"])],
        {"x": ["batch", 4]},
        {"y": [2, 4]},
    )
    model.graph.initializer.append(helper.make_tensor("shape", 7, [2], [2, 4]))
    compiled = quickly(model, torch.ones(2, 4))
    assert "on 2 input sets (examples, seed 1)" in compiled.report.verified
    assert "verified without inputs of other sizes: the original fails" in compiled.report.notes[-1]


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"y": {0: "batch"}}, "dynamic_shapes: Net does not fit them: .*must be the arg names"),
        ({"x": {1: "width"}}, r"specialized it to be a constant \(8\)"),
        ({"x": {0: "my batch"}}, "dynamic_shapes: expected a name like 'batch', got 'my batch'"),
    ],
)
def test_shapes_that_do_not_fit(shapes, message):
    with pytest.raises(InvalidInput, match=f"(?s){message}"):
        quickly(net(), example(), dynamic_shapes=shapes)


def test_shapes_for_a_model_that_has_its_own():
    program = capture(net(), example()).program
    with pytest.raises(InvalidInput, match="dynamic_shapes: expected None for a ExportedProgram"):
        passel.optimize(program, dynamic_shapes={"x": {0: "batch"}})
