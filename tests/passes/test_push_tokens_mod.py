"""push-tokens on Mixture-of-Depths: the dense, masked form becomes the gathered one, exactly."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.export import Dim

import passel
from passel.graph.ops import Attention, Put, Scatter, Softmax
from passel.models import (
    GPT_TINY,
    PMOD_TINY,
    MoDGPT,
    MoDViT,
    PMoD,
    Routing,
    ViTConfig,
    gpt_inputs,
    pmod_inputs,
    randomize,
    vit_inputs,
)
from passel.models.mod import WEIGHTS, residual_update
from passel.models.routing import (
    MASK_FORMS,
    add_where_kept,
    attention_mask,
    capacity,
    prd_ratios,
    top_k_mask,
)
from passel.passes.driver import run_pass
from passel.passes.tokens import choose, indices
from tests.residual import error, lifted
from tests.token_nets import (
    AT,
    DIM,
    HEADS,
    PUSH,
    TOKENS,
    Net,
    attended,
    block,
    hidden,
    masks,
    noise,
    some_tokens,
)

GPT_CONFIG = replace(GPT_TINY, dim=16, depth=2, heads=2)
VIT_CONFIG = ViTConfig(
    image_size=16, patch_size=4, channels=1, dim=16, depth=2, heads=2, mlp_ratio=4.0, classes=3
)
BOUND = 1e-11
MOD_HIDDEN = 64
MASK_KINDS = ("where", "not", "and")


def doubled(inputs):
    return tuple(x.double() if x.is_floating_point() else x for x in inputs)


def check_gathered(view, model, inputs, bound=BOUND, **lifting):
    """Dense and rewritten agree, within BOUND; and gathered, within `bound`."""
    outcome = view.apply(model, inputs, *PUSH, **lifting)
    with torch.no_grad():
        gathered = model.forward_gathered(*doubled(inputs)).numpy()
    assert error(outcome.found, [gathered]) <= bound
    return outcome


def opened(model, inputs):
    """The fx graph of a module, and what runs it."""
    graph = lifted(model, inputs)
    return graph, lambda: graph.run([x.numpy() for x in inputs])


def mask_ops(graph):
    """Kinds of the ops that only a mask is made with, and shapes of the masks of attentions."""
    kinds = [op.kind for op in graph.ops if isinstance(op, Scatter) or op.kind in MASK_KINDS]
    return [*kinds, *(shape for shape in masks(graph) if shape is not None)]


# -- the reference models -------------------------------------------------------------------------

SETTINGS = [(form, weight, batch) for form in MASK_FORMS for weight in WEIGHTS for batch in (1, 2)]
SLOWER = [
    pytest.param(*one, marks=[] if one in SETTINGS[::3] else pytest.mark.slow) for one in SETTINGS
]


@pytest.mark.parametrize(("form", "weight", "batch"), SLOWER)
def test_gpt(form, weight, batch, either_view):
    model = MoDGPT(GPT_CONFIG, Routing(0.3, mask_form=form, weight=weight))
    inputs = gpt_inputs(GPT_CONFIG, batch, TOKENS)
    graph = check_gathered(either_view, model, inputs).graph
    assert hidden(graph, MOD_HIDDEN) == [(batch, TOKENS), (batch, 3)]
    assert attended(graph) == [(TOKENS, TOKENS, True), (3, 3, True)]
    assert not mask_ops(graph)


@pytest.mark.parametrize(("form", "weight", "batch"), SLOWER)
@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_vit(pool, form, weight, batch, either_view):
    """The class token is read alone, so the last block's queries are one token, its keys k."""
    config = replace(VIT_CONFIG, pool=pool)
    model = MoDViT(config, Routing(0.25, mask_form=form, weight=weight))
    graph = check_gathered(either_view, model, vit_inputs(config, batch)).graph
    if pool == "mean":
        assert hidden(graph, MOD_HIDDEN) == [(batch, 16), (batch, 4)]
        assert attended(graph) == [(16, 16, False), (4, 4, False)]
    else:
        assert hidden(graph, MOD_HIDDEN) == [(batch, 17), (batch, 1)]
        assert attended(graph) == [(17, 17, False), (1, 5, False)]
    assert masks(graph) == [None, None]


