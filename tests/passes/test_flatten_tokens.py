"""flatten-tokens: token-wise regions run on matrices, and give the old shapes to whoever asks."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from passel.graph import ops
from passel.models import ViT, ViTConfig, vit_inputs
from passel.passes import Canonicalize, FlattenTokens
from passel.passes.flatten_tokens import flat_shape

X = (torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0)),)
FLAT = (Canonicalize(), FlattenTokens(), Canonicalize())


class Net(nn.Module):
    def __init__(self, rule):
        super().__init__()
        self.f, self.g, self.norm = nn.Linear(8, 8), nn.Linear(8, 8), nn.LayerNorm(8)
        self.rule = rule

    def forward(self, x):
        return self.rule(self, x)


def ranks(graph):
    kinds = (ops.Linear, ops.Norm)
    return {len(op.output.shape) for op in graph.ops if isinstance(op, kinds)}


def test_a_block(view):
    outcome = view.apply(Net(lambda m, x: x + m.g(torch.relu(m.f(m.norm(x))))), X, *FLAT, opset=23)
    assert ranks(outcome.graph) == {2}
    assert outcome.count("Reshape") == 2


@pytest.mark.parametrize("fused", [True, False])
def test_vit(view, fused):
    config = ViTConfig(
        image_size=8, patch_size=4, channels=1, dim=8, depth=2, heads=2, classes=3, fused_qkv=fused
    )
    outcome = view.apply(ViT(config), vit_inputs(config, batch=2), *FLAT, opset=23)
    assert ranks(outcome.graph) == {2}


def test_dynamic_batch(view):
    rule = Net(lambda m, x: x + m.g(torch.relu(m.f(x))))
    outcome = view.apply(rule, X, *FLAT, dynamic_shapes=({0: "batch"},))
    assert ranks(outcome.graph) == {2}
    assert outcome.graph.outputs[0].shape[1:] == (5, 8)


def test_two_dynamic_extents_are_left_alone(view):
    rule = Net(lambda m, x: x + m.g(torch.relu(m.f(x))))
    outcome = view.apply(rule, X, *FLAT, dynamic_shapes=({0: "batch", 1: "tokens"},))
    assert outcome.reports[1].applied == []


def test_readers_outside_get_the_old_shape(view):
    rule = Net(lambda m, x: (y := m.g(m.f(x)), torch.softmax(y, 1), y[:, 0]))
    outcome = view.apply(rule, X, *FLAT)
    assert ranks(outcome.graph) == {2}
    assert outcome.count("Softmax") == 1


def test_split_features(view):
    rule = Net(lambda m, x: torch.mul(*m.f(m.g(x)).split(4, dim=-1)))
    assert ranks(view.apply(rule, X, *FLAT).graph) == {2}


LEFT = {
    "one op alone": lambda m, x: torch.softmax(m.f(x), 1),
    "no product": lambda m, x: torch.exp(torch.tanh(x)),
    "matrices already": lambda m, x: m.f(m.g(x[0])),
    "a broadcast": lambda m, x: torch.softmax(m.f(x), 1) + x[:, :1],
}


@pytest.mark.parametrize("case", LEFT)
def test_left_alone(fx_view, case):
    outcome = fx_view.apply(Net(LEFT[case]), X, *FLAT)
    assert outcome.reports[1].applied == []


PINNED = """
    <ir_version: 9, opset_import: ["" : 18]>
    agraph (float[2,2,3] x, bool c) => (float[2,2,3] z)
    <float[3,3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9}>
    {
        p = MatMul(x, w)
        v = Relu(p)
        z = If (c) <
            then_branch = g1 () => (float[2,2,3] t) { t = Identity(v) },
            else_branch = g2 () => (float[2,2,3] e) { e = Neg(v) }
        >
    }"""


def test_refuses_what_a_control_flow_body_reads(onnx_text, run_on):
    graph, run = onnx_text(PINNED, np.ones((2, 2, 3), np.float32), np.array(False))
    outcome = run_on(graph, run, Canonicalize(), FlattenTokens())
    assert outcome.refused("a control-flow body reads the value")
    assert outcome.error == 0


@given(st.lists(st.integers(1, 5), min_size=2, max_size=5))
def test_flat_shape_keeps_the_elements(shape):
    assert np.prod(flat_shape(tuple(shape))) == np.prod(shape)
    assert flat_shape(tuple(shape))[-1] == shape[-1]


def test_flat_shape_of_a_symbolic_extent():
    assert flat_shape(("n", 5, 1, 8)) == ("n*5", 8)


def test_golden(fx_view, golden):
    rule = Net(lambda m, x: x + m.g(torch.relu(m.f(m.norm(x)))))
    golden("flatten_tokens/block.after", fx_view.apply(rule, X, *FLAT, dtype=torch.float32).graph)
