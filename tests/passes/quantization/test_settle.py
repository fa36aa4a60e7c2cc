"""What a quantize takes from its caller: examples for data, measured times for a placement."""

import numpy as np
import pytest
import torch
from torch import nn

from passel.graph.ops import Linear
from passel.passes import Quantize
from passel.passes.base import Context
from passel.passes.driver import run_pass
from passel.passes.quantization.calibration.data import Samples
from passel.passes.quantization.settle import EXAMPLES_ONLY
from tests.conftest import View

X = np.random.default_rng(0).standard_normal((4, 256)).astype(np.float32)


@pytest.fixture
def graph():
    torch.manual_seed(0)
    return View("fx").lift(nn.Linear(256, 64), (torch.from_numpy(X),))[0]


def test_examples_are_data_where_data_is_needed(graph):
    context = Context(examples=[[X]])
    settled = Quantize("int8").settled(graph, context)
    assert isinstance(settled.calibration, Samples)
    assert EXAMPLES_ONLY in context.notes
    assert run_pass(graph, settled).applied


@pytest.mark.parametrize("asked", [Quantize("int8-dynamic"), Quantize("w4"), Quantize("binary")])
def test_and_nowhere_else(graph, asked):
    context = Context(examples=[[X]])
    assert asked.settled(graph, context) == asked
    assert not context.notes


@pytest.mark.parametrize(
    "asked",
    [
        Quantize("w4", weights="gptq"),
        Quantize("w4", weights="awq+mse"),
        Quantize("w4", budget="snr>=20"),
        Quantize("w4", sensitivity=True),
    ],
)
def test_what_else_needs_data(asked):
    assert asked.needs_data


def test_data_is_opened_once(graph):
    """A generator can be read once only, and verification wants to see it too."""
    context, source = Context(), [[X], [X + 1]]
    asked = Quantize("int8", calibration=iter(source))
    settled = asked.settled(graph, context)
    assert asked.settled(graph, context).calibration is settled.calibration
    (kept,) = context.data.values()
    assert len(list(kept)) == len(list(kept)) == 2
    assert EXAMPLES_ONLY not in context.notes


def test_times_decide(graph):
    seen = []

    def times(shapes):
        seen.extend(shapes)
        return [{"float": 1.0, "static": 0.5, "dynamic": 2.0} for _ in shapes]

    (op,) = graph.walk(Linear)
    context = Context(examples=[[X]], time_products=times)
    for scheme, form in (("int8", "static"), ("int8-dynamic", "float"), ("int8-mixed", "static")):
        assert Quantize(scheme).settled(graph, context).placement == ((op.name, form),)
    assert seen == [(4, 256, 64)] * 3


@pytest.mark.parametrize(
    "asked", [Quantize("int8-dynamic", placement="all"), Quantize("w4"), Quantize("w4a8")]
)
def test_what_is_not_measured(graph, asked):
    def times(shapes):
        raise AssertionError("nothing is to be measured")

    assert asked.settled(graph, Context(time_products=times)).placement == asked.placement


def test_the_callers_pairs_come_first(graph):
    context = Context(time_products=lambda shapes: [{"float": 1.0, "dynamic": 0.1}] * len(shapes))
    asked = Quantize("int8-dynamic", placement=(("Linear", "float"),))
    report = run_pass(graph, asked.settled(graph, context))
    assert report.reasons == {"placed in float": 1}


def test_a_quantized_model_is_left_alone(graph):
    run_pass(graph, Quantize("int8-dynamic"))
    asked = Quantize("int8")
    assert asked.settled(graph, Context()) is asked