@pytest.mark.parametrize("form", MASK_FORMS)
def test_vit_with_a_class_token_through_more_blocks(form, either_view):
    """All tokens are computed where they are kept, and the class token is one of them."""
    config = replace(VIT_CONFIG, depth=4)
    model = MoDViT(config, Routing(0.25, mask_form=form))
    graph = check_gathered(either_view, model, vit_inputs(config, 2)).graph
    assert hidden(graph, MOD_HIDDEN) == [(2, 17), (2, 5), (2, 17), (2, 1)]
    assert attended(graph)[1:4:2] == [(5, 5, False), (1, 5, False)]


def rotary_bound(view):
    """torch.onnx rounds the rotary tables' frequencies to float32."""
    return BOUND if view.name == "fx" else 1e-8


@pytest.mark.parametrize(
    ("form", "batch"),
    [
        ("where", 2),
        ("mul", 1),
        pytest.param("where", 1, marks=pytest.mark.slow),
        pytest.param("mul", 2, marks=pytest.mark.slow),
    ],
)
def test_pmod(form, batch, either_view):
    model = PMoD(replace(PMOD_TINY, mask_form=form))
    inputs, bound = pmod_inputs(PMOD_TINY, batch), rotary_bound(either_view)
    graph = check_gathered(either_view, model, inputs, bound).graph
    text = PMOD_TINY.text_tokens
    expected = [text + k for k in PMOD_TINY.capacities]
    assert attended(graph) == [(n, n, True) for n in expected]
    assert hidden(graph, PMOD_TINY.hidden)[::2] == [(batch, n) for n in expected]  # gate, up
    assert masks(graph) == [None] * 4
    assert not any(kind in MASK_KINDS for kind in mask_ops(graph))


@pytest.mark.parametrize("form", MASK_FORMS)
def test_dynamic_batch(form, either_view):
    model = randomize(MoDGPT(GPT_CONFIG, Routing(0.3, mask_form=form))).double().eval()
    inputs = gpt_inputs(GPT_CONFIG, 2, TOKENS)
    graph, _ = either_view.lift(model, inputs, dynamic_shapes=({0: "batch"},))
    applied = [run_pass(graph, one).applied for one in PUSH]
    assert applied[AT]
    assert attended(graph)[1] == (3, 3, True)
    for batch in (1, 2, 5):
        (ids,) = gpt_inputs(GPT_CONFIG, batch, TOKENS, seed=batch)
        with torch.no_grad():
            expected = model.forward_gathered(ids).numpy()
        assert error(graph.run([ids.numpy()]), [expected]) <= BOUND


@pytest.mark.slow
@pytest.mark.parametrize("form", MASK_FORMS)
def test_pmod_dynamic_batch(form, view):
    model = randomize(PMoD(replace(PMOD_TINY, mask_form=form))).double().eval()
    inputs = doubled(pmod_inputs(PMOD_TINY, 2))
    graph, _ = view.lift(model, inputs, dynamic_shapes=({0: "batch"}, {0: "batch"}))
    for one in PUSH:
        run_pass(graph, one)
    expected = [PMOD_TINY.text_tokens + k for k in PMOD_TINY.capacities]
    assert [extents[:2] for extents in attended(graph)] == [(n, n) for n in expected]
    assert masks(graph)[1:] == [None] * 3  # the first layer is dense
    for batch in (1, 3):
        given_ = doubled(pmod_inputs(PMOD_TINY, batch, seed=batch))
        with torch.no_grad():
            expected = model.forward_gathered(*given_).numpy()
        found = graph.run([x.numpy() for x in given_])
        assert error(found, [expected]) <= rotary_bound(view)


@pytest.mark.parametrize("form", MASK_FORMS)
def test_dynamic_tokens(form, either_view):
    """k = trunc(ratio · n) stays an expression of n."""
    model = randomize(MoDGPT(GPT_CONFIG, Routing(0.3, mask_form=form))).double().eval()
    inputs = gpt_inputs(GPT_CONFIG, 2, TOKENS)
    graph, _ = either_view.lift(model, inputs, dynamic_shapes=({1: Dim.DYNAMIC},))
    applied = [run_pass(graph, one).applied for one in PUSH]
    assert applied[AT]
    assert not list(graph.walk(Scatter)) or list(graph.walk(Put))
    for tokens in (4, 7, 20):
        (ids,) = gpt_inputs(GPT_CONFIG, 2, tokens, seed=tokens)
        with torch.no_grad():
            expected = model.forward_gathered(ids).numpy()
        assert error(graph.run([ids.numpy()]), [expected]) <= BOUND


