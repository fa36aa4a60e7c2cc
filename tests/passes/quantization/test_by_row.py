"""Codes at a scale for each row: what they are in both views, and how they are recognised."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import passel
from passel.graph import fx
from passel.graph import onnx as onnx_view
from passel.graph import ops as o
from passel.passes import Quantize
from passel.passes.driver import run_passes
from passel.passes.quantization.activations import quantize_dynamic
from passel.passes.quantization.by_row import row_codes
from passel.passes.quantization.place import BY_ROW, Form, kernel_notes
from passel.passes.quantization.schemes import SCHEMES
from tests.backends.tvm.emission import VIEWS, graph_of

SCHEME = "int8-per-token"
RNG = np.random.default_rng(0)


class Twice(nn.Module):
    """Two linears that read one tensor, and one that reads what they make."""

    def __init__(self, width=24):
        super().__init__()
        self.left, self.right = nn.Linear(width, 40), nn.Linear(width, 40)
        self.down = nn.Linear(40, width)

    def forward(self, x):
        return self.down(torch.relu(self.left(x)) * self.right(x))


def made(view, shape=(2, 5, 24), width=24):
    torch.manual_seed(0)
    return graph_of(Twice(width).eval(), (torch.zeros(shape),), view, opset=21)


def rows(shape):
    """Rows of very different sizes; one of them 0."""
    x = RNG.standard_normal(shape).astype(np.float32)
    x *= np.float32(10.0) ** RNG.integers(-3, 3, (*shape[:-1], 1)).astype(np.float32)
    x.reshape(-1, shape[-1])[-1] = 0
    return x


def round_trip(x):
    """x by its codes, in float64."""
    x = np.asarray(x, np.float64)
    low = np.minimum(x.min(-1, keepdims=True), 0)
    high = np.maximum(x.max(-1, keepdims=True), 0)
    scale = np.where(high == low, 1, high - low) / 255
    zero = np.clip(np.rint(-low / scale), 0, 255)
    return (np.clip(np.rint(x / scale) + zero, 0, 255) - zero) * scale, scale


@pytest.mark.parametrize("view", VIEWS)
@given(
    lead=st.lists(st.integers(1, 4), min_size=1, max_size=3), width=st.sampled_from([1, 3, 16, 24])
)
def test_rows_are_off_by_half_a_step_of_their_own(view, lead, width):
    shape = (*lead, width)
    torch.manual_seed(0)
    graph = graph_of(nn.Linear(width, 3, bias=False), (torch.zeros(shape),), view, opset=21)
    (linear,) = graph.walk(o.Linear)
    quantize_dynamic(graph, linear, by_row=True)
    x = rows(shape)
    expected, scale = round_trip(x)
    weight = linear.weight.array().astype(np.float64)
    weight = weight if linear.layout == "oi" else weight.T
    (found,) = graph.run([x])
    # A code on the edge between two may fall on either side.
    slack = 1.01 * scale * np.abs(weight).sum(1)
    assert np.all(np.abs(found - x.astype(np.float64) @ weight.T) <= slack / 2 + 1e-6)
    assert np.all(np.abs(found - expected @ weight.T) <= slack + 1e-6)
    again = lifted_again(graph, view)
    assert np.allclose(again.run([x])[0], found, rtol=1e-5, atol=1e-6)


def lifted_again(graph, view):
    """What the program says once it is written and read."""
    program = graph.binding.lower(graph)
    return fx.lift(program) if view == "fx" else onnx_view.lift(program)


@pytest.mark.parametrize("view", VIEWS)
def test_codes_are_made_once_and_recognised_in_what_is_written(view):
    graph = made(view)
    run_passes(graph, [Quantize(SCHEME, placement="all")])
    for one in (graph, lifted_again(graph, view)):
        found = [codes for op in one.walk(o.Quantize) if (codes := row_codes(op)) is not None]
        assert len(found) == 2
        assert {len(codes.reads) for codes in found} == {3}
        assert {op.scale.shape for op in one.walk(o.Quantize)} == {(2, 5, 1)}
    (report,) = run_passes(made(view), [Quantize(SCHEME, placement="all")])
    assert len(report.applied) == 3


@pytest.mark.parametrize("view", VIEWS)
def test_other_arithmetic_is_not_taken_for_it(view):
    def spoil(op, **changes):
        graph.update(op, **changes)
        return [row_codes(one) for one in graph.walk(o.Quantize)]

    for kind, changes in (
        (lambda op: isinstance(op, o.Reduce) and op.fn == "min", {"fn": "max"}),
        (lambda op: isinstance(op, o.Elementwise) and op.fn == "sub", {"fn": "add"}),
        (lambda op: isinstance(op, o.Elementwise) and op.fn == "neg", {"fn": "abs"}),
        (lambda op: isinstance(op, o.Elementwise) and op.fn == "where", {"fn": "add"}),
    ):
        graph = made(view)
        (linear, *_) = graph.walk(o.Linear)
        quantize_dynamic(graph, linear, by_row=True)
        assert [r is not None for r in map(row_codes, graph.walk(o.Quantize))] == [False, True]
        op = next(op for op in graph.ops if kind(op))
        assert spoil(op, **changes) == [None, None]


def test_an_outlier_costs_its_own_token_only():
    """Per tensor it takes precision from all tokens."""
    model = Twice().eval()
    x = torch.from_numpy(RNG.standard_normal((1, 16, 24)).astype(np.float32))
    x[0, 3, 7] = 500.0
    with torch.no_grad():
        expected = model(x)
    errors = {}
    for scheme in (SCHEME, "int8-dynamic"):
        asked = ["default", Quantize(scheme, placement="all")]
        found = passel.compile(model, (x,), passes=asked, measure=False)(x)
        keep = [t for t in range(16) if t != 3]
        errors[scheme] = float((found - expected)[0, keep].norm() / expected[0, keep].norm())
    assert errors[SCHEME] < 0.02 < 0.2 < errors["int8-dynamic"]


def test_float16_rows_get_float32_scales():
    torch.manual_seed(0)
    graph = graph_of(
        Twice().half().eval(), (torch.zeros((2, 5, 24), dtype=torch.half),), "onnx", opset=21
    )
    (linear, *_) = graph.walk(o.Linear)
    quantize_dynamic(graph, linear, by_row=True)
    scales = {op.scale.dtype for op in graph.walk(o.Quantize)}
    assert scales == {np.dtype(np.float32)}


def test_the_report_says_where_there_is_no_kernel():
    scheme = SCHEMES[SCHEME]
    graph = made("fx")
    form = Form(scheme.weight, scheme.activation, dynamic=True, by_row=True)
    assert kernel_notes(next(graph.walk(o.Linear)), form) == (BY_ROW,)
    assert str(form) == "uint8 by row × int8 per channel"
    assert scheme.opset == 21
