"""Quantized activations: shared where they agree, above moves where those are free."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from passel.graph.ops import Dequantize, DynamicQuantize, Linear, Quantize
from passel.passes import Canonicalize, FoldConstants
from passel.passes.driver import run_passes
from passel.passes.quantization.activations import (
    moves_above,
    quantize_dynamic,
    quantize_result,
    quantize_static,
)
from passel.passes.quantization.grid import Grid
from tests.conftest import relative_error
from tests.passes.quantization.fake import dynamic, uint8

U8 = Grid("uint8", symmetric=False)
X = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0))


class Two(nn.Module):
    """Products of x and of x, moved."""

    def __init__(self, move) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.move = move
        self.a, self.b = nn.Linear(8, 4, bias=False), nn.Linear(8, 4, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = torch.sin(x)
        moved = self.move(x)
        return self.a(x), self.b(moved)


def lifted(view, move=lambda x: x):
    model = Two(move)
    graph, run = view.lift(model, (X,), opset=23)
    run_passes(graph, [FoldConstants(), Canonicalize()])
    return model, graph, run, list(graph.walk(Linear))


def test_the_same_scale_is_shared(view):
    model, graph, run, (a, b) = lifted(view)
    for op in (a, b):
        quantize_static(graph, op, U8, -1.0, 0.5)
    assert len(list(graph.walk(Quantize))) == len(list(graph.walk(Dequantize))) == 1
    seen = uint8(torch.sin(X), -1.0, 0.5)[0]
    expected = [F.linear(seen, each.weight).detach().numpy() for each in (model.a, model.b)]
    assert relative_error(expected, run()) < 1e-6


def test_another_scale_is_not(view):
    model, graph, run, (a, b) = lifted(view)
    quantize_static(graph, a, U8, -1.0, 0.5)
    quantize_static(graph, b, U8, -0.2, 0.1)
    assert len(list(graph.walk(Quantize))) == 2
    x = torch.sin(X)
    spans = ((model.a, -1.0, 0.5), (model.b, -0.2, 0.1))  # the same zero point
    expected = [
        F.linear(uint8(x, low, high)[0], each.weight).detach().numpy() for each, low, high in spans
    ]
    assert relative_error(expected, run()) < 1e-6


def test_static_and_dynamic_side_by_side(view):
    model, graph, run, (a, b) = lifted(view)
    quantize_static(graph, a, U8, -1.0, 1.0)
    quantize_dynamic(graph, b)
    x = torch.sin(X)
    expected = [
        F.linear(uint8(x, -1.0, 1.0)[0], model.a.weight).detach().numpy(),
        F.linear(dynamic(x), model.b.weight).detach().numpy(),
    ]
    assert relative_error(expected, run()) < 1e-6


def test_a_dynamic_quantize_is_shared(view):
    _, graph, _, (a, b) = lifted(view)
    quantize_dynamic(graph, a)
    quantize_dynamic(graph, b)
    assert len(list(graph.walk(DynamicQuantize))) == len(list(graph.walk(Dequantize))) == 1


MOVES = {
    "transpose": lambda x: x.reshape(2, 6, 4, 2).transpose(2, 3).reshape(2, 6, 8),
    "slice": lambda x: x[:, 1:3],
}


@pytest.mark.parametrize("case", MOVES)
def test_moves_carry_codes(view, case):
    """Both products share the codes of x, from above the moves."""
    model, graph, run, (a, b) = lifted(view, MOVES[case])
    assert moves_above(graph, b)
    for op in (a, b):
        quantize_static(graph, op, U8, -1.0, 0.5)
    assert len(list(graph.walk(Quantize))) == 1
    seen = uint8(torch.sin(X), -1.0, 0.5)[0]
    expected = [
        F.linear(seen, model.a.weight).detach().numpy(),
        F.linear(MOVES[case](seen), model.b.weight).detach().numpy(),
    ]
    assert relative_error(expected, run()) < 1e-6


def test_a_move_that_another_op_reads_is_no_way_up(view):
    class Read(Two):
        def forward(self, x):
            moved = torch.sin(x).transpose(0, 1)
            return self.a(moved), moved + 1

    model = Read(None)
    graph, run = view.lift(model, (X,), opset=23)
    run_passes(graph, [FoldConstants(), Canonicalize()])
    (op,) = graph.walk(Linear)
    assert moves_above(graph, op) == []
    quantize_static(graph, op, U8, -1.0, 0.5)
    moved = torch.sin(X).transpose(0, 1)
    expected = [F.linear(uint8(moved, -1.0, 0.5)[0], model.a.weight).detach().numpy()]
    assert relative_error([*expected, (moved + 1).numpy()], run()) < 1e-6


def test_eight_bit_floats_do_not_move(view):
    """No runtime slices or transposes them."""
    _, graph, _, (_, b) = lifted(view, MOVES["slice"])
    quantize_static(graph, b, Grid("float8_e4m3fn"), -1.0, 1.0)
    moved = [op for op in graph.ops if op.kind == "Slice"]
    assert moved
    assert all(op.output.dtype == np.float32 for op in moved)


def test_the_result_of_an_op_is_quantized_for_all_that_read_it(view):
    """And a reader that wants the same codes takes those."""
    model, graph, run, (a, b) = lifted(view)
    quantize_result(graph, a.x, U8, -1.0, 0.5)
    quantize_static(graph, b, U8, -1.0, 0.5)
    assert len(list(graph.walk(Quantize))) == len(list(graph.walk(Dequantize))) == 1
    seen = uint8(torch.sin(X), -1.0, 0.5)[0]
    expected = [F.linear(seen, each.weight).detach().numpy() for each in (model.a, model.b)]
    assert relative_error(expected, run()) < 1e-6


def test_a_graph_input_is_quantized_first(view):
    model = nn.Linear(8, 4, bias=False)
    graph, run = view.lift(model, (X,), opset=23)
    run_passes(graph, [FoldConstants(), Canonicalize()])
    (op,) = graph.walk(Linear)
    quantize_static(graph, op, U8, -2.0, 2.0)
    expected = F.linear(uint8(X, -2.0, 2.0)[0], model.weight).detach().numpy()
    assert relative_error([expected], run()) < 1e-6


def test_scales_are_numbers_of_the_model(view):
    """A range too small for float16 does not make a scale of 0."""
    model, x = nn.Linear(8, 4).half(), X.half()
    graph, run = view.lift(model, (x,), opset=23)
    run_passes(graph, [FoldConstants(), Canonicalize()])
    (op,) = graph.walk(Linear)
    quantize_static(graph, op, U8, -1e-9, 1e-9)
    (made,) = graph.walk(Quantize)
    assert float(made.scale.array()) > 0
    assert np.isfinite(run()[0]).all()