@pytest.mark.parametrize("form", MASK_FORMS)
def test_last_position_after_routing(form, either_view):
    """One query, and the keys that were kept."""
    net = Net(
        lambda m, ids: m.gpt.forward(ids)[:, -1],
        gpt=MoDGPT(GPT_CONFIG, Routing(0.3, mask_form=form)),
    )
    graph = either_view.apply(net, gpt_inputs(GPT_CONFIG, 2, TOKENS), *PUSH).graph
    assert hidden(graph, MOD_HIDDEN)[1] == (2, 1)
    assert attended(graph)[1] == (1, 3, False)


# -- properties -----------------------------------------------------------------------------------


class Tied(nn.Module):
    """A router with scores of few distinct values: nearly all of them tie."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.levels = levels
        self.weight = nn.Parameter(noise(DIM, seed=5))

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.weight * self.levels).round()


class Routed(nn.Module):
    """Blocks that route by given scores, with everything that a property test varies."""

    def __init__(self, depth: int, k: int, form: str, router: nn.Module, causal: bool) -> None:
        super().__init__()
        torch.manual_seed(depth)
        self.k, self.form, self.causal = k, form, causal
        self.router = router
        self.blocks = nn.ModuleList(block() for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        for one in self.blocks:
            mask = top_k_mask(self.router(x), self.k, self.form)
            update = residual_update(one, x, attention_mask(mask, self.causal))
            x = add_where_kept(mask, x, update)
        return x


@settings(max_examples=8)
@given(
    depth=st.integers(1, 3),
    k=st.integers(1, 11),
    form=st.sampled_from(MASK_FORMS),
    batch=st.integers(1, 3),
    levels=st.sampled_from([0, 1, 3]),
    causal=st.booleans(),
)
def test_ties_are_broken_as_the_top_k_breaks_them(depth, k, form, batch, levels, causal):
    net = Routed(depth, k, form, Tied(levels), causal).double().eval()
    (x,) = doubled(some_tokens(batch))
    graph, run = opened(net, (x,))
    expected = run()
    reports = [run_pass(graph, one) for one in PUSH]
    assert len(reports[AT].applied) == depth
    assert error(run(), expected) <= BOUND
    assert [extents[1] for extents in hidden(graph)] == [k] * depth


@pytest.mark.parametrize("levels", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("form", ["where", pytest.param("mul", marks=pytest.mark.slow)])
def test_ties_on_onnx_runtime(form, levels):
    """Both on ONNX Runtime, which keeps the first of equals."""
    net = Routed(2, 5, form, Tied(levels), False).eval()
    x = some_tokens(2)
    dense = passel.compile(net, x, passes="none")
    fast = passel.compile(net, x)
    assert any(report.name == "push-tokens" and report.applied for report in fast.report.passes)
    assert error([fast(*x).numpy()], [dense(*x).numpy()]) <= 1e-5


@settings(max_examples=6)
@given(
    ratio=st.floats(0.05, 0.95),
    every=st.integers(1, 2),
    form=st.sampled_from(MASK_FORMS),
    weight=st.sampled_from(WEIGHTS),
    batch=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_gpt_property(ratio, every, form, weight, batch, seed):
    routing = Routing(ratio, every, form, weight)
    model = randomize(MoDGPT(replace(GPT_CONFIG, depth=3), routing), seed).double().eval()
    inputs = gpt_inputs(GPT_CONFIG, batch, TOKENS, seed)
    graph, run = opened(model, inputs)
    expected = run()
    for one in PUSH:
        run_pass(graph, one)
    with torch.no_grad():
        gathered = model.forward_gathered(*inputs).numpy()
    assert error(run(), expected) <= BOUND
    assert error(run(), [gathered]) <= BOUND
    k = capacity(ratio, TOKENS)
    assert attended(graph)[-1][:2] == ((k, k) if routing.routes(2) else (TOKENS, TOKENS))


# -- other ways to write it -----------------------------------------------------------------------

K = 4


def scores_of(m, x):
    return m.router(x).squeeze(-1)


def chosen(m, x):
    return top_k_mask(scores_of(m, x), K, "mul")


def masked_update(m, x, mask, hide):
    return residual_update(m.block, x, hide(mask))


def minus(number):
    return lambda mask: (1 - mask[:, None, None, :]) * number


def by_threshold(values):
    def rule(m, x):
        scores = scores_of(m, x)
        kept = scores >= values(scores)
        update = residual_update(m.block, x, kept[:, None, None, :])
        return torch.where(kept[..., None], x + update, x)

    return rule


def interpolated(m, x):
    """y = m·f + (1 − m)·x."""
    mask = chosen(m, x)
    kept = x + residual_update(m.block, x, minus(-1e9)(mask))
    return mask[..., None] * kept + (1 - mask)[..., None] * x


def two_residuals(m, x):
    """x + m·attention, then h + m·mlp."""
    mask, b = chosen(m, x), m.block
    h = x + mask[..., None] * b.attention(b.norm1(x), minus(-1e9)(mask))
    return h + mask[..., None] * b.mlp(b.norm2(h))


def two_wheres(m, x):
    mask, b = chosen(m, x).bool(), m.block
    h = torch.where(mask[..., None], x + b.attention(b.norm1(x), mask[:, None, None, :]), x)
    return torch.where(mask[..., None], h + b.mlp(b.norm2(h)), h)


def scores_with_an_axis(m, x):
    """Scores and mask [B, N, 1]."""
    scores = m.router(x)
    index = scores.topk(K, dim=1).indices
    mask = torch.zeros_like(scores).scatter(1, index, 1.0)
    update = residual_update(m.block, x, (1 - mask.transpose(1, 2)[:, None]) * -1e9)
    return x + mask * torch.sigmoid(scores) * update


def weighted(weight):
    def rule(m, x):
        scores = scores_of(m, x)
        mask = top_k_mask(scores, K, "mul")
        update = residual_update(m.block, x, minus(-1e9)(mask))
        return x + (mask * weight(scores))[..., None] * update

    return rule


def filled(m, x):
    """masked_fill with −∞, and by multiplication with the mask."""
    mask = chosen(m, x)
    bias = torch.zeros_like(mask).masked_fill(mask == 0, -torch.inf)
    return x + mask[..., None] * residual_update(m.block, x, bias[:, None, None, :])


def additive(number):
    def rule(m, x):
        mask = chosen(m, x)
        return x + mask[..., None] * residual_update(m.block, x, minus(number)(mask))

    return rule


def by_hand(causal):
    """Attention in plain products."""

    def rule(m, x):
        mask, b = chosen(m, x), m.block
        q, k, v = b.attention._heads(b.norm1(x))
        bias = minus(-1e9)(mask)
        if causal:
            bias = bias + torch.full((TOKENS, TOKENS), -1e9, dtype=x.dtype).triu(1)
        weights = torch.softmax(q @ k.transpose(-1, -2) / (DIM // HEADS) ** 0.5 + bias, -1)
        h = x + b.attention.proj((weights @ v).transpose(1, 2).reshape(x.shape))
        kept = h + b.mlp(b.norm2(h))
        return torch.where(mask.bool()[..., None], kept, x)

    return rule


def filled_by_hand(m, x):
    """Scores filled with the least number, as transformers did."""
    mask, b = chosen(m, x).bool(), m.block
    q, k, v = b.attention._heads(b.norm1(x))
    scores = (q @ k.transpose(-1, -2) / 2).masked_fill(
        ~mask[:, None, None, :], torch.finfo(x.dtype).min
    )
    h = x + b.attention.proj((torch.softmax(scores, -1) @ v).transpose(1, 2).reshape(x.shape))
    return torch.where(mask[..., None], h + b.mlp(b.norm2(h)), x)


def feed_forward_only(m, x):
    """Only the feed-forward is routed, so no key is dropped."""
    mask, b = chosen(m, x), m.block
    h = x + b.attention(b.norm1(x))
    return h + mask[..., None] * b.mlp(b.norm2(h))


def beside_text(before, after):
    """Vision tokens are routed; text before or after them is always kept."""

    def rule(m, x):
        vision = x[:, before : TOKENS - after]
        mask = top_k_mask(m.router(vision).squeeze(-1), K, "where")
        ones = mask.new_ones
        batch = x.shape[0]
        parts = (ones(batch, before), mask, ones(batch, after))
        mask = torch.cat([part for part in parts if part.shape[1]], 1)
        return add_where_kept(mask, x, residual_update(m.block, x, attention_mask(mask, True)))

    return rule


def indices_sorted(m, x):
    """The order of the indices makes no mask another."""
    scores = scores_of(m, x)
    index = scores.topk(K, dim=1).indices.sort(dim=1).values
    mask = torch.zeros_like(scores, dtype=torch.bool).scatter(1, index, True)
    return add_where_kept(mask, x, residual_update(m.block, x, attention_mask(mask, True)))


def first_of_a_sort(m, x):
    scores = scores_of(m, x)
    index = scores.argsort(dim=1, descending=True)[:, :K]
    mask = torch.zeros_like(scores).scatter(1, index, 1.0)
    return x + mask[..., None] * residual_update(m.block, x, minus(-1e9)(mask))


def smallest(m, x):
    """What the k smallest scores keep."""
    scores = scores_of(m, x)
    mask = torch.zeros_like(scores).scatter(1, scores.topk(K, 1, largest=False).indices, 1.0)
    return x + mask[..., None] * residual_update(m.block, x, minus(-1e9)(mask))


def dropped(m, x):
    """The mask names what is dropped: zeros written into ones."""
    scores = scores_of(m, x)
    gone = torch.ones_like(scores).scatter(1, scores.topk(K, 1).indices, 0.0).bool()
    update = residual_update(m.block, x, ~gone[:, None, None, :])
    return torch.where(gone[..., None], x, x + update)


def subtracted(m, x):
    mask = chosen(m, x)
    return x - mask[..., None] * residual_update(m.block, x, minus(-1e9)(mask))


def with_the_mask_as_output(m, x):
    mask = chosen(m, x)
    return x + mask[..., None] * residual_update(m.block, x, minus(-1e9)(mask)), mask


def with_an_auxiliary_loss(m, x):
    scores = scores_of(m, x)
    mask = top_k_mask(scores, K, "mul")
    loss = F.binary_cross_entropy_with_logits(scores, mask)
    return x + mask[..., None] * residual_update(m.block, x, minus(-1e9)(mask)), loss


def with_a_mean_of_the_update(m, x):
    """Reads the update at every token."""
    mask = chosen(m, x)
    update = residual_update(m.block, x, minus(-1e9)(mask))
    return x + mask[..., None] * update, (mask[..., None] * update).sum(1)


SPELLED = {
    "threshold, last value": (by_threshold(lambda s: s.topk(K, 1).values[..., -1:]), K),
    "threshold, least value": (by_threshold(lambda s: s.topk(K, 1).values.amin(1, True)), K),
    "threshold, sort": (
        by_threshold(lambda s: s.sort(dim=1, descending=True).values[:, K - 1 : K]), K
    ),
    "threshold, k-th of more": (by_threshold(lambda s: s.topk(7, 1).values[:, K - 1, None]), K),
    "interpolated": (interpolated, K),
    "two masked residuals": (two_residuals, K),
    "two wheres": (two_wheres, K),
    "scores [B, N, 1]": (scores_with_an_axis, K),
    "raw weight": (weighted(lambda s: s), K),
    "sigmoid weight": (weighted(torch.sigmoid), K),
    "softmax weight": (weighted(lambda s: torch.softmax(s, 1)), K),
    "filled with -inf": (filled, K),
    "additive -1e9": (additive(-1e9), K),
    "additive least number": (additive(torch.finfo(torch.float32).min), K),
    "attention by hand": (by_hand(False), K),
    "attention by hand, causal": (by_hand(True), K),
    "attention by hand, filled": (filled_by_hand, K),
    "text before": (beside_text(3, 0), K + 3),
    "text after": (beside_text(0, 2), K + 2),
    "text around": (beside_text(3, 2), K + 5),
    "smallest scores": (smallest, K),
    "mask of what is dropped": (dropped, K),
    "subtracted": (subtracted, K),
    "mask is an output": (with_the_mask_as_output, K),
    "mask in a loss": (with_an_auxiliary_loss, K),
    "feed-forward only": (feed_forward_only, K),
}  # fmt: skip


def spelled(rule):
    return Net(rule, block=block(), router=nn.Linear(DIM, 1))


BOTH = ("threshold, last value", "two masked residuals", "attention by hand", "text around")
VIEWS = [
    pytest.param(name, one, marks=[] if one == "fx" or name in BOTH else pytest.mark.slow)
    for name in SPELLED
    for one in ("fx", "onnx")
]


@pytest.mark.parametrize(("name", "view"), VIEWS, indirect=["view"])
def test_spelling(name, view):
    rule, kept = SPELLED[name]
    outcome = view.apply(spelled(rule), some_tokens(), *PUSH)
    assert outcome.reports[AT].applied, outcome.reports[AT].refused
    assert [extents[1] for extents in hidden(outcome.graph)] == [kept]
    if name != "feed-forward only":
        assert attention_extents(outcome.graph) == (kept, kept)


def attention_extents(graph):
    """Queries and keys of the one attention, as one op or by hand."""
    for op in graph.walk(Attention):
        return op.output.shape[2], op.require(1).shape[2]
    for op in graph.walk(Softmax):
        return op.output.shape[2:]
    return None


@pytest.mark.slow
@pytest.mark.parametrize("name", SPELLED)
def test_spelling_with_one_batch_element(name, view):
    rule, kept = SPELLED[name]
    outcome = view.apply(spelled(rule), some_tokens(1), *PUSH)
    assert [extents[1] for extents in hidden(outcome.graph)] == [kept]


@pytest.mark.slow
@pytest.mark.parametrize("name", SPELLED)
def test_spelling_with_a_dynamic_batch(name, view):
    rule, kept = SPELLED[name]
    lifting = {"dynamic_shapes": (({0: "batch"},),)}
    outcome = view.apply(spelled(rule), some_tokens(3), *PUSH, **lifting)
    assert [extents[1] for extents in hidden(outcome.graph)] == [kept]


def test_an_update_that_is_read_elsewhere_stays_exact(view):
    view.apply(spelled(with_a_mean_of_the_update), some_tokens(), *PUSH)


# -- masks that only look as if a single choice made them -----------------------------------------


def both_halves(m, x):
    """One choice for two batch elements, joined along the batch."""
    mask = top_k_mask(scores_of(m, x), K, "where")
    mask, x = torch.cat((mask, mask)), torch.cat((x, x + 1))
    return add_where_kept(mask, x, residual_update(m.block, x, attention_mask(mask, False)))


def every_pair(m, x):
    """Kept by one batch element or the other."""
    mask = top_k_mask(scores_of(m, x), K, "where")
    either, pairs = mask[:, None] | mask[None], x[:, None] + x[None]
    return torch.where(either[..., None], m.block.mlp(pairs), pairs)


def two_choices(fn):
    """Two routers: kept by both, or by either."""

    def rule(m, x):
        first, second = chosen(m, x).bool(), top_k_mask(m.other(x)[..., 0], K, "where")
        mask = fn(first, second)
        update = residual_update(m.block, x, minus(-1e9)(mask.to(x.dtype)))
        return torch.where(mask[..., None], x + update, x)

    return rule


def mask_of_other_tokens(m, x):
    """The mask is turned round: it is of the scores' positions, but not in their order."""
    mask = chosen(m, x).flip(1)
    return x + mask[..., None] * residual_update(m.block, x, minus(-1e9)(mask))


