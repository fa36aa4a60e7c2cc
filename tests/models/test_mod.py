"""Mixture-of-Depths GPT and ViT: masked equals gathered, and what is skipped has no effect."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.export import Dim, export

from passel.models import (
    DIGITS,
    GPT,
    GPT_TINY,
    MoDBlock,
    MoDGPT,
    MoDViT,
    Routing,
    gpt_inputs,
    randomize,
    vit_inputs,
)
from passel.models.mod import WEIGHTS
from passel.models.routing import MASK_FORMS, top_k_mask

SMALL_VIT = replace(DIGITS, dim=16, depth=2, heads=2)
SMALL_GPT = replace(GPT_TINY, dim=16, depth=2, heads=2)
ROUTINGS = [Routing(0.4, mask_form=form, weight=w) for form in MASK_FORMS for w in WEIGHTS]
# Some dozens of float64 operations on values of order 1.
BOUND = 1e-12

routings = st.builds(
    Routing,
    ratio=st.floats(0.01, 1),
    every=st.integers(1, 3),
    mask_form=st.sampled_from(MASK_FORMS),
    weight=st.sampled_from(WEIGHTS),
)


def ready(model: nn.Module) -> nn.Module:
    return randomize(model).double().eval()


def assert_gathered_equals_dense(model: nn.Module, inputs: Tensor) -> None:
    with torch.no_grad():
        torch.testing.assert_close(
            model.forward_gathered(inputs), model(inputs), rtol=0, atol=BOUND
        )


@given(routings, st.integers(1, 4), st.integers(1, 3), st.integers(1, 20), st.integers(0, 99))
def test_gpt_gathered_equals_dense(
    routing: Routing, depth: int, batch: int, tokens: int, seed: int
) -> None:
    model = ready(MoDGPT(replace(SMALL_GPT, depth=depth), routing))
    assert_gathered_equals_dense(model, *gpt_inputs(SMALL_GPT, batch, tokens, seed))


@given(
    routings,
    st.integers(1, 4),
    st.integers(1, 3),
    st.sampled_from(["cls", "mean"]),
    st.sampled_from([None, 0.1]),
    st.integers(0, 99),
)
def test_vit_gathered_equals_dense(
    routing: Routing, depth: int, batch: int, pool: str, scale: float | None, seed: int
) -> None:
    config = replace(SMALL_VIT, depth=depth, pool=pool, layer_scale=scale)
    (images,) = vit_inputs(config, batch, seed)
    assert_gathered_equals_dense(ready(MoDViT(config, routing)), images.double())


def test_gathering_computes_fewer_tokens() -> None:
    model = ready(MoDViT(SMALL_VIT, Routing(0.25)))
    widths: list[int] = []
    for block in model.blocks:
        mlp = block.block.mlp if isinstance(block, MoDBlock) else block.mlp
        mlp.register_forward_hook(lambda _, inputs, __: widths.append(inputs[0].shape[1]))
    (images,) = vit_inputs(SMALL_VIT)
    model.forward_gathered(images.double())
    assert widths == [17, 1 + 4]


@pytest.mark.parametrize("routing", ROUTINGS)
def test_exports(routing: Routing) -> None:
    vit, gpt = MoDViT(SMALL_VIT, routing), MoDGPT(SMALL_GPT, routing)
    for model, inputs in ((vit, vit_inputs(SMALL_VIT, 3)), (gpt, gpt_inputs(SMALL_GPT, 3))):
        randomize(model).eval()
        static = export(model, inputs).module()
        dynamic = export(model, (inputs[0][:2],), dynamic_shapes=({0: Dim("batch")},)).module()
        with torch.no_grad():
            assert torch.equal(static(*inputs), model(*inputs))
            assert torch.equal(dynamic(*inputs), model(*inputs))


@pytest.mark.parametrize("routing", ROUTINGS)
def test_gpt_exports_k_as_an_expression_of_the_tokens(routing: Routing) -> None:
    model = randomize(MoDGPT(SMALL_GPT, routing)).eval()
    shapes = ({0: Dim.DYNAMIC, 1: Dim.DYNAMIC(max=SMALL_GPT.context)},)
    program = export(model, gpt_inputs(SMALL_GPT, 2), dynamic_shapes=shapes)
    (topk,) = (n for n in program.graph.nodes if n.target is torch.ops.aten.topk.default)
    k = topk.meta["val"][0].shape[1]
    assert not isinstance(k, int)
    assert "TruncToInt(0.4" in str(k)
    for tokens in (7, 25):
        (ids,) = gpt_inputs(SMALL_GPT, 3, tokens)
        assert torch.equal(program.module()(ids), model(ids))


def test_routing_all_tokens_with_weight_one_is_the_plain_model() -> None:
    routed = ready(MoDGPT(SMALL_GPT, Routing(1.0, weight="raw")))
    plain = GPT(SMALL_GPT).double().eval()
    weights = {key.replace(".block.", "."): v for key, v in routed.state_dict().items()}
    plain.load_state_dict({k: v for k, v in weights.items() if ".router." not in k})
    router = routed.blocks[1].router
    nn.init.zeros_(router.weight)
    nn.init.ones_(router.bias)
    torch.testing.assert_close(
        routed(*gpt_inputs(SMALL_GPT)), plain(*gpt_inputs(SMALL_GPT)), rtol=0, atol=BOUND
    )


def block_that_routes_by_feature_0(model: nn.Module) -> MoDBlock:
    block = ready(model).blocks[1]
    with torch.no_grad():
        block.router.weight.zero_()
        block.router.weight[0, 0] = 1
    return block


@torch.no_grad()
@pytest.mark.parametrize("form", MASK_FORMS)
def test_a_skipped_token_is_left_alone_and_changes_no_other(form: str) -> None:
    block = block_that_routes_by_feature_0(MoDGPT(SMALL_GPT, Routing(0.5, mask_form=form)))
    x = torch.randn(1, 12, 16, dtype=torch.float64)
    kept = top_k_mask(x[..., 0], 6, "where")[0]
    changed = x.clone()
    changed[0, ~kept, 1:] += 1
    assert torch.equal(block(x)[0, ~kept], x[0, ~kept])
    assert torch.equal(block(changed)[0, ~kept], changed[0, ~kept])
    assert torch.equal(block(changed)[0, kept], block(x)[0, kept])
    assert not (block(x)[0, kept] == x[0, kept]).any()


@torch.no_grad()
def test_attention_is_causal_but_the_choice_looks_ahead() -> None:
    block = block_that_routes_by_feature_0(MoDGPT(SMALL_GPT, Routing(0.5)))
    x = torch.randn(1, 12, 16, dtype=torch.float64)
    x[0, :, 0] = torch.tensor([3, -1, -2, 4, -3, 2, 5, -4, 0.5, -5, 7, -6])
    changed = x.clone()
    changed[0, 6, 1:] += 1
    same = (block(x) == block(changed)).all(dim=-1)[0]
    assert same[:6].all()
    assert not same[6]
    assert not same[10]
    late = x.clone()
    late[0, 11, 0] = 9
    # Token 8 was the sixth best of twelve; a better last one takes its place.
    assert not torch.equal(block(x)[0, 8], x[0, 8])
    assert torch.equal(block(late)[0, 8], x[0, 8])


@torch.no_grad()
def test_vit_block_permutes_with_its_patches() -> None:
    block = ready(MoDViT(SMALL_VIT, Routing(0.5))).blocks[1]
    x = torch.randn(2, 17, 16, dtype=torch.float64)
    order = torch.cat((torch.zeros(1, dtype=torch.int64), 1 + torch.randperm(16)))
    torch.testing.assert_close(block(x[:, order]), block(x)[:, order], rtol=0, atol=BOUND)


@pytest.mark.parametrize("routing", ROUTINGS)
def test_trains_with_finite_gradients_that_reach_the_router(routing: Routing) -> None:
    torch.manual_seed(0)
    # With few tokens kept, most queries before the first kept one see no key at all.
    model = MoDGPT(SMALL_GPT, replace(routing, ratio=0.1))
    model(*gpt_inputs(SMALL_GPT, 4)).square().mean().backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    assert all(g is not None and g.isfinite().all() for g in gradients.values())
    assert gradients["blocks.1.router.weight"].abs().max() > 0


def test_bad_arguments_are_refused() -> None:
    for ratio in (0.0, 1.01):
        with pytest.raises(ValueError, match=f"ratio above 0 and at most 1, got {ratio}"):
            Routing(ratio)
    with pytest.raises(ValueError, match="expected every to be at least 1, got 0"):
        Routing(every=0)
    with pytest.raises(ValueError, match=r"expected mask_form in .*, got 'add'"):
        Routing(mask_form="add")
    with pytest.raises(ValueError, match=r"expected weight in .*, got 'tanh'"):
        Routing(weight="tanh")
    with pytest.raises(ValueError, match="expected norm_position 'pre', got 'post'"):
        MoDGPT(replace(SMALL_GPT, norm_position="post"), Routing())
