"""What a top-k makes known: find_masks against the numbers that the graph computes."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from passel.passes.driver import run_passes
from passel.passes.numbers import _ONE, _TWO, VAGUE, affine, apply, uniform
from passel.passes.tokens.masks import find_masks
from tests.residual import fingerprint, lifted
from tests.token_nets import PREPARE, PUSH, TOKENS, Net, block, hidden, noise, some_tokens

B, N, K = 2, 7, 3
INF = math.inf


def scattered(s, on=1.0, off=0.0, k=K):
    return torch.full_like(s, off).scatter(1, s.topk(k, dim=1).indices, on)


def filled(s, number):
    return torch.zeros_like(s).masked_fill(scattered(s) == 0, number)


ONES = torch.ones(B, 2)

# rule -> axis: (batch, off, on)
FOUND = {
    "scatter": (scattered, {1: (0, 0.0, 1.0)}),
    "scatter of other numbers": (lambda s: scattered(s, 3.0, -2.0), {1: (0, -2.0, 3.0)}),
    "scatter into ones": (lambda s: scattered(s, 0.0, 1.0), {1: (0, 1.0, 0.0)}),
    "bool": (lambda s: scattered(s).bool(), {1: (0, 0.0, 1.0)}),
    "not": (lambda s: ~scattered(s).bool(), {1: (0, 1.0, 0.0)}),
    "1 - m": (lambda s: 1 - scattered(s), {1: (0, 1.0, 0.0)}),
    "m·s": (lambda s: scattered(s) * s, {1: (0, 0.0, None)}),
    "s·m": (lambda s: s.exp() * scattered(s), {1: (0, 0.0, None)}),
    "2·m + 1": (lambda s: 2 * scattered(s) + 1, {1: (0, 1.0, 3.0)}),
    "(1 - m)·-1e9": (lambda s: (1 - scattered(s)) * -1e9, {1: (0, -1e9, 0.0)}),
    "s + (1 - m)·-1e9": (lambda s: s + (1 - scattered(s)) * -1e9, {1: (0, VAGUE, None)}),
    "(1 - m)·-3": (lambda s: (1 - scattered(s)) * -3.0, {1: (0, -3.0, 0.0)}),
    "s + (1 - m)·-3": (lambda s: s + (1 - scattered(s)) * -3.0, {}),
    "where": (
        lambda s: torch.where(scattered(s).bool(), 5.0, torch.zeros_like(s)), {1: (0, 0.0, 5.0)}
    ),
    "where, other way": (
        lambda s: torch.where(scattered(s) == 0, torch.zeros_like(s), s), {1: (0, 0.0, None)}
    ),
    "where, dropped unknown": (lambda s: torch.where(scattered(s).bool(), 0.0, s), {}),
    "masked_fill": (lambda s: filled(s, -INF), {1: (0, -INF, 0.0)}),
    "masked_fill of scores": (
        lambda s: s.masked_fill(scattered(s) == 0, -INF), {1: (0, -INF, None)}
    ),
    "m > 0": (lambda s: scattered(s) > 0, {1: (0, 0.0, 1.0)}),
    "m / 2": (lambda s: scattered(s) / 2, {1: (0, 0.0, 0.5)}),
    "relu of a mask": (lambda s: (scattered(s) - 0.5).relu(), {1: (0, 0.0, 0.5)}),
    "softmax": (lambda s: filled(s, -INF).softmax(1), {1: (0, 0.0, None)}),
    "softmax of finite": (
        lambda s: (s + (1 - scattered(s)) * -1e9).softmax(1), {1: (0, 0.0, None)}
    ),
    "axes added": (lambda s: scattered(s)[:, None, :, None], {2: (0, 0.0, 1.0)}),
    "transposed": (lambda s: scattered(s).t(), {0: (1, 0.0, 1.0)}),
    "expanded": (lambda s: scattered(s)[..., None].expand(B, N, 4), {1: (0, 0.0, 1.0)}),
    "reshaped": (lambda s: scattered(s).reshape(B, 1, N, 1), {2: (0, 0.0, 1.0)}),
    "times a vector": (lambda s: scattered(s)[..., None] * torch.ones(4), {1: (0, 0.0, 1.0)}),
    "ones before": (
        lambda s: torch.cat((s.new_ones(B, 2), scattered(s)), 1), {1: (0, 0.0, 1.0)}
    ),
    "ones around": (
        lambda s: torch.cat((s.new_ones(B, 2), scattered(s), s.new_ones(B, 1)), 1),
        {1: (0, 0.0, 1.0)},
    ),
    "another number before": (
        lambda s: torch.cat((s.new_zeros(B, 2), scattered(s)), 1), {1: (0, 0.0, None)}
    ),
    "flattened": (lambda s: scattered(s).reshape(B * N), {}),
    "turned round": (lambda s: scattered(s).flip(1), {}),
    "summed": (lambda s: scattered(s).sum(1), {}),
    "shifted": (lambda s: torch.cat((scattered(s)[:, 1:], scattered(s)[:, :1]), 1), {}),
    "joined along the batch": (lambda s: torch.cat((scattered(s), scattered(s)), 0), {}),
    "batch elements against each other": (lambda s: scattered(s)[:, None] + scattered(s)[None], {}),
    "of a part": (lambda s: scattered(s)[:, 2:5], {}),
    "threshold": (lambda s: s >= s.topk(K, 1).values[:, -1:], {1: (0, 0.0, 1.0)}),
    "below the threshold": (lambda s: s < s.topk(K, 1).values[:, -1:], {1: (0, 1.0, 0.0)}),
    "threshold above": (lambda s: s.topk(K, 1).values[:, -1:] <= s, {1: (0, 0.0, 1.0)}),
    "above the k-th": (lambda s: s > s.topk(K, 1).values[:, -1:], {}),
    "second half of the indices": (
        lambda s: torch.zeros_like(s).scatter(1, s.topk(K, 1).indices[:, 1:], 1.0), {}
    ),
    "indices along another axis": (
        lambda s: torch.zeros(N, B, dtype=s.dtype).scatter(1, s.topk(K, 1).indices % B, 1.0), {}
    ),
}  # fmt: skip


class Rule(nn.Module):
    def __init__(self, rule):
        super().__init__()
        self.rule = rule

    def forward(self, s):
        return self.rule(s)


def known_of(view, rule, scores, prepared=True):
    """What is known of the only output, the graph's result, and the graph."""
    graph, run = view.lift(Rule(rule), (scores,))
    if prepared:
        run_passes(graph, PREPARE)
    return find_masks(graph).get(graph.outputs[0], {}), run()[0], graph


