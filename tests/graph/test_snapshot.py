"""A snapshot: the graph comes back as it was, whatever was done to it."""

import numpy as np
import torch
from torch import nn

from passel.graph import ops as o
from passel.graph.snapshot import Snapshot
from passel.graph.text import to_text
from tests.residual import fingerprint

X = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x):
        return self.two(torch.relu(self.one(x)).reshape(3, 8))


def test_edits_of_every_kind_are_undone(view):
    graph, run = view.lift(Net(), [X])
    state = (to_text(graph, names=True), fingerprint(graph), graph.fresh_name("probe"))
    sources = [(op, op.source, op.prev, op.next) for op in graph.ops]
    uses = {v: list(v.uses) for op in graph.ops for v in op.outputs}
    expected, outputs, inputs = run(), list(graph.outputs), list(graph.inputs)
    before = Snapshot(graph)
    for _ in range(2):
        first, second = graph.walk(o.Linear)
        name = graph.fresh_name("probe")
        neg = graph.prepend(o.Elementwise(inputs=[first.x], fn="neg"), ((3, 8), first.x.dtype))
        graph.set_input(first, 0, neg.output)
        graph.set_input(first, 1, graph.constant(np.zeros((8, 8), np.float32)))
        graph.update(first, layout="io")
        result = graph.renew(second.output, (3, 4))
        more = o.Elementwise(inputs=[result, result], outputs=[graph.outputs[0]], fn="add")
        graph.add(more, after=second)
        second.require(0).producer.output.dtype = np.dtype(np.int8)
        graph.replace(graph.outputs[0], result)
        graph.prune(more)
        assert to_text(graph, names=True) != state[0]
        before.restore()
        assert name == "probe_1"
        assert to_text(graph, names=True) == state[0]
        assert fingerprint(graph) == state[1]
        assert [(op, op.source, op.prev, op.next) for op in graph.ops] == sources
        assert {v: list(v.uses) for op in graph.ops for v in op.outputs} == uses
        assert graph.outputs == outputs
        assert graph.inputs == inputs
        np.testing.assert_array_equal(run()[0], expected[0])
