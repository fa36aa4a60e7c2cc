"""push-tokens, fixed positions: only what is read is computed, in both views."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from passel.graph.ops import Attention, Elementwise, Gather, Linear
from passel.models import GPT, GPTConfig, gpt_inputs
from passel.models.llama import LlamaBlock, rope_tables
from passel.passes import PushTokens
from passel.passes.driver import run_pass
from passel.passes.tokens import clone, demand_attention, execute
from passel.passes.tokens.selection import Positions
from tests.residual import error
from tests.token_nets import (
    AT,
    BATCH,
    DIM,
    HEADS,
    HIDDEN,
    PREPARE,
    PUSH,
    TOKENS,
    DecoderBlock,
    MaskedBlock,
    Net,
    attended,
    block,
    hidden,
    masks,
    noise,
    some_tokens,
)

N = TOKENS
WHOLE = (BATCH, N)
X = some_tokens()


def two(rule, **settings):
    """A net of two blocks."""
    return lambda: Net(rule, block(**settings), block(**settings))


def first_token(m, x):
    return m.head(m.run(x)[:, 0])


def last_token(m, x):
    return m.head(m.run(x)[:, -1])


@dataclass(frozen=True)
class Case:
    """A net of two blocks and what is to be left of it.

    Attributes:
        hidden: leading extents of each block's feed-forward.
        attended: (queries, keys, causal) of each attention.
    """

    build: Any
    hidden: list[Any]
    attended: list[Any]
    inputs: tuple[Tensor, ...] = X
    lifting: dict[str, Any] = field(default_factory=dict)


def rotary(m, x):
    cos, sin = rope_tables(x.shape[1], DIM // HEADS, x)
    for one in m.blocks:
        x = one(x, cos, sin)
    return m.head(x[:, -1])


def rows_of_all(m, x):
    """The feed-forward sees [B·N, d]."""
    for one in m.blocks:
        x = x + one.attention(one.norm1(x))
        rows = one.norm2(x).reshape(-1, DIM)
        x = x + one.mlp(rows).reshape(x.shape)
    return m.head(m.norm(x)[:, 0])


def distilled(m, x):
    x = m.run(x)
    return (m.head(x[:, 0]) + m.other(x[:, 1])) / 2


ALIBI = -torch.rand(1, HEADS, N, N, generator=torch.Generator().manual_seed(3)).tril()
FUTURE = torch.full((N, N), -torch.inf).triu(1)


def biased(m, x):
    return m.head(m.run(x, m.bias)[:, -1])


def with_bias(bias):
    def build():
        net = Net(biased, MaskedBlock(), MaskedBlock())
        net.register_buffer("bias", bias)
        return net

    return build


def padded(m, x, kept):
    """A mask of the keys, as BERT makes it: finite."""
    return m.head(m.run(x, (1 - kept[:, None, None, :].to(x.dtype)) * -1e9)[:, 0])


def padded_causal(m, x, kept):
    future = torch.ones(N, N, dtype=torch.bool).tril()
    return m.head(m.run(x, kept[:, None, None, :].bool() & future)[:, -1])


KEPT = torch.ones(BATCH, N, dtype=torch.int64)
KEPT[1, 1:4] = 0
MASKED = (MaskedBlock, MaskedBlock)
ONE = (BATCH, 1)
FULL, CAUSAL = (N, N, False), (N, N, True)

CASES = {
    "class token": Case(two(first_token), [WHOLE, ONE], [FULL, (1, N, False)]),
    "class token, q k v apart": Case(
        two(first_token, fused=False), [WHOLE, ONE], [FULL, (1, N, False)]
    ),
    "class token as a slice": Case(
        two(lambda m, x: m.head(m.run(x)[:, :1])), [WHOLE, ONE], [FULL, (1, N, False)]
    ),
    "last position, causal": Case(
        two(last_token, causal=True), [WHOLE, ONE], [CAUSAL, (1, N, False)]
    ),
    "last position, causal, q k v apart": Case(
        two(last_token, causal=True, fused=False), [WHOLE, ONE], [CAUSAL, (1, N, False)]
    ),
    "position in the middle, causal": Case(
        two(lambda m, x: m.head(m.run(x)[:, 4]), causal=True),
        [(BATCH, 5), ONE],
        [(5, 5, True), (1, 5, False)],
    ),
    "first position, causal": Case(
        two(first_token, causal=True), [ONE, ONE], [(1, 1, True), (1, 1, True)]
    ),
    "range": Case(
        two(lambda m, x: m.head(m.run(x)[:, 2:5])), [WHOLE, (BATCH, 3)], [FULL, (3, N, False)]
    ),
    "mean of a range": Case(
        two(lambda m, x: m.head(m.run(x)[:, 2:5].mean(1))),
        [WHOLE, (BATCH, 3)],
        [FULL, (3, N, False)],
    ),
    "range, causal": Case(
        two(lambda m, x: m.head(m.run(x)[:, 2:5]), causal=True),
        [(BATCH, 5), (BATCH, 3)],
        [(5, 5, True), (3, 5, False)],
    ),
    "every other position": Case(
        two(lambda m, x: m.head(m.run(x)[:, ::2])), [WHOLE, (BATCH, 6)], [FULL, (6, N, False)]
    ),
    "first five, causal": Case(
        two(lambda m, x: m.head(m.run(x)[:, :5]), causal=True),
        [(BATCH, 5), (BATCH, 5)],
        [(5, 5, True), (5, 5, True)],
    ),
    "class and distillation token": Case(
        lambda: Net(distilled, block(), block(), other=nn.Linear(DIM, 3)),
        [WHOLE, (BATCH, 2)],
        [FULL, (2, N, False)],
    ),
    "first and last": Case(
        two(lambda m, x: m.head((y := m.run(x))[:, 0] * y[:, -1])),
        [WHOLE, (BATCH, 2)],
        [FULL, (2, N, False)],
    ),
    "a list of positions, out of order": Case(
        two(lambda m, x: m.head(m.run(x).index_select(1, torch.tensor([7, 0, 3, 0])))),
        [WHOLE, (BATCH, 3)],
        [FULL, (3, N, False)],
    ),
    "post-norm": Case(
        two(first_token, norm_position="post"), [WHOLE, ONE], [FULL, (1, N, False)]
    ),
    "layer scale and batch norm": Case(
        two(first_token, norm="batch", layer_scale=0.5), [WHOLE, ONE], [FULL, (1, N, False)]
    ),
    "rotary positions": Case(
        lambda: Net(rotary, LlamaBlock(DIM, HEADS, HIDDEN), LlamaBlock(DIM, HEADS, HIDDEN)),
        [WHOLE] * 2 + [ONE] * 2,
        [CAUSAL, (1, N, False)],
    ),
    "rows of all tokens": Case(
        lambda: Net(rows_of_all, block(), block()), [(BATCH * N,), (BATCH,)], [FULL, (1, N, False)]
    ),
    "relative positions": Case(with_bias(ALIBI), [WHOLE, ONE], [FULL, (1, N, False)]),
    "ALiBi": Case(with_bias(ALIBI + FUTURE), [WHOLE, ONE], [FULL, (1, N, False)]),
    "padding": Case(
        lambda: Net(padded, *(one() for one in MASKED)), [WHOLE, ONE], [FULL, (1, N, False)],
        (*X, KEPT),
    ),
    "padding, causal": Case(
        lambda: Net(padded_causal, *(one() for one in MASKED)),
        [WHOLE, ONE],
        [FULL, (1, N, False)],
        (*X, KEPT),
    ),
    "encoder and decoder": Case(
        lambda: Net(
            lambda m, x, memory: m.head(m.run(x, memory)[:, -1]), DecoderBlock(), DecoderBlock()
        ),
        [WHOLE, ONE],
        [CAUSAL, (N, 7, False), (1, N, False), (1, 7, False)],
        (*X, noise(BATCH, 7, DIM, seed=1)),
    ),
    "dynamic batch": Case(
        two(first_token),
        [("batch", N), ("batch", 1)],
        [FULL, (1, N, False)],
        lifting={"dynamic_shapes": (({0: "batch"},),)},
    ),
}  # fmt: skip


BOTH = {
    "class token",
    "last position, causal",
    "first five, causal",
    "class and distillation token",
    "rotary positions",
    "padding",
    "dynamic batch",
}
"""What runs through ONNX by default; the others do so among the slow tests."""
VIEWS = [
    pytest.param(name, one, marks=[] if one == "fx" or name in BOTH else pytest.mark.slow)
    for name in CASES
    for one in ("fx", "onnx")
]


@pytest.mark.parametrize(("name", "view"), VIEWS, indirect=["view"])
def test_only_what_is_read_is_computed(name, view):
    case = CASES[name]
    outcome = view.apply(case.build(), case.inputs, *PUSH, **case.lifting)
    assert outcome.reports[AT].applied
    batches = {"batch": hidden(outcome.graph)[0][0]}  # torch and ONNX name it in their own ways
    expected = [tuple(batches.get(dim, dim) for dim in shape) for shape in case.hidden]
    assert hidden(outcome.graph) == expected
    assert attended(outcome.graph) == case.attended


@pytest.mark.parametrize("name", ["class token", "first five, causal", "rotary positions"])
def test_single_precision(name, either_view):
    """Bound 1e-4: some dozens of operations on values of order 1."""
    case = CASES[name]
    either_view.apply(case.build(), case.inputs, *PUSH, dtype=torch.float32)


def test_golden(fx_view, golden):
    graph, run = fx_view.lift(Net(first_token, block()), X)
    for one in PREPARE:
        run_pass(graph, one)
    golden("push_tokens/block.before", graph)
    expected = run()
    for one in PUSH[AT:]:
        run_pass(graph, one)
    golden("push_tokens/block.after", graph)
    assert error(run(), expected) <= 1e-4


# -- what is cut, and where -----------------------------------------------------------------------


def widths(graph, rows):
    """Output widths of the Linears that see so many tokens, those of the feed-forward left out."""
    linears = [op for op in graph.walk(Linear) if op.output.shape[:-1] == rows]
    return sorted(op.output.shape[-1] for op in linears if op.output.shape[-1] != HIDDEN)


@pytest.mark.parametrize("causal", [False, True])
def test_a_fused_projection_is_split(causal, either_view):
    """q for one token, k and v for all: by permute and unbind, and by split."""
    net = Net(last_token, block(causal=causal))
    graph = either_view.apply(net, X, *PUSH).graph
    assert widths(graph, WHOLE) == [2 * DIM]
    assert widths(graph, ONE) == [DIM, DIM, DIM]  # q, out, and the feed-forward's second


@pytest.mark.parametrize("name", ["padding", "padding, causal", "ALiBi", "relative positions"])
def test_masks_are_cut_to_the_queries(name, fx_view):
    case = CASES[name]
    found = masks(fx_view.apply(case.build(), case.inputs, *PUSH).graph)
    assert [shape[-2:] for shape in found][1] == (1, N)


def test_no_mask_is_left_where_nothing_is_masked(either_view):
    case = CASES["last position, causal"]
    assert masks(either_view.apply(case.build(), X, *PUSH).graph) == [None, None]


def test_positions_before_the_last_are_masked_in_a_range(either_view):
    """Queries 2, 3, 4 over keys 0 to 4: no square, so the causal flag becomes a constant."""
    net = Net(lambda m, x: m.head(m.run(x)[:, 2:5]), block(causal=True))
    (op,) = either_view.apply(net, X, *PUSH).graph.walk(Attention)
    expected = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]], bool)
    mask = op.inputs[3].array()
    assert np.array_equal(mask if mask.dtype == bool else mask == 0, expected)


def test_ids_are_sliced_before_they_are_looked_up(view):
    config = GPTConfig(vocab=40, context=16, dim=8, depth=2, heads=2)
    net = Net(lambda m, ids: m.gpt(ids)[:, :5], gpt=GPT(config))
    graph = view.apply(net, gpt_inputs(config, batch=BATCH, tokens=N), *PUSH).graph
    tables = [op for op in graph.walk(Gather) if op.x.constant is not None]
    assert [op.output.shape for op in tables if op.output.rank == 3] == [(BATCH, 5, 8)]
    assert attended(graph) == [(5, 5, True)] * 2
    heads = [op for op in graph.walk(Linear) if op.output.shape[-1] == 40]
    assert [op.output.shape for op in heads] == [(BATCH, 5, 40)]


def test_dynamic_tokens_last(either_view):
    outcome = either_view.apply(two(last_token, causal=True)(), X, *PUSH, **dynamic("n"))
    assert [shape[1:] for shape in hidden(outcome.graph)][1] == (1,)
    (_, _, first), (queries, keys, second) = attended(outcome.graph)
    assert (queries, second) == (1, False)
    assert isinstance(keys, str)
    assert first == (either_view.name == "fx")  # in ONNX it is a mask, computed from n


def test_dynamic_tokens_first(either_view):
    outcome = either_view.apply(two(first_token)(), X, *PUSH, **dynamic("n"))
    assert [shape[1:] for shape in hidden(outcome.graph)][1] == (1,)
    assert attended(outcome.graph)[1][0] == 1


def test_dynamic_tokens_first_and_last(either_view):
    """Position 0 and position −1, whichever that is."""
    net = two(lambda m, x: m.head((y := m.run(x))[:, 0] + y[:, -1]))
    graph, _ = either_view.lift(net().double(), [X[0].double()], **dynamic("n"))
    for one in PUSH:
        run_pass(graph, one)
    for tokens in (2, 5, N):
        (x,) = some_tokens(tokens=tokens)
        with torch.no_grad():
            expected = net().double()(x.double()).numpy()
        found = graph.run([x.double().numpy()])
        assert error(found, [expected]) <= 1e-11


def dynamic(*names):
    return {"dynamic_shapes": (({1: names[0]},),)}


def test_dynamic_batch_at_another_size(either_view):
    net = two(first_token, fused=False)
    graph, _ = either_view.lift(net().double(), [X[0].double()], dynamic_shapes=(({0: "batch"},),))
    for one in PUSH:
        run_pass(graph, one)
    for batch in (1, 3, 5):
        (x,) = some_tokens(batch)
        with torch.no_grad():
            expected = net().double()(x.double()).numpy()
        assert error(graph.run([x.double().numpy()]), [expected]) <= 1e-11


# -- what has to stay whole -----------------------------------------------------------------------


def test_keys_and_values_that_leave_the_graph_stay_whole(view):
    """The prefill of a cache: all keys and values, and the next token's scores."""

    def prefill(m, x):
        kept = []
        for one in m.blocks:
            h = one.norm1(x)
            q, k, v = one.attention._heads(h)
            y = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + one.attention.proj(y.transpose(1, 2).reshape(x.shape))
            x = x + one.mlp(one.norm2(x))
            kept += [k, v]
        return m.head(m.norm(x)[:, -1]), *kept

    settings = {"causal": True, "fused": False}
    graph = view.apply(Net(prefill, block(**settings), block(**settings)), X, *PUSH).graph
    assert [value.shape[2] for value in graph.outputs[1:]] == [N] * 4
    assert hidden(graph) == [WHOLE, ONE]
    assert attended(graph)[1] == (1, N, False)