def shifted(m, x):
    mask = chosen(m, x)
    mask = torch.cat((mask[:, 1:], mask[:, :1]), 1)
    return x + mask[..., None] * residual_update(m.block, x, minus(-1e9)(mask))


def soft(m, x):
    """Dropped tokens count a little, as keys and in the sum."""
    mask = chosen(m, x) * 0.9 + 0.1
    return x + mask[..., None] * residual_update(m.block, x, minus(-3.0)(mask))


def keys_of_another_choice(m, x):
    mask, other = chosen(m, x), top_k_mask(m.other(x)[..., 0], K, "mul")
    return x + mask[..., None] * residual_update(m.block, x, minus(-1e9)(other))


def partly_scattered(m, x):
    """The second half of the top-k's indices only."""
    scores = scores_of(m, x)
    index = scores.topk(6, 1).indices[:, 2:]
    mask = torch.zeros_like(scores).scatter(1, index, 1.0)
    return x + mask[..., None] * residual_update(m.block, x, minus(-1e9)(mask))


def several_chosen_per_token(m, x):
    """A top-k over experts, not tokens."""
    scores = m.experts(x)
    mask = torch.zeros_like(scores).scatter(2, scores.topk(2, 2).indices, 1.0)
    return x + (mask[..., :1] * scores[..., :1]) * m.block.mlp(x)


