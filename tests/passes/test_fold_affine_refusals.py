"""Every reason for which fold-affine leaves something alone, provoked, and nothing changes."""

import ast
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from passel.passes import Canonicalize, FoldAffine, FoldConstants, absorb, edits, fold_affine, pull

X = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
IDS = torch.tensor([[1, 2, 3]])
PASSES = (Canonicalize(), FoldConstants(), FoldAffine())


class Net(nn.Module):
    """Parameters that the forwards below share."""

    def __init__(self, forward):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.rand(8) + 0.5), nn.Parameter(torch.randn(8))
        self.zero = nn.Parameter(torch.tensor([0.0, *range(1, 8)]))
        self.tokens = nn.Parameter(torch.rand(5, 1) + 0.5)
        self.wide = nn.Parameter(torch.rand(2, 5000, 1))
        self.register_buffer("integers", torch.arange(40).reshape(5, 8))
        self.f, self.g, self.one = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 1)
        self.norm, self.rms = nn.LayerNorm(8), nn.RMSNorm(8)
        self.table = nn.Embedding(10, 8)
        self.conv = nn.Conv1d(8, 4, 3, padding=1)
        self.rule = forward

    def forward(self, *inputs):
        return self.rule(self, *inputs)


def clipped(x, times):
    for _ in range(times):
        x = torch.relu(x)
    return x


CASES = {
    "no neighbour can absorb the affine": lambda m, x: torch.exp(torch.tanh(x) * m.a),
    "the value is a graph output": lambda m, x: (y := x * m.a, m.f(y)),
    "two paths from the value meet again": lambda m, x: m.f((y := x * m.a) * y),
    "the chain of ops is too long for one step": lambda m, x: m.f(clipped(x * m.a, 160)),
    "a reader cannot absorb it": lambda m, x: torch.exp(x * m.a),
    "the channel axis is mixed with another": lambda m, x: (x * m.a).mean(-1),
    "the scale is too small or too large to invert": lambda m, x: m.f((y := x * m.zero) + m.g(y)),
    "the operands of an add have different ranks": lambda m, x: m.g(x[0, 0] * m.a + m.f(x)),
    "the producer's result has another reader": lambda m, x: torch.exp((y := m.f(x)) * m.a) + y,
    "an op reads the value twice": lambda m, x: torch.exp(((y := m.f(x)) * y) * m.a),
    "the map would widen a value of extent 1": lambda m, x: torch.exp(
        (torch.tanh(x) * m.one(x)) * m.a
    ),
    "the value is a graph input": lambda m, x: torch.exp(x * m.a),
    "the producer cannot absorb it": lambda m, x: torch.exp(torch.tanh(x) * m.a),
    "a shift does not pass a product": lambda m, x: torch.exp((m.f(x) * torch.tanh(x)) + m.b),
    "the constant is not floating-point": lambda m, x: m.g((x * m.a) + m.integers),
    "the weight is computed at run time": lambda m, x: F.linear(x * m.a, m.f.weight * x[0, 0]),
    "the weight has another reader": lambda m, x: m.f(torch.exp(x)) - m.f(x * m.a),
    "the map does not vary along the channel axis": lambda m, x: m.f(x * m.tokens),
    "the map does not vary along the normalised axes": lambda m, x: torch.exp(m.norm(x) * m.tokens),
    "an RMS norm has no shift": lambda m, x: torch.exp(m.rms(x) + m.b),
    "the norm's gain is not a constant": lambda m, x: torch.exp(
        F.layer_norm(x, (8,), x[0, 0].tanh()) * m.a
    ),
    "a shift does not pass the zero padding of a convolution": lambda m, x: m.conv((x + m.b).mT),
}
FX_ONLY = {
    "the constant is not floating-point": "torch.onnx casts the integers",
    "the chain of ops is too long for one step": "torch.onnx shortens the chain",
    "the weight is computed at run time": "ONNX writes a product of two values",
}
OTHER_INPUTS = {
    "the table has another reader": (
        lambda m, ids: (torch.exp(m.table(ids) * m.a), m.f(m.table.weight)),
        IDS,
    ),
    "the map does not vary along the table's columns": (
        lambda m, ids: torch.exp(m.table(ids) * m.tokens[:3]),
        IDS,
    ),
    "a constant would grow": (
        lambda m, x: torch.exp((torch.tanh(x) * m.wide) * m.a),
        torch.rand(2, 5000, 8),
    ),
}
IN_ONNX = {
    "a control-flow body reads the value": """
        <ir_version: 9, opset_import: ["" : 18]>
        agraph (double[2,3] x, bool c) => (double[2,3] y)
        <double[3] a = {2.0, 3.0, 4.0}>
        {
            v = Mul(x, a)
            y = If (c) <
                then_branch = g1 () => (double[2,3] t) { t = Identity(v) },
                else_branch = g2 () => (double[2,3] e) { e = Neg(v) }
            >
        }""",
    "a shape is unknown": """
        <ir_version: 9, opset_import: ["" : 18]>
        agraph (double[2,3] x, int64[n] s) => (double[a,b] y)
        <double[3] a = {2.0, 3.0, 4.0}>
        {
            v = Mul(x, a)
            w = Reshape(x, s)
            m = Mul(v, w)
            y = Exp(m)
        }""",
    "a symbolic extent is concatenated": """
        <ir_version: 9, opset_import: ["" : 18]>
        agraph (double[2,3] x, double[2,n] z) => (double[2,k] y)
        <double[3] a = {2.0, 3.0, 4.0}>
        {
            v = Mul(x, a)
            j = Concat<axis = 1>(z, v)
            y = Exp(j)
        }""",
}
FEEDS = {
    "a control-flow body reads the value": np.array(True),
    "a shape is unknown": np.array([2, 3]),
    "a symbolic extent is concatenated": np.ones((2, 2)),
}