def test_a_value_that_is_an_output_too_stays(either_view):
    net = two(lambda m, x: (m.head((y := m.run(x))[:, 0]), y))
    outcome = either_view.apply(net(), X, *PUSH)
    assert hidden(outcome.graph) == [WHOLE, WHOLE]
    assert not outcome.reports[AT].applied


def test_an_output_before_the_last_block_stays(either_view):
    def both(m, x):
        first, second = m.blocks
        x = first(x)
        return x, m.head(second(x)[:, 0])

    assert hidden(either_view.apply(two(both)(), X, *PUSH).graph) == [WHOLE, ONE]


@pytest.mark.parametrize("mix", ["cumsum", "softmax", "mean"])
def test_what_mixes_the_tokens_needs_them_all(mix, either_view):
    rules = {
        "cumsum": lambda x: x.cumsum(1),
        "softmax": lambda x: torch.softmax(x, 1),
        "mean": lambda x: x - x.mean(1, keepdim=True),
    }
    net = two(lambda m, x: m.head(m.norm(rules[mix](m.run(x)))[:, 0]))
    outcome = either_view.apply(net(), X, *PUSH)
    assert hidden(outcome.graph) == [WHOLE, WHOLE]


def test_nothing_is_dead(view):
    net = two(lambda m, x: m.head(m.run(x)))
    outcome = view.apply(net(), X, *PUSH)
    assert not outcome.reports[AT].applied
    assert outcome.reports[AT].reasons == {"every position of its result is read": 1}


