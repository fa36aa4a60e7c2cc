"""eliminate-dead-code: what nobody reads goes, what has an effect stays."""

import numpy as np
import torch
from torch import nn

from passel.passes import EliminateDeadCode

X = (torch.randn(2, 8, generator=torch.Generator().manual_seed(0)),)


class Dead(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.unused = nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x):
        torch.exp(self.unused(x)).sum().mul(2)
        return self.used(x)


def test_a_dead_branch_goes_in_one_site(fx_view):
    outcome = fx_view.apply(Dead(), X, EliminateDeadCode())
    assert outcome.before["Linear"] == 2
    assert outcome.after == {"Linear": 1}
    assert len(outcome.reports[0].applied) == 1
    assert outcome.error == 0


DEAD = """
    <ir_version: 9, opset_import: ["" : 18]>
    agraph (float[2] x) => (float[2] y)
    {
        a = Exp(x)
        b = Neg(a)
        r = RandomNormalLike(x)
        y = Relu(x)
    }"""


def test_in_onnx_and_random_ops_stay(onnx_text, run_on):
    graph, run = onnx_text(DEAD, np.array([1, -1], np.float32))
    outcome = run_on(graph, run, EliminateDeadCode())
    assert outcome.error == 0
    assert outcome.after == {"RandomNormalLike": 1, "relu": 1}


def test_nothing_to_do(view):
    outcome = view.apply(nn.Linear(8, 4), X, EliminateDeadCode())
    assert outcome.applied == 0
    assert outcome.error == 0