@pytest.mark.parametrize("name", FOUND)
def test_find_masks(name, fx_view):
    rule, expected = FOUND[name]
    known, result, _ = known_of(fx_view, rule, noise(B, N).double())
    found = {axis: (off.batch, off.off, off.on) for axis, off in known.items()}
    assert found == expected
    for axis, off in known.items():
        assert_holds(result, axis, off, noise(B, N).numpy())


def assert_holds(result, axis, off, scores):
    """The numbers at the positions dropped and kept are those noted."""
    kept = np.argsort(-scores, axis=1)[:, :K]
    chosen = np.zeros(scores.shape, bool)
    np.put_along_axis(chosen, kept, True, 1)
    rows = np.moveaxis(result, (off.batch, axis), (0, 1)).astype(np.float64)
    if rows.shape[1] != N:  # joined with what is kept
        before = off.choice.parts[0][1]
        chosen = np.pad(
            chosen, ((0, 0), (before, rows.shape[1] - N - before)), constant_values=True
        )
    dropped = rows[~chosen]
    if off.off <= -1e4:
        assert (dropped <= -9e3).all()
    else:
        assert (dropped == off.off).all()
    if off.on is not None:
        assert (rows[chosen] == off.on).all()


@pytest.mark.parametrize(
    "name", ["scatter", "not", "1 - m", "s + (1 - m)·-1e9", "ones before", "threshold", "softmax"]
)
def test_find_masks_in_onnx(name):
    rule, expected = FOUND[name]
    graph = lifted(Rule(rule), (noise(B, N),), "onnx")
    run_passes(graph, PREPARE)
    known = find_masks(graph).get(graph.outputs[0], {})
    assert {axis: (off.batch, off.off, off.on) for axis, off in known.items()} == expected


def test_one_batch_element_has_no_batch_axis(fx_view):
    known, _, _ = known_of(fx_view, scattered, noise(1, N))
    assert known[1].batch is None


def test_two_choices_are_two(fx_view):
    known, _, _ = known_of(fx_view, lambda s: scattered(s) * scattered(-s), noise(B, N))
    assert known[1].off == 0.0
    assert known[1].on is None


def test_all_masks_of_one_top_k_share_a_choice(fx_view):
    _, _, graph = known_of(fx_view, lambda s: (1 - scattered(s)) * -1e9 + s, noise(B, N))
    found = {off.choice for known in find_masks(graph).values() for off in known.values()}
    assert len(found) == 1


def test_ties_are_noted_where_a_mask_may_keep_more(fx_view):
    for name, ties in (("threshold", True), ("scatter", False)):
        known, _, _ = known_of(fx_view, FOUND[name][0], noise(B, N))
        assert known[1].choice.ties == ties


def test_finding_masks_changes_nothing(fx_view):
    _, _, graph = known_of(fx_view, FOUND["ones around"][0], noise(B, N))
    before = fingerprint(graph)
    find_masks(graph)
    assert fingerprint(graph) == before


# -- NaN scores -----------------------------------------------------------------------------------