def test_nearly_all_is_all(fx_view):
    """A copy of 11 of 12 tokens costs more than the token that it saves."""
    outcome = fx_view.apply(two(lambda m, x: m.head(m.run(x)[:, 1:]))(), X, *PUSH)
    assert not outcome.reports[AT].applied


def test_two_parts_far_apart_are_not_joined(fx_view):
    """Cheaper as two parts than as their hull: one batch element, and one token of all."""
    net = Net(lambda m, x: (m.g(m.f(x))[0], m.g(m.f(x))[:, 0]), f=Wide(), g=Narrow())
    outcome = fx_view.apply(net, X, *PUSH)
    assert outcome.reports[AT].applied


class Wide(nn.Linear):
    def __init__(self):
        super().__init__(DIM, HIDDEN)


class Narrow(nn.Linear):
    def __init__(self):
        super().__init__(HIDDEN, DIM)


EXTENTS = """
    <ir_version: 9, opset_import: ["" : 18]>
    agraph (float[2,6,3] x) => (float[2,3] y, int64[3] s, float[?,?,?] z)
    <float[3,3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9}, int64 zero = {0}>
    {
        p = MatMul(x, w)
        r = Relu(p)
        h = MatMul(r, w)
        y = Gather <axis = 1> (h, zero)
        s = Shape(r)
        z = Expand(one, s)
    }"""


