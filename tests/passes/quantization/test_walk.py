"""The walk: stretches, and moments that are those of the half quantized model beside the float."""

import functools
import itertools

import numpy as np
import pytest
import torch
from torch import nn

from passel.graph.fx_tensor import to_numpy
from passel.graph.ops import Conv, Linear
from passel.passes.driver import run_passes
from passel.passes.quantization.activations import MOVES
from passel.passes.quantization.calibration.data import Samples
from passel.passes.quantization.calibration.moments import PatchMoments
from passel.passes.quantization.candidates import matrix_of
from passel.passes.quantization.grid import Grid
from passel.passes.quantization.place import Form
from passel.passes.quantization.rounded import Format
from passel.passes.quantization.rounding import round_weight
from passel.passes.quantization.schemes import U8
from passel.passes.quantization.segments import segments
from passel.passes.quantization.sites import Product
from passel.passes.quantization.store import Store
from passel.passes.quantization.walk import Walk, has_moments
from passel.passes.registry import resolve
from tests.conftest import View

FORM = Form(Format(Grid("int4")), U8)
COUNT = 3


class Residual(nn.Module):
    """Pre-norm attention-like and gated blocks; one token of the result is classified."""

    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(8) for _ in range(4))
        self.q, self.k, self.out = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.gates = nn.ModuleList(nn.Linear(8, 24) for _ in range(3))
        self.ups = nn.ModuleList(nn.Linear(8, 24) for _ in range(3))
        self.downs = nn.ModuleList(nn.Linear(24, 8) for _ in range(3))
        self.head = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 3))

    def forward(self, x):
        y = self.norms[0](x)
        x = x + self.out(torch.sigmoid(self.q(y)) * self.k(y))
        for norm, gate, up, down in zip(
            self.norms[1:], self.gates, self.ups, self.downs, strict=True
        ):
            y = norm(x)
            x = x + down(torch.relu(gate(y)) * up(y))
        return self.head(x[:, :1])


