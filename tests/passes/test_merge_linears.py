"""merge-linears: sibling products become one, split back, unless a weight is not theirs alone."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from passel.graph import Graph, ops
from passel.models import ViT, ViTConfig, vit_inputs
from passel.passes import Canonicalize, EliminateDeadCode, MergeLinears
from passel.passes.merge_linears import joined_biases, joined_weights

X = (torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0)),)
MERGE = (Canonicalize(), MergeLinears())


class Net(nn.Module):
    def __init__(self, rule, bias=True):
        super().__init__()
        self.q, self.k = nn.Linear(8, 4, bias=bias), nn.Linear(8, 6)
        self.v = nn.Linear(8, 2, bias=False)
        self.rule = rule

    def forward(self, x):
        return self.rule(self, x)


def test_three_siblings(view):
    outcome = view.apply(Net(lambda m, x: (m.q(x), m.k(x).exp(), m.v(x))), X, *MERGE)
    assert outcome.after == {"Linear": 1, "Split": 1, "exp": 1}


def test_siblings_without_biases_get_none(view):
    model = Net(lambda m, x: (m.q(y := torch.exp(x)), m.v(y)), bias=False)
    outcome = view.apply(model, X, *MERGE)
    assert next(outcome.graph.walk(ops.Linear)).bias is None


def test_vit_with_separate_projections(view):
    config = ViTConfig(
        image_size=8, patch_size=4, channels=1, dim=8, depth=2, heads=2, classes=3, fused_qkv=False
    )
    outcome = view.apply(ViT(config), vit_inputs(config, batch=2), *MERGE, opset=23)
    assert outcome.count("Split") == config.depth
    assert outcome.count("Linear") == 4 * config.depth + 1


def test_dynamic_batch(view):
    model = Net(lambda m, x: (m.q(x), m.k(x)))
    outcome = view.apply(model, X, *MERGE, dynamic_shapes=({0: "batch"},))
    assert outcome.count("Linear") == 1


def test_a_lone_linear_and_one_that_reads_twice(view):
    outcome = view.apply(Net(lambda m, x: m.q(x)), X, *MERGE)
    assert outcome.reports[-1].applied == []
    assert outcome.count("Linear") == 1


REFUSED = {
    "the weight has another reader": lambda m, x: (m.q(x), m.q(x) * 2, m.k(x)),
    "the weight is computed at run time": lambda m, x: (
        F.linear(x, m.q.weight * x[0, 0, 0]),
        m.k(x),
    ),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_refuses(fx_view, reason):
    outcome = fx_view.apply(Net(REFUSED[reason]), X, MergeLinears())
    assert outcome.refused(reason)
    assert outcome.after == outcome.before


PINNED = """
    <ir_version: 9, opset_import: ["" : 18]>
    agraph (float[2,3] x, bool c) => (float[2,2] y, float[2,2] z)
    <float[3,2] w = {1, 2, 3, 4, 5, 6}, float[3,2] u = {6, 5, 4, 3, 2, 1}>
    {
        y = Gemm(x, w)
        v = Gemm(x, u)
        z = If (c) <
            then_branch = g1 () => (float[2,2] t) { t = Identity(v) },
            else_branch = g2 () => (float[2,2] e) { e = Neg(v) }
        >
    }"""


def test_refuses_what_a_control_flow_body_reads(onnx_text, run_on):
    graph, run = onnx_text(PINNED, np.ones((2, 3), np.float32), np.array(False))
    outcome = run_on(graph, run, MergeLinears())
    assert outcome.refused("a control-flow body reads the value")
    assert outcome.after == outcome.before


def siblings(*parts):
    """Linears over one value of a graph, from (weight, layout, bias)."""
    graph = Graph(binding=None)
    x = graph.constant(np.zeros((2, 3), np.float32), "x")
    x.constant = None
    graph.inputs.append(x)
    made = []
    for weight, layout, bias in parts:
        operands = [x, graph.constant(weight, "w")]
        operands += [] if bias is None else [graph.constant(bias, "b")]
        made.append(ops.Linear(inputs=operands, layout=layout))
        graph.add(made[-1], ((2, 2), weight.dtype))
    return graph, tuple(made)


def test_refuses_weights_of_different_types_and_unknown_shapes():
    from passel.passes.driver import run_pass

    half, single = np.ones((2, 3), np.float16), np.ones((2, 3), np.float32)
    graph, made = siblings((half, "oi", None), (single, "oi", None))
    graph.outputs += [op.output for op in made]
    assert run_pass(graph, MergeLinears()).reasons == {"the weights have different types": 1}
    graph, made = siblings((single, "oi", None), (single, "oi", None))
    graph.outputs += [op.output for op in made]
    made[1].output.shape = None
    assert run_pass(graph, MergeLinears()).reasons == {"a shape is unknown": 1}


@given(st.lists(st.tuples(st.integers(1, 4), st.booleans(), st.booleans()), min_size=2, max_size=4))
def test_joined_parameters_are_those_of_each(parts):
    rng = np.random.default_rng(0)
    given = []
    for rows, flipped, biased in parts:
        weight = rng.normal(size=(3, rows) if flipped else (rows, 3))
        given.append((weight, "io" if flipped else "oi", rng.normal(size=rows) if biased else None))
    _, made = siblings(*given)
    x = rng.normal(size=(5, 3))
    separate = [
        x @ (w if layout == "io" else w.T) + (0 if b is None else b) for w, layout, b in given
    ]
    joined = x @ joined_weights(made) + joined_biases(made)
    np.testing.assert_allclose(joined, np.concatenate(separate, 1), atol=1e-12)


def test_golden(fx_view, golden):
    model = Net(lambda m, x: (m.q(x), m.k(x), m.v(x)))
    outcome = fx_view.apply(model, X, *MERGE, EliminateDeadCode(), dtype=torch.float32)
    golden("merge_linears/three.after", outcome.graph)
