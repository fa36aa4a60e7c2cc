"""Attention in arithmetic is found, however it is scaled and masked; near misses are left."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from passel.passes import Canonicalize
from passel.passes.canonical.attentions import _composed

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
