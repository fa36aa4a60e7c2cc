"""The p-MoD decoder: masked equals gathered, causality, its configurations and exports."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.export import Dim, export

from passel.models import (
    PMOD_BENCH,
    PMOD_BENCH_DENSE,
    PMOD_TINY,
    PMoD,
    PMoDConfig,
    PMoDLayer,
    pmod_inputs,
    randomize,
)
from passel.models.llama import LlamaBlock, RotaryAttention, rope_tables, rotate
from passel.models.pmod import RANKS
from passel.models.routing import MASK_FORMS, tanh_norm, top_k_mask

BOUND = 1e-12

configs = st.builds(
    lambda tokens, text, start, ratios, **rest: replace(
        PMOD_TINY,
        vision_tokens=tokens,
        text_tokens=text,
        vision_start=min(start, text),
        min_ratio=min(ratios),
        max_ratio=max(ratios),
        **rest,
    ),
    tokens=st.integers(10, 25),
    text=st.integers(0, 6),
    start=st.integers(0, 6),
    ratios=st.tuples(st.floats(0.1, 1), st.floats(0.1, 1)),
    depth=st.integers(2, 6),
    rank_on=st.sampled_from(RANKS),
    mask_form=st.sampled_from(MASK_FORMS),
)


def ready(config: PMoDConfig) -> PMoD:
    model = PMoD(config)
    randomize(model).double().eval()
    return model


def inputs_of(config: PMoDConfig, batch: int = 1, seed: int = 0) -> tuple[Tensor, Tensor]:
    vision, ids = pmod_inputs(config, batch, seed)
    return vision.double(), ids


@given(configs, st.integers(1, 3), st.integers(0, 99))
def test_gathered_equals_dense(config: PMoDConfig, batch: int, seed: int) -> None:
    model, inputs = ready(config), inputs_of(config, batch, seed)
    with torch.no_grad():
        torch.testing.assert_close(
            model.forward_gathered(*inputs), model(*inputs), rtol=0, atol=BOUND
        )


@torch.no_grad()
def test_a_layer_is_the_released_three_case_equation() -> None:
    config = PMOD_TINY
    layer, k = ready(config).layers[2], config.capacities[2]
    x = torch.randn(1, 27, config.dim, dtype=torch.float64)
    cos, sin = rope_tables(27, 8, x)
    vision = range(3, 23)
    logits = layer.router(x)[0, :, 0]
    chosen = sorted(vision, key=lambda i: -logits[i])[:k]
    kept = sorted({*range(27)} - {*vision} | {*chosen})
    block, y = layer.block, torch.empty_like(x)
    h = x[:, kept] + block.attention(block.norm1(x[:, kept]), cos[kept], sin[kept])
    f = block.mlp(block.norm2(h))
    for i in range(27):
        w = 0.2 * logits[i].tanh() + 1
        if i not in kept:
            y[0, i] = w * x[0, i]
        else:
            at = kept.index(i)
            y[0, i] = h[0, at] + (w if i in chosen else 1) * f[0, at]
    torch.testing.assert_close(layer(x, cos, sin), y, rtol=0, atol=BOUND)
    torch.testing.assert_close(layer.forward_gathered(x, cos, sin), y, rtol=0, atol=BOUND)


@torch.no_grad()
def test_text_after_vision_is_seen_by_later_tokens_only() -> None:
    model, (vision, ids) = ready(PMOD_TINY), inputs_of(PMOD_TINY)
    changed = ids.clone()
    changed[0, 5] = (ids[0, 5] + 1) % PMOD_TINY.vocab
    same = (model(vision, ids) == model(vision, changed)).all(dim=-1)[0]
    assert same[: 20 + 5].all()
    assert not same[20 + 5 :].any()


@torch.no_grad()
@pytest.mark.parametrize("form", MASK_FORMS)
def test_a_skipped_token_changes_no_other(form: str) -> None:
    layer = ready(replace(PMOD_TINY, mask_form=form)).layers[3]
    layer.router.weight.zero_()
    layer.router.weight[0, 0] = 1
    x = torch.randn(1, 27, PMOD_TINY.dim, dtype=torch.float64)
    tables = rope_tables(27, 8, x)
    kept = torch.ones(27, dtype=torch.bool)
    kept[3:23] = top_k_mask(x[:, 3:23, 0], layer.k, "where")[0]
    changed = x.clone()
    changed[0, ~kept, 1:] += 1
    assert torch.equal(layer(changed, *tables)[0, kept], layer(x, *tables)[0, kept])
    w = tanh_norm(layer.router(x))
    assert torch.equal(layer(x, *tables)[0, ~kept], (w * x)[0, ~kept])


def test_ranking_by_weight_ties_in_half_precision_where_logits_do_not() -> None:
    logits = torch.linspace(0.1, 0.11, 50).bfloat16()
    assert len(logits.unique()) > 5 * len(tanh_norm(logits).unique())


@pytest.mark.parametrize("start", [0, 3, 7])
@pytest.mark.parametrize("form", MASK_FORMS)
def test_exports(form: str, start: int) -> None:
    config = replace(PMOD_TINY, mask_form=form, vision_start=start, depth=3)
    model = randomize(PMoD(config)).eval()
    inputs, (vision, ids) = pmod_inputs(config, 2), pmod_inputs(config, 3)
    batch = Dim("batch")
    static = export(model, inputs).module()
    dynamic = export(model, inputs, dynamic_shapes=({0: batch}, {0: batch})).module()
    with torch.no_grad():
        assert torch.equal(static(*inputs), model(*inputs))
        assert torch.equal(dynamic(vision, ids), model(vision, ids))


@pytest.mark.parametrize("start", [0, 3])
@pytest.mark.parametrize("form", MASK_FORMS)
def test_exports_with_dynamic_text(form: str, start: int) -> None:
    config = replace(PMOD_TINY, mask_form=form, vision_start=start, depth=3)
    model = randomize(PMoD(config)).eval()
    # torch.export fixes extents below 2: the text after the vision tokens needs two.
    text = Dim("text", min=start + 2)
    program = export(model, pmod_inputs(config), dynamic_shapes=({}, {1: text}))
    vision, ids = pmod_inputs(replace(config, text_tokens=11))
    with torch.no_grad():
        assert torch.equal(program.module()(vision, ids), model(vision, ids))


def test_rotary_scores_depend_on_distances_only() -> None:
    query, key = torch.randn(2, 1, 1, 1, 8, dtype=torch.float64)
    cos, sin = rope_tables(40, 8, query)

    def score(i: int, j: int) -> Tensor:
        at = [slice(place, place + 1) for place in (i, j)]
        turned = [rotate(x, cos[s], sin[s]) for x, s in zip((query, key), at, strict=True)]
        return (turned[0] * turned[1]).sum()

    torch.testing.assert_close(score(9, 4), score(35, 30), rtol=0, atol=BOUND)
    torch.testing.assert_close(score(0, 0), (query * key).sum(), rtol=0, atol=BOUND)
    assert (score(9, 4) - score(9, 5)).abs() > 1e-3


def test_benchmark_has_llavas_proportions_and_a_dense_twin() -> None:
    assert (PMOD_BENCH.vision_tokens, PMOD_BENCH.text_tokens, PMOD_BENCH.depth) == (576, 64, 24)
    assert sum(PMOD_BENCH.ratios) / 24 == pytest.approx(0.5375, abs=1e-15)
    assert PMOD_BENCH.capacities[:8] == (576, 576, 576, 576, 576, 576, 484, 454)
    assert PMOD_BENCH.capacities[-6:] == (86,) * 6
    assert PMOD_BENCH_DENSE.capacities == (576,) * 24
    kinds = [type(layer) for layer in PMoD(PMOD_TINY).layers]
    assert kinds == [LlamaBlock, PMoDLayer, PMoDLayer, PMoDLayer]
    dense = PMoD(replace(PMOD_TINY, routed=False))
    assert {type(layer) for layer in dense.layers} == {LlamaBlock}
    assert torch.equal(
        dense(*pmod_inputs(PMOD_TINY)), dense.forward_gathered(*pmod_inputs(PMOD_TINY))
    )


def test_bad_configs_are_refused() -> None:
    with pytest.raises(ValueError, match=r"ratio above 0 and at most 1, got 1\.2"):
        PMoDConfig(max_ratio=1.2)
    with pytest.raises(ValueError, match=r"ratio above 0 and at most 1, got 0"):
        PMoDConfig(min_ratio=0)
    with pytest.raises(ValueError, match=r"to keep a token of 4, got \(4, 3, 1, 0\)"):
        replace(PMOD_TINY, vision_tokens=4)
    with pytest.raises(ValueError, match="vision_start from 0 to text_tokens 7, got 8"):
        replace(PMOD_TINY, vision_start=8)
    with pytest.raises(ValueError, match="vision_start from 0 to text_tokens 7, got -1"):
        replace(PMOD_TINY, vision_start=-1)
    with pytest.raises(ValueError, match=r"expected rank_on in .*, got 'norm'"):
        PMoDConfig(rank_on="norm")
    with pytest.raises(ValueError, match=r"expected mask_form in .*, got 'add'"):
        PMoDConfig(mask_form="add")
    with pytest.raises(ValueError, match=r"expected 2 \* heads to divide dim 12, got heads 4"):
        RotaryAttention(12, 4)


def test_inputs_that_do_not_fit_are_refused() -> None:
    model, (vision, ids) = PMoD(PMOD_TINY), pmod_inputs(PMOD_TINY)
    with pytest.raises(ValueError, match="expected 20 vision tokens, got 19"):
        model(vision[:, 1:], ids)
    with pytest.raises(ValueError, match="expected at least 3 text tokens, got 2"):
        model(vision, ids[:, :2])
