"""Which ops could be quantized."""

import numpy as np
import pytest
import torch
from torch import nn

from passel.graph.ops import Conv, Gather, Linear, MatMul
from passel.passes import Canonicalize, FoldConstants
from passel.passes.driver import run_passes
from passel.passes.patterns import Pattern
from passel.passes.quantization.candidates import (
    KINDS,
    Needs,
    candidates,
    is_quantized,
    matrix_of,
    structural_refusal,
    weight_of,
)
from passel.passes.quantize import Quantize


class All(nn.Module):
    """One op of each kind, and an index that is no embedding."""

    def __init__(self):
        super().__init__()
        self.table, self.conv = nn.Embedding(9, 8), nn.Conv1d(8, 8, 3, padding=1, groups=2)
        self.fc, self.up = nn.Linear(8, 6), nn.ConvTranspose1d(8, 8, 3)

    def forward(self, ids):
        x = self.table(ids)
        y = self.conv(x.transpose(1, 2))
        scores = self.fc(x) @ y[:, :6]
        return scores, self.up(y), x[:, 0]


IDS = torch.tensor([[1, 2, 3, 8]])


@pytest.fixture
def graph(view):
    graph, _ = view.lift(All(), (IDS,), opset=23)
    run_passes(graph, [FoldConstants(), Canonicalize()])
    return graph


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        (("Linear",), {Linear: 1, MatMul: 1}),
        (("Conv",), {Conv: 2}),
        (("Embedding",), {Gather: 1}),
        (tuple(KINDS), {Linear: 1, MatMul: 1, Conv: 2, Gather: 1}),
        ((), {}),
    ],
)
def test_kinds(graph, kinds, expected):
    found = list(candidates(graph, kinds))
    assert {kind: sum(isinstance(op, kind) for op in found) for kind in expected} == expected
    assert len(found) == sum(expected.values())


def test_matrices(graph):
    model = All()
    for kind, weight in ((Linear, model.fc), (Conv, model.conv), (Gather, model.table)):
        op = next(graph.walk(kind))
        rows = weight.weight.shape[0]
        assert matrix_of(op).shape == (rows, weight.weight.numel() // rows)


def test_a_matrix_has_rows_of_results(view):
    """Whatever the layout in which the IR holds it."""
    module = nn.Linear(5, 3)
    graph, _ = view.lift(module, (torch.zeros(2, 5),), opset=23)
    run_passes(graph, [FoldConstants(), Canonicalize()])
    (op,) = graph.walk(Linear)
    assert np.array_equal(matrix_of(op), module.weight.detach().numpy())
    assert weight_of(op) is op.weight


def test_refusals(graph):
    needs = Needs(tuple(KINDS), (Pattern("conv"), Pattern("Gather")))
    reasons = {
        op: refusal.reason
        for op in candidates(graph, needs.kinds)
        if (refusal := structural_refusal(op, needs)) is not None
    }
    by_kind = {type(op): reason for op, reason in reasons.items()}
    assert by_kind[Gather] == "named in nodes_to_exclude"
    assert by_kind[MatMul].startswith("both operands are computed")
    assert Linear not in by_kind
    transposed = next(op for op in graph.walk(Conv) if op.transposed)
    assert reasons[transposed] == "transposed convolutions are not quantized"


def test_is_quantized(graph):
    assert not is_quantized(graph)
    run_passes(graph, [Quantize(placement="all")])
    assert is_quantized(graph)