class Branches(nn.Module):
    """Two branches of convolutions, a reshape into a product, a value read far behind."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.left, self.right = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1, stride=1)
        self.flat, self.again, self.late = nn.Linear(64, 8), nn.Linear(8, 8), nn.Linear(64, 8)

    def forward(self, x):
        x = torch.relu(self.first(x))
        x = torch.relu(self.left(x)) + torch.sigmoid(self.right(x))
        y = self.flat(torch.relu(x).reshape(-1, 64))
        return self.again(torch.relu(y)) + self.late(x.flatten(1)), y


NETS = {"residual": (Residual, (2, 5, 8)), "branches": (Branches, (2, 3, 4, 4))}


def inputs(net):
    shape = NETS[net][1]
    return [torch.randn(shape, generator=torch.Generator().manual_seed(k)) for k in range(COUNT)]


@functools.cache
def program(view, net):
    torch.manual_seed(0)
    return View(view).export(NETS[net][0](), inputs(net)[:1], opset=25)


def lifted(view, net):
    graph, _ = View(view).open(program(view, net), inputs(net)[:1])
    run_passes(graph, resolve(["canonicalize"]))
    ops = [op for op in graph.ops if isinstance(op, Linear | Conv)]
    assert all(has_moments(op) for op in ops)
    return graph, ops, Samples.of([to_numpy(x) for x in inputs(net)], graph.inputs)


def probed(graph, value, samples):
    run = graph.probe([value])
    return [run(sample)[0] for sample in samples]


def rows(op, arrays):
    """What the weight is multiplied with, by the definition."""
    if isinstance(op, Linear):
        return np.concatenate([a.reshape(-1, a.shape[-1]) for a in arrays]).astype(np.float64)
    kernel = op.weight.shape[2:]
    unfolded = [
        nn.functional.unfold(
            torch.from_numpy(a), kernel, padding=op.padding[0][0], stride=op.stride
        ).numpy()
        for a in arrays
    ]
    return np.concatenate([a.transpose(0, 2, 1).reshape(-1, a.shape[1]) for a in unfolded])


def quantize(graph, op, moments):
    """Round to nearest, static codes for what it reads."""
    layer = moments.layer(matrix_of(op), op.name)
    low, high = -moments.peak.max(), moments.peak.max()
    Product(op, FORM, round_weight(layer, FORM.weight, ("rtn",)), low, high).apply(graph)


@pytest.mark.parametrize("net", NETS)
def test_moments_are_of_the_model_so_far_beside_the_float_model(view, net):
    graph, ops, samples = lifted(view.name, net)
    twin, others, _ = lifted(view.name, net)
    beside = dict(zip(ops, others, strict=True))
    walk = Walk(graph, ops, samples, Store())
    assert len(walk.segments) > 2
    seen, differs = [], 0
    for group in walk.groups():
        first = group.ops[0]
        ours = rows(first, probed(graph, first.require(0), samples))
        theirs = rows(first, probed(twin, beside[first].require(0), samples))
        assert group.moments.count == len(ours)
        second, cross = ours.T @ ours / len(ours), theirs.T @ ours / len(ours)
        size = np.abs(second).max()
        np.testing.assert_allclose(group.moments.second, second, atol=2e-6 * size)
        np.testing.assert_allclose(group.moments.cross, cross, atol=2e-6 * size)
        differs += np.abs(second - cross).max() > 1e-3 * size
        for op in group.ops:
            quantize(graph, op, group.moments)
        seen += group.ops
    assert sorted(op.name for op in seen) == sorted(op.name for op in ops)
    assert differs >= len(walk.segments) - 2  # quantization shows in what later layers see


@pytest.mark.parametrize("net", NETS)
def test_known_products_are_yielded_in_the_same_order_without_moments(view, net):
    graph, ops, samples = lifted(view.name, net)
    twin, others, _ = lifted(view.name, net)
    order = [op.name for group in Walk(graph, ops, samples, Store()).groups() for op in group.ops]
    known = frozenset(others[::2])
    found = list(Walk(twin, others, samples, Store(), known).groups())
    assert [op.name for group in found for op in group.ops] == order
    for group in found:
        assert (group.moments is None) == known.issuperset(group.ops)


def test_a_residual_stream_is_cut_between_blocks(view):
    graph, ops, _ = lifted(view.name, "residual")
    found = segments(graph, ops)
    assert [op for segment in found for op in segment.anchors] == ops
    assert found[0].inputs == found[-1].outputs == ()
    for before, after in itertools.pairwise(found):
        assert before.outputs == after.inputs
        (stream,) = before.outputs
        assert stream.shape in ((2, 5, 8), (2, 1, 8), (2, 1, 24))
    assert max(len(segment.anchors) for segment in found) <= 4


@pytest.mark.parametrize("net", NETS)
def test_a_cut_is_never_between_a_move_and_its_one_reader(view, net):
    """The one token that the head reads is the smallest cut, and becomes codes."""
    graph, ops, _ = lifted(view.name, net)
    cuts = [value for segment in segments(graph, ops) for value in segment.outputs]
    assert not any(isinstance(v.producer, MOVES) and graph.only_reader(v) for v in cuts)
    assert any(isinstance(op.require(0).producer, MOVES) for op in ops)


def test_cuts_hold_all_that_is_read_behind_them(view):
    for net in NETS:
        graph, ops, samples = lifted(view.name, net)
        order = {op: number for number, op in enumerate(graph.ops)}
        for segment in segments(graph, ops):
            inputs = [*graph.inputs, *segment.inputs]
            assert all(
                order[value.producer] < order[segment.anchors[0]] for value in segment.inputs
            )
            run = graph.probe([op.require(0) for op in segment.anchors], inputs)
            sample = next(iter(samples))
            given = graph.probe(list(segment.inputs))(sample) if segment.inputs else []
            expected = graph.probe([op.require(0) for op in segment.anchors])(sample)
            for one, other in zip(run([*sample, *given]), expected, strict=True):
                np.testing.assert_array_equal(one, other)


def test_patches_of_a_long_run_are_chosen_alike(view):
    """The float model's patches and the quantized model's are of the same places."""
    graph, ops, samples = lifted(view.name, "branches")
    conv = next(op for op in ops if isinstance(op, Conv))
    walk = Walk(graph, [conv], samples, Store())
    (group,) = walk.groups()
    assert isinstance(group.moments, PatchMoments)
    np.testing.assert_allclose(group.moments.second, group.moments.cross)