def given_scores(form):
    def rule(m, x, scores):
        mask = scattered(scores, k=4)
        y = m.block.mlp(m.block.norm2(x))
        if form == "where":
            return torch.where(mask.bool()[..., None], x + y, x)
        return x + mask[..., None] * y

    return rule


@pytest.mark.parametrize("form", ["where", "mul"])
@pytest.mark.parametrize("count", [0, 2, 6])
def test_nan_scores_rank_highest(form, count, fx_view):
    """As many as there are, whether fewer than k or more."""
    scores = noise(2, TOKENS, seed=4)
    scores[0, 3 : 3 + count] = torch.nan
    net = Net(given_scores(form), block=block())
    outcome = fx_view.apply(net, (*some_tokens(), scores), *PUSH)
    assert hidden(outcome.graph) == [(2, 4)]
    assert np.isfinite(outcome.found[0]).all()


# -- numbers --------------------------------------------------------------------------------------

NUMPY = {
    "neg": np.negative, "not": np.logical_not, "abs": np.abs, "sqrt": np.sqrt, "exp": np.exp,
    "log": np.log, "relu": lambda x: np.maximum(x, 0), "tanh": np.tanh, "isnan": np.isnan,
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "equal": np.equal,
    "less": np.less, "less_equal": np.less_equal, "greater": np.greater,
    "greater_equal": np.greater_equal, "and": np.logical_and, "or": np.logical_or,
    "maximum": np.maximum, "minimum": np.minimum,
}  # fmt: skip
AT_ZERO_ONLY = ("silu", "gelu", "gelu_tanh")
numbers = st.one_of(st.sampled_from([0.0, 1.0, -1.0, -1e9, INF, -INF]), st.floats(-100, 100))


def test_every_function_is_tested():
    assert {*_ONE, *_TWO} == {*NUMPY, *AT_ZERO_ONLY}


@pytest.mark.parametrize("fn", NUMPY)
@given(a=numbers, b=numbers)
def test_known_operands(fn, a, b):
    operands = [a, b] if fn in _TWO else [a]
    with np.errstate(all="ignore"):
        expected = float(NUMPY[fn](*map(np.float64, operands)))
    found = apply(fn, operands)
    if math.isnan(expected):
        assert found is None
    else:
        assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("fn", _TWO)
@given(known=numbers, unknown=st.floats(-100, 100), first=st.booleans())
def test_what_one_operand_decides_alone(fn, known, unknown, first):
    """It holds whatever the other operand is, which a number of −10⁴ or less makes a trifle."""
    found = apply(fn, [known, None] if first else [None, known])
    if found is None:
        return
    if fn in ("and", "or"):
        unknown = float(unknown > 0)
    with np.errstate(all="ignore"):
        actual = float(NUMPY[fn](*((known, unknown) if first else (unknown, known))))
    assert found == actual or (max(found, actual) <= -9e3 and fn in ("add", "sub", "minimum"))


@pytest.mark.parametrize("fn", _ONE)
def test_unknown_operand(fn):
    assert apply(fn, [None]) is None


@pytest.mark.parametrize("fn", AT_ZERO_ONLY)
def test_activations_are_known_at_zero(fn):
    assert apply(fn, [0.0]) == 0.0
    assert apply(fn, [1.0]) is None


@given(st.sampled_from([0.0, 1.0]), numbers, numbers)
def test_where(condition, a, b):
    assert apply("where", [condition, a, b]) == (a if condition else b)
    assert apply("where", [condition, a if condition else None, None if condition else b]) == (
        a if condition else b
    )
    assert apply("where", [None, a, a]) == a
    assert apply("where", [None, a, None]) is None


def test_functions_that_are_not_known():
    assert apply("sin", [0.0]) is None
    assert apply("pow", [2.0, 2.0]) is None


@given(st.booleans(), st.booleans(), st.floats(-9, 9), st.floats(-9, 9), st.floats(-9, 9))
def test_affine(scaled, shifted, x, scale, shift):
    operands = [x, scale if scaled else None, shift if shifted else None]
    expected = x * (scale if scaled else 1) + (shift if shifted else 0)
    assert affine(scaled, shifted, operands) == pytest.approx(expected)


def test_uniform(fx_view):
    for rule, expected in (
        (torch.zeros_like, 0.0),
        (lambda s: torch.full((2, 3), 7.0).expand(4, 2, 3) + 0 * s.sum(), None),
        (lambda s: s, None),
        (lambda s: s.new_ones(B, N)[:, None], 1.0),
    ):
        _, _, graph = known_of(fx_view, rule, noise(B, N), prepared=False)
        assert uniform(graph.outputs[0]) == expected
    assert uniform(None) is None
    graph = known_of(fx_view, lambda s: s, noise(B, N))[2]
    assert uniform(graph.constant(np.full((3, 2), 4.0))) == 4.0
    assert uniform(graph.constant(np.arange(3.0))) is None
    assert uniform(graph.constant(np.zeros((0,)))) is None
