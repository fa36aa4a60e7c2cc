"""Placement by measurement: the fastest form of each shape."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from passel.graph.ops import Linear
from passel.passes.quantization.candidates import Needs
from passel.passes.quantization.measured import fastest, measured_placement, shapes_of
from passel.passes.quantization.schemes import SCHEMES
from tests.conftest import View


class MLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down, self.tiny = nn.Linear(128, 256), nn.Linear(256, 128), nn.Linear(128, 2)

    def forward(self, x):
        return self.tiny(self.down(F.gelu(self.up(x))))


@pytest.fixture
def graph():
    return View("fx").lift(MLP(), (torch.zeros(3, 5, 128),))[0]


NEEDS = Needs(("Linear",), ())


def test_shapes(graph):
    up, down, _ = graph.walk(Linear)
    found = shapes_of(graph, SCHEMES["int8"], NEEDS, "auto")
    assert found == {up: (15, 128, 256), down: (15, 256, 128)}


def test_what_the_caller_placed_is_not_measured(graph):
    up, down, _ = graph.walk(Linear)
    assert list(shapes_of(graph, SCHEMES["int8"], NEEDS, ((up.name, "static"),))) == [down]


def test_a_dynamic_batch_counts_as_one():
    shapes = ({0: torch.export.Dim("batch", min=2, max=9)},)
    graph, _ = View("fx").lift(MLP(), (torch.zeros(3, 5, 128),), dynamic_shapes=shapes)
    found = shapes_of(graph, SCHEMES["int8"], NEEDS, "auto")
    assert sorted(set(found.values())) == [(5, 128, 256), (5, 256, 128)]


TIMES = [
    # scheme, float, static, dynamic, of the first product, of the one behind gelu
    ("int8", 3.0, 1.0, 2.0, "static", "static"),
    ("int8", 1.0, 1.1, 0.5, "float", "float"),
    ("int8-dynamic", 3.0, 1.0, 2.0, "dynamic", "dynamic"),
    ("int8-dynamic", 1.0, 0.5, 1.1, "float", "float"),
    ("int8-mixed", 3.0, 1.0, 2.0, "static", "dynamic"),
    ("int8-mixed", 3.0, 1.0, 1.01, "dynamic", "dynamic"),  # 1 % is not worth the accuracy
    ("int8-mixed", 0.5, 1.0, 2.0, "float", "float"),
    ("int8-mixed", 1.5, 1.0, 2.0, "static", "float"),
]


@pytest.mark.parametrize(("scheme", "plain", "static", "dynamic", "first", "second"), TIMES)
def test_fastest(graph, scheme, plain, static, dynamic, first, second):
    times = {"float": plain, "static": static, "dynamic": dynamic}
    up, down, _ = graph.walk(Linear)
    assert fastest(up, SCHEMES[scheme], times) == first
    assert fastest(down, SCHEMES[scheme], times) == second


def test_placement_by_shape(graph):
    up, down, _ = graph.walk(Linear)
    shapes = shapes_of(graph, SCHEMES["int8"], NEEDS, "auto")
    quick, slow = {"float": 2.0, "static": 1.0}, {"float": 1.0, "static": 2.0}
    times = [(shapes[up], quick), (shapes[down], slow)]
    found = measured_placement(shapes, SCHEMES["int8"], times)
    assert found == ((up.name, "static"), (down.name, "float"))
