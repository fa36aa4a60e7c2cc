"""Attention in arithmetic is found, however it is scaled and masked; near misses are left."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from passel.graph import ops
from passel.passes import Canonicalize
from passel.passes.canonical.attentions import _composed
from passel.passes.driver import run_pass

TOKENS, WIDTH = 5, 4
SHAPE = (2, 3, TOKENS, WIDTH)
CAUSAL = torch.full((1, 1, TOKENS, TOKENS), -1e4).triu(1)


class Spelled(nn.Module):
    """softmax(score(q, k))·v with a score of the test's choice."""

    def __init__(self, score, axis: int = -1) -> None:
        super().__init__()
        self.score, self.axis = score, axis
        self.register_buffer("mask", CAUSAL)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.softmax(self.score(self, q, k), self.axis) @ v


def operands(*shapes: tuple[int, ...]) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(shape, generator=generator) for shape in shapes or (SHAPE,) * 3)


SCORES = {
    "plain": lambda m, q, k: q @ k.transpose(-1, -2),
    "scaled scores": lambda m, q, k: (q @ k.transpose(-1, -2)) * 0.5,
    "divided scores": lambda m, q, k: (q @ k.transpose(-1, -2)) / 2.0,
    "scaled query": lambda m, q, k: (0.5 * q) @ k.transpose(-1, -2),
    "both scaled": lambda m, q, k: (q * 0.7) @ (k.transpose(-1, -2) * 0.7),
    "masked": lambda m, q, k: (q @ k.transpose(-1, -2)) * 0.5 + m.mask,
    "mask first": lambda m, q, k: m.mask + (q @ k.transpose(-1, -2)),
}


@pytest.mark.parametrize("score", SCORES.values(), ids=SCORES)
def test_attention_is_found(view, score) -> None:
    outcome = view.apply(Spelled(score), operands(), Canonicalize(), random=False)
    assert outcome.after == {"Attention": 1}


MISSES = {
    "softmax over the queries": Spelled(SCORES["plain"], axis=-2),
    "a scale per token": Spelled(lambda m, q, k: (q @ k.transpose(-1, -2)) * q[..., :1]),
    "keys not transposed": Spelled(lambda m, q, k: q @ k.reshape(2, 3, WIDTH, TOKENS)),
}


@pytest.mark.parametrize("module", MISSES.values(), ids=MISSES)
def test_a_near_miss_is_left(view, module) -> None:
    outcome = view.apply(module, operands(), Canonicalize(), random=False)
    assert "Attention" not in outcome.after
    assert outcome.after["Softmax"] == 1


