"""Attention masks that ONNX broadcasts over queries or keys, and ONNX Runtime does not."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

import passel
from passel.backends.onnxruntime import Session
from passel.capture import export_program, to_onnx
from passel.errors import InvalidModel
from passel.graph.onnx import lift
from passel.models import DIGITS, MoDViT, Routing, randomize, vit_inputs

SMALL = replace(DIGITS, dim=16, depth=2, heads=2)
QKV = tuple(torch.randn(2, 4, 5, 8, generator=torch.Generator().manual_seed(k)) for k in range(3))


class Given(nn.Module):
    """Attention with a mask that the caller gives."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(q, k, v, mask)


def attention_of(mask: Tensor) -> ir.Model:
    """A lone Attention, as the standard has it."""
    tensors = [tensor.numpy() for tensor in (*QKV, mask)]
    inputs = [
        ir.Value(
            name=name, shape=ir.Shape(t.shape), type=ir.TensorType(ir.DataType.from_numpy(t.dtype))
        )
        for name, t in zip("qkvm", tensors, strict=True)
    ]
    node = ir.node("Attention", inputs, name="attention")
    result = node.outputs[0]
    result.name, result.type, result.shape = "y", inputs[0].type, inputs[0].shape
    graph = ir.Graph(inputs, [result], nodes=[node], opset_imports={"": 23}, name="g")
    return ir.Model(graph, ir_version=10)


@pytest.mark.parametrize("kind", ["bool", "float"])
@pytest.mark.parametrize(
    "shape", [(5,), (1, 5), (4, 1, 5), (2, 1, 1, 5), (2, 4, 1, 5), (2, 1, 5, 1)]
)
def test_a_narrow_mask_runs_once_it_was_lifted(shape: tuple[int, ...], kind: str) -> None:
    mask = torch.randn(shape, generator=torch.Generator().manual_seed(9))
    mask = mask > -1 if kind == "bool" else mask
    mask[..., 0] = True if kind == "bool" else 0.0
    arrays = [tensor.numpy() for tensor in (*QKV, mask)]
    model = attention_of(mask)
    with pytest.raises(InvalidModel):  # if this runs, ONNX Runtime has learned it: drop the detour
        Session(model).run_arrays(arrays)
    graph = lift(model)
    (found,) = Session(graph.binding.lower(graph)).run_arrays(arrays)
    expected = Given()(*QKV, mask.expand(torch.broadcast_shapes(mask.shape, (5, 5)))).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(graph.run(arrays)[0], expected, atol=1e-6)


@pytest.mark.parametrize("shape", [(5, 5), (2, 1, 5, 5)])
def test_a_full_mask_is_copied(shape: tuple[int, ...]) -> None:
    graph = lift(attention_of(torch.randn(shape)))
    assert [node.op_type for node in graph.binding.lower(graph).graph] == ["Attention"]


@pytest.mark.parametrize("form", ["where", "mul"])
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_a_mask_of_one_row_per_image_compiles_without_passes(form: str, dynamic: bool) -> None:
    model = randomize(MoDViT(SMALL, Routing(0.5, mask_form=form))).eval()
    inputs = vit_inputs(SMALL, 3)
    shapes = {"images": {0: "batch"}} if dynamic else None
    with torch.no_grad():
        expected = model(*inputs)
    exported = to_onnx(export_program(model, (inputs, {}), shapes, "vit"), 23)
    attentions = [node for node in exported.graph if node.op_type == "Attention"]
    assert any(len(node.inputs) > 3 and node.inputs[3].shape[2] == 1 for node in attentions)
    compiled = passel.compile(
        model, inputs, passes="none", backend="onnxruntime", dynamic_shapes=shapes
    )
    torch.testing.assert_close(compiled(*inputs), expected, rtol=0, atol=1e-5)
