"""Capacities, masks and weights of Mixture-of-Depths models, against their definitions."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from passel.models.routing import (
    MASK_FORMS,
    add_where_kept,
    attention_mask,
    capacity,
    check_mask_form,
    prd_capacities,
    prd_ratios,
    select_kept,
    tanh_norm,
    top_k_mask,
)


def scores(batch: int = 2, tokens: int = 6, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, tokens, generator=generator, dtype=torch.float64)


def test_prd_is_the_releases_for_its_32_layers() -> None:
    ratios = prd_ratios(32)
    assert math.fsum(ratios) / 32 == pytest.approx(0.5375, abs=1e-15)
    decaying = [486, 464, 440, 414, 388, 360, 331, 302, 273, 244, 215, 187, 161, 135, 111, 89]
    assert prd_capacities(ratios, 576) == (*[576] * 8, *decaying, *[86] * 8)
    assert prd_capacities(ratios, 2880)[8:12] == (2432, 2321, 2201, 2074)
    assert set(prd_capacities(ratios, 2880)[24:]) == {432}


@given(st.integers(2, 60), st.integers(1, 100), st.integers(1, 100))
def test_prd_decays_within_its_bounds(depth: int, one: int, other: int) -> None:
    minimum, maximum = sorted((one / 100, other / 100))
    ratios = prd_ratios(depth, maximum, minimum)
    assert ratios[0] == 1
    assert list(ratios) == sorted(ratios, reverse=True)
    assert all(ratio == 1 or minimum <= ratio <= maximum for ratio in ratios)


def test_capacity_truncates_and_is_at_least_one() -> None:
    assert [capacity(0.5, n) for n in (1, 2, 5, 16)] == [1, 1, 2, 8]
    assert capacity(1.0, 7) == 7
    assert capacity(0.85, 576) == 489


def test_tanh_norm_lies_around_one() -> None:
    weights = tanh_norm(torch.tensor([-100.0, 0.0, 0.5, 100.0], dtype=torch.float64))
    expected = [0.8, 1.0, 1 + 0.2 * math.tanh(0.5), 1.2]
    assert weights.tolist() == pytest.approx(expected, abs=1e-15)


@given(st.integers(1, 6), st.integers(0, 99))
def test_masks_keep_the_k_largest_in_either_form(k: int, seed: int) -> None:
    values = scores(seed=seed)
    where, mul = (top_k_mask(values, k, form) for form in MASK_FORMS)
    assert where.dtype is torch.bool
    assert mul.dtype is torch.float64
    assert torch.equal(where, mul.bool())
    for row, kept in zip(values.tolist(), where.tolist(), strict=True):
        assert {v for v, keep in zip(row, kept, strict=True) if keep} == set(sorted(row)[-k:])


@pytest.mark.parametrize("causal", [False, True])
def test_attention_masks_hide_skipped_keys_and_later_ones(causal: bool) -> None:
    where, mul = (attention_mask(top_k_mask(scores(), 3, form), causal) for form in MASK_FORMS)
    kept = top_k_mask(scores(), 3, "where")
    for b in range(2):
        for query in range(6):
            for key in range(6):
                sees = bool(kept[b, key]) and (key <= query or not causal)
                assert where.expand(2, 1, 6, 6)[b, 0, query, key] == sees
                assert (mul.expand(2, 1, 6, 6)[b, 0, query, key] == 0) == sees
    assert mul.min() <= -1e9


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_additive_mask_is_finite_and_hides(dtype: torch.dtype) -> None:
    mask = attention_mask(top_k_mask(scores().to(dtype), 3, "mul"), causal=True)
    assert mask.isfinite().all()
    assert ((mask == 0) | (mask.float().exp() == 0)).all()


def test_both_forms_apply_an_update_alike() -> None:
    x, y = torch.randn(2, 6, 3, dtype=torch.float64), torch.randn(2, 6, 3, dtype=torch.float64)
    where, mul = (top_k_mask(scores(), 2, form) for form in MASK_FORMS)
    assert torch.equal(add_where_kept(where, x, y), add_where_kept(mul, x, y))
    assert torch.equal(select_kept(where, x, y), select_kept(mul, x, y))
    assert torch.equal(select_kept(where, x, y)[where], x[where])
    assert torch.equal(select_kept(where, x, y)[~where], y[~where])


def test_bad_arguments_are_refused() -> None:
    for ratio in (0.0, -0.5, 1.5, math.nan):
        with pytest.raises(
            ValueError, match=f"expected a ratio above 0 and at most 1, got {ratio}"
        ):
            capacity(ratio, 8)
    for k in (0, 7):
        with pytest.raises(
            ValueError, match=f"expected k from 1 to the 6 tokens there are, got {k}"
        ):
            top_k_mask(scores(), k, "where")
    with pytest.raises(ValueError, match=r"expected mask_form in .*, got 'gather'"):
        check_mask_form("gather")
    with pytest.raises(ValueError, match="expected a depth of at least 2, got 1"):
        prd_ratios(1)
    with pytest.raises(ValueError, match=r"expected minimum <= maximum 0\.4, got 0\.5"):
        prd_ratios(8, maximum=0.4, minimum=0.5)
    with pytest.raises(ValueError, match="expected every layer to keep a token of 4"):
        prd_capacities(prd_ratios(4), 4)