def test_probabilities_that_are_also_returned_are_left(view) -> None:
    class Returned(nn.Module):
        def forward(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
            weights = torch.softmax(q @ k.transpose(-1, -2), -1)
            return weights @ v, weights

    assert "Attention" not in view.apply(Returned(), operands(), Canonicalize()).after


def test_the_exporters_guard_and_empty_mask_go(view) -> None:
    """torch.onnx below opset 23 spells attention with IsNaN and Where, and adds a mask of zeros."""

    class Fused(nn.Module):
        def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            mask = torch.ones(TOKENS, TOKENS, dtype=torch.bool)
            return nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    outcome = view.apply(Fused(), operands(), Canonicalize(), random=False, opset=18)
    assert outcome.after["Attention"] == 1
    (attention,) = (op for op in outcome.graph.ops if op.kind == "Attention")
    assert {"Softmax", "isnan", "where"}.isdisjoint(outcome.after)
    if view.name == "onnx":
        assert attention.operand(3) is None


def test_fewer_key_heads_are_left(view) -> None:
    inputs = operands(SHAPE, (2, 1, TOKENS, WIDTH), (2, 1, TOKENS, WIDTH))
    outcome = view.apply(Spelled(SCORES["plain"]), inputs, Canonicalize(), random=False)
    assert "Attention" not in outcome.after


@given(data=st.data())
def test_merge_permute_split_is_a_reshape_and_a_permutation(data) -> None:
    before = tuple(data.draw(st.lists(st.sampled_from([1, 2, 3, 5]), min_size=2, max_size=5)))
    cut = data.draw(st.integers(0, len(before) - 2))
    merged = (*before[:cut], before[cut] * before[cut + 1], *before[cut + 2 :])
    perm = tuple(data.draw(st.permutations(range(len(merged)))))
    pieces = [(axis,) for axis in merged]
    pieces[cut] = before[cut : cut + 2]
    after = tuple(dim for middle in perm for dim in pieces[middle])
    x = np.arange(int(np.prod(before))).reshape(before)
    want = x.reshape(merged).transpose(perm).reshape(after)
    found = _composed(before, merged, perm, after)
    if found is not None:
        shape, order = found
        np.testing.assert_array_equal(x.reshape(shape).transpose(order), want)
    elif 1 not in before:
        assert len(set(before)) < len(before)  # only equal extents may be ambiguous


class Masked(nn.Module):
    """Attention with a constant mask."""

    def __init__(self, mask: Tensor, **how: bool) -> None:
        super().__init__()
        self.register_buffer("mask", mask)
        self.how = how

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(q, k, v, self.mask, **self.how)


def hidden(number: float, *shape: int) -> Tensor:
    """Zeros, but `number` for the keys after a query."""
    return torch.full((*shape, TOKENS, TOKENS), number).triu(1)


def masked(view, mask: Tensor, inputs: tuple[Tensor, ...] = ()) -> ops.Attention:
    """The attention that is left of one with this mask."""
    how = {"random": False, "opset": 23}
    outcome = view.apply(Masked(mask), inputs or operands(), Canonicalize(), **how)
    (attention,) = outcome.graph.walk(ops.Attention)
    return attention


CAUSES = {
    "bool": torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril(),
    "bool of every head": torch.ones(2, 3, TOKENS, TOKENS, dtype=torch.bool).tril(),
    "infinite": hidden(-torch.inf),
    "infinite of rank 4": hidden(-torch.inf, 1, 1),
    "-1e9": hidden(-1e9),
    "-1e4": hidden(-1e4),
    "the smallest number": hidden(torch.finfo(torch.float32).min),
    "another number a head": torch.cat([hidden(-1e9, 1, 1), hidden(-torch.inf, 1, 2)], 1),
}


@pytest.mark.parametrize("mask", CAUSES.values(), ids=CAUSES)
def test_a_constant_causal_mask_is_what_causal_says(view, mask: Tensor) -> None:
    attention = masked(view, mask)
    assert attention.causal
    assert attention.operand(3) is None


def with_one(mask: Tensor, row: int, column: int, number: float) -> Tensor:
    changed = mask.clone()
    changed[..., row, column] = number
    return changed


OTHER_MASKS = {
    "a low score": hidden(-100.0),
    "a bias on the keys seen": hidden(-torch.inf) + 0.5,
    "the keys before": hidden(-torch.inf).T,
    "only the key itself": hidden(-torch.inf) + hidden(-torch.inf).T,
    "two keys less": with_one(CAUSES["bool"], 3, 1, False),
    "one key of the future": with_one(hidden(-1e9), 1, 3, 0.0),
    "another number a row": hidden(-1e9) * (1 + torch.arange(TOKENS)[:, None]),
    "relative positions": hidden(-torch.inf) + (torch.arange(TOKENS)[:, None]).expand(-1, TOKENS),
    "a window": hidden(-torch.inf) + hidden(-torch.inf).T.tril(-3),
    "one head that sees all": torch.cat([hidden(-1e9, 1, 2), hidden(0.0, 1, 1)], 1),
    "one row for all": torch.tensor([[[[0.0, 0.0, 0.0, -1e9, -1e9]]]]),
}


@pytest.mark.parametrize("mask", OTHER_MASKS.values(), ids=OTHER_MASKS)
def test_another_mask_is_left(view, mask: Tensor) -> None:
    attention = masked(view, mask)
    assert not attention.causal
    assert attention.operand(3) is not None


@pytest.mark.parametrize("keys", [TOKENS - 1, TOKENS + 2])
def test_a_rectangular_mask_is_left(view, keys: int) -> None:
    inputs = operands(SHAPE, (2, 3, keys, WIDTH), (2, 3, keys, WIDTH))
    attention = masked(view, torch.ones(TOKENS, keys, dtype=torch.bool).tril(), inputs)
    assert not attention.causal
    assert attention.operand(3) is not None


def test_a_computed_mask_is_left(view) -> None:
    class Given(nn.Module):
        def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
            return nn.functional.scaled_dot_product_attention(q, k, v, mask)

    inputs = (*operands(), hidden(-1e9))
    outcome = view.apply(Given(), inputs, Canonicalize(), random=False, opset=23)
    (attention,) = outcome.graph.walk(ops.Attention)
    assert not attention.causal


def test_both_a_mask_and_causal_stay(fx_view) -> None:
    """Torch refuses it, ONNX does not: the mask of one that is causal already is not looked at."""
    graph, _ = fx_view.lift(Masked(hidden(-1e9)), operands())
    (attention,) = graph.walk(ops.Attention)
    graph.update(attention, causal=True)
    assert not run_pass(graph, Canonicalize()).applied
    assert attention.operand(3) is not None
