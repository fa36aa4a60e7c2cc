"""The trained Mixture-of-Depths ViT: what accuracy.json says, whichever way it is computed."""

from dataclasses import replace

import pytest
import torch

from passel.models import (
    DIGITS,
    Routing,
    accuracy,
    load_digits_split,
    load_trained_mod,
    recorded_accuracy,
)
from passel.models.digits import checkpoint_name
from passel.models.routing import MASK_FORMS
from passel.tools.train_digits import main, train


@pytest.mark.parametrize("form", MASK_FORMS)
def test_dense_and_gathered_reach_the_recorded_accuracy(form: str) -> None:
    pytest.importorskip("sklearn")
    model = load_trained_mod(mask_form=form)
    assert not model.training
    entry = recorded_accuracy()[checkpoint_name("layer", ratio=0.5)]
    assert entry["accuracy"] >= 0.96
    # One image may change sides with another machine's rounding.
    for predict in (model, model.forward_gathered):
        assert accuracy(predict) == pytest.approx(entry["accuracy"], abs=1.5 / 360)


@torch.no_grad()
def test_dense_and_gathered_give_the_same_predictions() -> None:
    pytest.importorskip("sklearn")
    model, images = load_trained_mod().double(), load_digits_split().x_test.double()
    dense, gathered = model(images), model.forward_gathered(images)
    torch.testing.assert_close(gathered, dense, rtol=0, atol=1e-11)
    assert torch.equal(gathered.argmax(dim=1), dense.argmax(dim=1))


def test_names_hold_the_ratio_as_a_percentage() -> None:
    assert checkpoint_name("rms", "pre", 0.5) == "digits_mod_vit_rms_pre_50"
    assert checkpoint_name("rms", "pre", 0.125) == "digits_mod_vit_rms_pre_12.5"


def test_an_untrained_ratio_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected a trained model in .*_layer_pre_25'"):
        load_trained_mod(ratio=0.25)


def test_training_with_routing_is_deterministic() -> None:
    pytest.importorskip("sklearn")
    split, tiny = load_digits_split(), replace(DIGITS, dim=16, depth=2, heads=2)
    few = split._replace(x_train=split.x_train[:128], y_train=split.y_train[:128])
    first, again = (train(tiny, few, 2, 5, Routing(0.25)).state_dict() for _ in range(2))
    assert "blocks.1.router.weight" in first
    assert all(torch.equal(first[key], again[key]) for key in first)


def test_a_ratio_of_zero_is_refused_before_training() -> None:
    pytest.importorskip("sklearn")
    with pytest.raises(ValueError, match="expected a ratio above 0 and at most 1, got 0"):
        main(["--mod", "0"])