def low_scores_compared(m, x):
    """A score and a low number make a low number, but which one is not known."""
    low = scores_of(m, x) + (1 - chosen(m, x)) * -1e5
    return torch.where((low > -1e5)[..., None], x + m.block.mlp(x), x)


def low_scores_raised(m, x):
    low = scores_of(m, x) + (1 - chosen(m, x)) * -1e5
    return x + (low + 1e5)[..., None] * m.block.mlp(x)


# The first two are masks that are not found so far; the others are none of one choice's.
LOOKALIKES = {
    "sorted indices": indices_sorted,
    "first of an argsort": first_of_a_sort,
    "joined along the batch": both_halves,
    "pairs of batch elements": every_pair,
    "kept by both": two_choices(torch.logical_and),
    "kept by either": two_choices(torch.logical_or),
    "turned round": mask_of_other_tokens,
    "shifted": shifted,
    "soft": soft,
    "keys of another choice": keys_of_another_choice,
    "some of the indices": partly_scattered,
    "experts": several_chosen_per_token,
    "low scores, compared": low_scores_compared,
    "low scores, raised": low_scores_raised,
}


@pytest.mark.parametrize("name", LOOKALIKES)
def test_lookalikes_stay_exact(name, either_view):
    net = Net(
        LOOKALIKES[name],
        block=block(),
        router=nn.Linear(DIM, 1),
        other=nn.Linear(DIM, 1),
        experts=nn.Linear(DIM, 6),
    )
    either_view.apply(net, some_tokens(), *PUSH)


