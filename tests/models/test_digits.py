"""The trained digits models: what accuracy.json says is what they do."""

import sys
from pathlib import Path

import pytest
import torch

from passel.models import accuracy, load_digits_split, load_trained, recorded_accuracy
from passel.models.digits import checkpoint_name, checkpoints

TRAINED = [("layer", "pre"), ("unified", "pre"), ("power", "pre"), ("unified", "post")]
MAX_BYTES = 2_500_000


def test_split_is_four_to_one_and_normalised() -> None:
    split = load_digits_split()
    assert split.x_train.shape == (1437, 1, 8, 8)
    assert split.x_test.shape == (360, 1, 8, 8)
    assert split.x_train.dtype == torch.float32
    assert split.y_test.dtype == torch.int64
    assert split.x_test.min() == -1
    assert split.x_test.max() == 1
    assert torch.equal(split.x_test, load_digits_split().x_test)


@pytest.mark.parametrize(("norm", "position"), TRAINED)
def test_checkpoint_reaches_its_recorded_accuracy(norm: str, position: str) -> None:
    pytest.importorskip("sklearn")
    model = load_trained(norm, position)
    entry = recorded_accuracy()[checkpoint_name(norm, position)]
    assert not model.training
    assert entry["test_images"] == 360
    assert entry["accuracy"] >= 0.97
    # One image may change sides with another machine's rounding.
    assert accuracy(model) == pytest.approx(entry["accuracy"], abs=1.5 / 360)


def test_checkpoints_are_small_and_all_recorded() -> None:
    files = [f for f in checkpoints().iterdir() if f.name.endswith(".safetensors")]
    assert {Path(f.name).stem for f in files} == set(recorded_accuracy())
    assert all(len(f.read_bytes()) < MAX_BYTES for f in files)


def test_accuracy_in_batches_takes_numpy() -> None:
    model = load_trained("layer")
    batched = accuracy(lambda images: model(images).numpy(), batch=60)
    assert batched == pytest.approx(accuracy(model), abs=1.5 / 360)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="expected batch to divide 360, got 7"):
        accuracy(lambda images: images, batch=7)
    with pytest.raises(
        ValueError, match=r"expected a trained model in .*, got 'digits_vit_rms_pre'"
    ):
        load_trained("rms")


def test_missing_scikit_learn_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'passel\[bench\]'"):
        load_digits_split()