def test_extents_are_known_without_the_value(onnx_text, run_on):
    text = EXTENTS.replace("int64 zero = {0}", "int64 zero = {0}, float[1] one = {1}")
    x = np.random.default_rng(0).normal(size=(2, 6, 3)).astype(np.float32)
    outcome = run_on(*onnx_text(text, x), PushTokens())
    assert outcome.error <= 1e-6
    assert [op.output.shape[1] for op in outcome.graph.walk(Elementwise) if op.fn == "relu"] == [1]


UNKNOWN_EXTENTS = EXTENTS.replace("float[2,6,3] x", "float[2,n,3] x")


@pytest.mark.parametrize("tokens", [1, 4])
def test_extents_that_only_the_whole_value_tells(onnx_text, run_on, tokens):
    text = UNKNOWN_EXTENTS.replace("int64 zero = {0}", "int64 zero = {0}, float[1] one = {1}")
    x = np.random.default_rng(0).normal(size=(2, tokens, 3)).astype(np.float32)
    outcome = run_on(*onnx_text(text, x), PushTokens())
    assert outcome.error <= 1e-6


PINNED = """
    <ir_version: 9, opset_import: ["" : 18]>
    agraph (float[2,6,3] x, bool c) => (float[2,3] y, float[2,6,3] z)
    <float[3,3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9}, int64 zero = {0}>
    {
        p = MatMul(x, w)
        v = Relu(p)
        h = MatMul(v, w)
        y = Gather <axis = 1> (h, zero)
        z = If (c) <
            then_branch = g1 () => (float[2,6,3] t) { t = Identity(v) },
            else_branch = g2 () => (float[2,6,3] e) { e = Neg(v) }
        >
    }"""