def always_kept_after(m, x):
    mask = top_k_mask(m.router(x[:, :-1]).squeeze(-1), 3, "where")
    mask = torch.cat((mask, mask.new_ones(mask.shape[0], 1)), 1)
    return add_where_kept(mask, x, residual_update(m.block, x, attention_mask(mask, False)))


def test_text_after_a_dynamic_number_of_tokens(either_view):
    net = spelled(always_kept_after).double().eval()
    (x,) = doubled(some_tokens())
    graph, _ = either_view.lift(net, (x,), dynamic_shapes=(({1: Dim.DYNAMIC},),))
    for one in PUSH:
        run_pass(graph, one)
    for tokens in (5, TOKENS, 20):
        (x,) = doubled(some_tokens(tokens=tokens))
        with torch.no_grad():
            expected = net(x).numpy()
        assert error(graph.run([x.numpy()]), [expected]) <= BOUND


# -- p-MoD's table --------------------------------------------------------------------------------


def test_mean_share_of_32_layers():
    assert np.mean(prd_ratios(32)) == pytest.approx(0.5375, abs=1e-12)


@pytest.mark.parametrize("depth", [4, pytest.param(32, marks=pytest.mark.slow)])
def test_kept_keys_and_values(depth):
    """The report's table, layer by layer, gives the schedule for the vision tokens."""
    config = replace(PMOD_TINY, depth=depth, vision_tokens=40)
    report = passel.optimize(PMoD(config).eval(), pmod_inputs(config)).report
    text = config.text_tokens
    kept = [layer.keys - text for layer in report.after.layers]
    assert [layer.keys for layer in report.before.layers] == [text + 40] * depth
    assert kept == list(config.capacities)
    assert [layer.queries for layer in report.after.layers] == [text + k for k in kept]
    share, mean = sum(kept) / (40 * depth), np.mean(config.ratios)
    assert mean - 1 / 40 <= share <= mean
    per_token = report.before.kv_bytes / (depth * (text + 40))
    vision = report.after.kv_bytes - depth * text * per_token
    assert vision / (depth * 40 * per_token) == pytest.approx(share)


# -- the comparison sees what is broken -----------------------------------------------------------


def test_rows_put_back_elsewhere_are_seen(fx_view, monkeypatch):
    put = choose.Cutter.put

    def broken(self, base, axis, kept, updates, name):
        return put(self, base, axis, kept, self.take(base, axis, kept), name)

    monkeypatch.setattr(choose.Cutter, "put", broken)
    with pytest.raises(AssertionError, match="relative error"):
        fx_view.apply(spelled(two_wheres), some_tokens(), *PUSH)


def test_indices_out_of_order_are_seen(fx_view, monkeypatch):
    """Causal attention among kept tokens needs them in their order."""
    single = indices.Indices._single

    def unsorted(self, choice):
        sort = single(self, choice).producer
        return sort.require(0)

    monkeypatch.setattr(indices.Indices, "_single", unsorted)
    model = MoDGPT(GPT_CONFIG, Routing(0.5))
    with pytest.raises(AssertionError, match="relative error"):
        fx_view.apply(model, gpt_inputs(GPT_CONFIG, 2, TOKENS), *PUSH)