def assert_left_alone(outcome, reason):
    assert outcome.refused(reason), outcome.reasons
    report = outcome.reports[-1]
    assert report.name == "fold-affine"
    assert not report.applied
    assert report.ops_after == report.ops_before


@pytest.mark.parametrize("reason", CASES)
def test_refuses(either_view, reason):
    if reason in FX_ONLY and either_view.name == "onnx":
        pytest.skip(FX_ONLY[reason])
    outcome = either_view.apply(Net(CASES[reason]), (X,), *PASSES, random=False, opset=23)
    assert_left_alone(outcome, reason)


@pytest.mark.parametrize("reason", OTHER_INPUTS)
def test_refuses_on_other_inputs(fx_view, reason):
    rule, given = OTHER_INPUTS[reason]
    assert_left_alone(fx_view.apply(Net(rule), (given,), *PASSES, random=False), reason)


@pytest.mark.parametrize("reason", IN_ONNX)
def test_refuses_in_onnx(onnx_text, run_on, reason):
    graph, run = onnx_text(IN_ONNX[reason], np.arange(6.0).reshape(2, 3), FEEDS[reason])
    outcome = run_on(graph, run, FoldAffine())
    assert outcome.error == 0
    assert_left_alone(outcome, reason)


class Half(nn.Module):
    """A half-precision layer whose weight is near the end of the range."""

    def __init__(self, kind):
        super().__init__()
        self.linear, self.table = nn.Linear(4, 4), nn.Embedding(3, 4)
        self.kind, self.scale = kind, nn.Parameter(torch.full((4,), 40.0))
        self.pair = nn.Parameter(torch.full((2, 4), 4000.0))
        for parameter in (self.linear.weight, self.table.weight):
            nn.init.constant_(parameter, 4000.0)

    def forward(self, x):
        if self.kind == "rows":
            return torch.tanh(self.linear(x) * self.scale)
        if self.kind == "columns":
            return self.linear(torch.exp(x) * self.scale)
        if self.kind == "table":
            return torch.tanh(self.table(x[:, 0].long()) * self.scale) + x
        return self.linear((torch.exp(x) * (1 / self.scale)) + self.pair)


@pytest.mark.parametrize("kind", ["rows", "columns", "table", "constant"])
def test_refuses_to_overflow_float16(fx_view, kind):
    x = torch.zeros(2, 4)
    outcome = fx_view.apply(Half(kind), (x,), *PASSES, dtype=torch.float16, random=False)
    assert_left_alone(outcome, edits.OVERFLOW)
    # The same numbers fit in bfloat16, which has float32's range.
    wide = fx_view.apply(Half(kind), (x,), *PASSES, dtype=torch.bfloat16, random=False)
    assert wide.reports[-1].applied


def literals(module):
    """The first argument of every `Refusal(...)` in a module, named constants read."""
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    for call in calls:
        if isinstance(call.func, ast.Name) and call.func.id == "Refusal":
            reason = call.args[0]
            yield reason.value if isinstance(reason, ast.Constant) else getattr(module, reason.id)


def test_every_reason_is_tested():
    known = {*CASES, *OTHER_INPUTS, *IN_ONNX, edits.OVERFLOW}
    assert {text for m in (absorb, edits, fold_affine, pull) for text in literals(m)} == known