def test_what_a_control_flow_body_reads_stays_whole(onnx_text, run_on):
    x = np.random.default_rng(0).normal(size=(2, 6, 3)).astype(np.float32)
    outcome = run_on(*onnx_text(PINNED, x, np.array(False)), PushTokens())
    assert outcome.reports[0].applied
    assert outcome.error <= 1e-6
    kinds = {op.kind: op.output.shape for op in outcome.graph.ops if op.kind in ("relu", "Linear")}
    assert kinds["relu"] == (2, 6, 3)


LAST_THREE = """
    <ir_version: 9, opset_import: ["" : 18]>
    agraph (float[2,n,3] x) => (float[2,3] y)
    <float[3,3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9}, int64[1] a = {-3}, int64[1] b = {1000000},
     int64[1] axis = {1}, int64[3] rows = {2, -1, 3}>
    {
        p = MatMul(x, w)
        r = Relu(p)
        k = Reshape(r, rows)
        h = MatMul(k, w)
        s = Slice(h, a, b, axis)
        y = ReduceMean <keepdims = 0> (s, axis)
    }"""


@pytest.mark.parametrize("tokens", [2, 3, 7])
def test_a_range_that_may_be_longer_than_the_axis(onnx_text, run_on, tokens):
    x = np.random.default_rng(0).normal(size=(2, tokens, 3)).astype(np.float32)
    outcome = run_on(*onnx_text(LAST_THREE, x), PushTokens())
    assert outcome.error <= 1e-6


