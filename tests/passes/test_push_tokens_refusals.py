"""Every reason for which push-tokens leaves a choice alone, and that it then changes nothing."""

import ast
import inspect

import numpy as np
import pytest
import torch
from torch import nn

from passel.graph.ops import TopK
from passel.models.mod import residual_update
from passel.models.routing import attention_mask, top_k_mask
from passel.passes import PushTokens, push_tokens
from passel.passes.driver import run_pass, run_passes
from passel.passes.tokens import refusals
from tests.residual import fingerprint
from tests.token_nets import DIM, PREPARE, PUSH, TOKENS, Net, attended, block, hidden, some_tokens

K = 4


def scored(m, x):
    return m.router(x).squeeze(-1)


def all_read(m, x):
    return m.head(m.block(x))


def nearly_all_read(m, x):
    return m.head(m.block(x)[:, 1:])


def experts(m, x):
    """The top-k's values and indices mix experts; no mask."""
    values, index = m.experts(x).topk(2, dim=-1)
    return x * values.sum(-1, keepdim=True) + index.sum(-1, keepdim=True)


def gathered(m, x):
    """Chosen tokens are all that is computed already."""
    index = scored(m, x).topk(K, dim=1).indices
    return m.block(x.gather(1, index[..., None].expand(-1, -1, DIM)))


def of_count(k):
    def rule(m, x):
        mask = top_k_mask(scored(m, x), k, "where")
        update = residual_update(m.block, x, attention_mask(mask, False))
        return torch.where(mask[..., None], x + update, x)

    return rule


def none_kept(m, x):
    scores = scored(m, x)
    index = scores.topk(0, dim=1).indices
    mask = torch.zeros_like(scores).scatter(1, index, 1.0)
    return x + mask[..., None] * m.block.mlp(x)


def own_output(m, x):
    """The router sees what the block makes of all tokens."""
    y = x + m.block.mlp(m.block.norm2(x))
    mask = top_k_mask(scored(m, y), K, "where")
    return torch.where(mask[..., None], y, x)


def keys_not_masked(m, x):
    """Kept tokens attend to all tokens."""
    mask = top_k_mask(scored(m, x), K, "where")
    return torch.where(mask[..., None], x + residual_update(m.block, x, None), x)


def no_product(m, x):
    mask = top_k_mask(scored(m, x), K, "where")
    return torch.where(mask[..., None], torch.tanh(x), x)


def threshold(m, x):
    scores = scored(m, x)
    mask = scores >= scores.topk(K, dim=1).values[:, -1:]
    return torch.where(mask[..., None], x + m.block.mlp(x), x)


FIRST, REFUSE = PushTokens(), PushTokens(ties="refuse")
CASES = {
    "nearly every position is read, and cutting costs a copy": (nearly_all_read, FIRST),
    "the router reads the block's own output": (own_output, FIRST),
    "every position of its result is read": (all_read, FIRST),
    "no mask is made of the positions that it chooses": (experts, FIRST),
    "no token is kept": (none_kept, FIRST),
    "every token is kept": (of_count(TOKENS), FIRST),
    "dropped tokens are read as keys": (keys_not_masked, FIRST),
    "no product is computed for kept tokens alone": (no_product, FIRST),
    "the mask keeps more tokens where scores tie": (threshold, REFUSE),
}
UNREACHED = {
    "more tokens are asked for than there are": "torch refuses such a net; see the ONNX test",
}


def net_of(rule):
    return Net(rule, block=block(), router=nn.Linear(DIM, 1), experts=nn.Linear(DIM, 6))


def refused(graph, one):
    """The reasons, once it is seen that the graph did not change."""
    before = fingerprint(graph)
    report = run_pass(graph, one)
    assert not report.applied
    assert fingerprint(graph) == before
    assert all(refusal.node for _, refusal in report.refused)
    return report.reasons


@pytest.mark.parametrize("reason", CASES)
def test_refusal(reason, view):
    rule, one = CASES[reason]
    graph, _ = view.lift(net_of(rule), some_tokens())
    run_passes(graph, PREPARE)
    assert reason in refused(graph, one)


@pytest.mark.parametrize("reason", CASES)
def test_a_refused_net_stays_exact(reason, fx_view):
    rule, _ = CASES[reason]
    fx_view.apply(net_of(rule), some_tokens(), *PUSH)


def test_every_reason_is_tested():
    written = {reason for module in (push_tokens, refusals) for reason in reasons(module)}
    assert written == {*CASES, *UNREACHED}