# -- the comparison sees what is broken -----------------------------------------------------------


def off_by_one(original):
    """Every position but the first, one too early."""
    return lambda self, part: [max(place - 1, 0) for place in original(self, part)]


def late_key(original):
    """The query sees one key less."""

    def broken(op, box, masks, enabled):
        keys = original(op, box, masks, enabled)
        if keys and 2 in keys:
            return {2: Positions.of([*keys[2].index][:-1] or [0])}
        return keys

    return broken


def nested(m, x):
    """Reads a range, and a part of it."""
    y = m.run(x)
    return m.head(y[:, 2:7]), m.other(y[:, 5:7])


BROKEN = {
    "places within a part": (
        lambda: Net(nested, block(), other=nn.Linear(DIM, 3)),
        (Positions, "places", off_by_one),
    ),
    "keys of a causal query": (
        two(lambda m, x: m.head(m.run(x)[:, 4]), causal=True),
        (demand_attention, "attended", late_key),
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_rewrite_is_seen(name, fx_view, monkeypatch):
    build, (owner, attribute, breaking) = BROKEN[name]
    fx_view.apply(build(), X, *PUSH)
    monkeypatch.setattr(owner, attribute, breaking(getattr(owner, attribute)))
    with pytest.raises(AssertionError, match="relative error"):
        fx_view.apply(build(), X, *PUSH)


def test_a_causal_flag_left_on_is_seen(fx_view, monkeypatch):
    """One query that is still causal sees the first key only."""
    written = clone.clone

    def broken(op, result, box, parts, reads, place):
        if isinstance(op, Attention):
            return clone.same_op(op, box, parts[:3], place)
        return written(op, result, box, parts, reads, place)

    monkeypatch.setattr(execute, "clone", broken)
    with pytest.raises(AssertionError, match="relative error"):
        fx_view.apply(two(last_token, causal=True)(), X, *PUSH)