def reasons(module):
    """The literals that refusals of a module are made from, by name, or one of two."""
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Refusal":
            if isinstance(node.args[0], ast.Constant):
                yield node.args[0].value
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "reason":
            assert isinstance(node.value, ast.IfExp)
            for branch in (node.value.body, node.value.orelse):
                yield eval(ast.unparse(branch), vars(module))


def test_the_detail_names_the_numbers(fx_view):
    graph, _ = fx_view.lift(net_of(of_count(TOKENS)), some_tokens())
    run_passes(graph, PREPARE)
    report = run_pass(graph, FIRST)
    (refusal,) = [r for _, r in report.refused if r.reason == "every token is kept"]
    assert refusal.detail == f"{TOKENS} of {TOKENS}"
    assert refusal.node in {op.name for op in graph.walk(TopK)}


MORE = """
    <ir_version: 9, opset_import: ["" : 18]>
    agraph (float[2,4] s, float[2,4,3] x) => (float[2,4,3] y)
    <float[3,3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9}, int64[1] k = {5}, float[1] one = {1},
     int64[2] all = {2, 4}, int64[2] some = {2, 5}, int64[1] last = {2}, float zero = {0}>
    {
        v, i = TopK <axis = 1> (s, k)
        z = Expand(zero, all)
        o = Expand(one, some)
        m = ScatterElements <axis = 1> (z, i, o)
        u = Unsqueeze(m, last)
        f = MatMul(x, w)
        p = Mul(u, f)
        y = Add(x, p)
    }"""


def test_more_than_there_are(onnx_text):
    """No runtime runs it; the pass must not make something else of it."""
    graph, _ = onnx_text(MORE, np.zeros((2, 4), np.float32), np.zeros((2, 4, 3), np.float32))
    found = refused(graph, FIRST)
    assert set(found) <= {
        "more tokens are asked for than there are",
        "no mask is made of the positions that it chooses",
        "every position of its result is read",
    }
    assert found


def test_threshold_is_pushed_by_default(fx_view):
    outcome = fx_view.apply(net_of(threshold), some_tokens(), *PUSH)
    assert hidden(outcome.graph) == [(2, K)]


def test_ties_is_checked():
    with pytest.raises(ValueError, match="expected ties to be one of"):
        PushTokens(ties="last")


def test_gathered_already(fx_view):
    outcome = fx_view.apply(net_of(gathered), some_tokens(), *PUSH)
    assert hidden(outcome.graph) == [(2, K)]
    assert attended(outcome.graph) == [(K, K, False)]


# -- exclude= -------------------------------------------------------------------------------------


def test_an_excluded_op_keeps_its_tokens(fx_view):
    """`exclude=` names an op that the rewrite would make anew."""
    net = Net(lambda m, x: m.head(m.run(x)[:, 0]), block(), block())
    graph, _ = fx_view.lift(net, some_tokens())
    run_passes(graph, PREPARE)
    before = fingerprint(graph)
    (report,) = run_passes(graph, [FIRST], exclude=["blocks.1.mlp"])
    assert report.excluded
    assert not report.applied
    assert fingerprint(graph) == before


# -- masks that something else reads too ----------------------------------------------------------


def mask_and(other, causal=True):
    def rule(m, x):
        mask = top_k_mask(scored(m, x), K, "mul")
        update = residual_update(m.block, x, attention_mask(mask, causal))
        return x + mask[..., None] * update, other(m, x, mask, update)

    return rule


SHARED = {
    "output": lambda m, x, mask, update: mask,
    "auxiliary loss": lambda m, x, mask, update: (mask * scored(m, x)).mean(),
    "share kept": lambda m, x, mask, update: mask.sum(1),
    "attention's mask": lambda m, x, mask, update: attention_mask(mask, True),
    "another feed-forward": lambda m, x, mask, update: m.head(mask[..., None] * x),
}


@pytest.mark.parametrize("name", SHARED)
def test_a_mask_that_is_read_elsewhere(name, either_view):
    outcome = either_view.apply(net_of(mask_and(SHARED[name])), some_tokens(), *PUSH)
    assert hidden(outcome.graph) == [(2, K)]
    assert [extents[:2] for extents in attended(outcome.graph)] == [(K, K)]


@pytest.mark.parametrize("causal", [False, True])
def test_an_update_that_is_an_output_is_computed_whole(causal, either_view):
    """With `causal`, tokens before the first kept one see no kept key at all, only finite masks."""
    rule = mask_and(lambda m, x, mask, update: update, causal)
    outcome = either_view.apply(net_of(rule), some_tokens(), *PUSH)
    assert hidden(outcome.graph) == [(2, TOKENS)]
