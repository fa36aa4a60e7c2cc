"""The training script's parts, on a model small enough for a test."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from passel.models import DIGITS, load_digits_split
from passel.tools.train_digits import record, shifted, train, write_atomically

TINY = replace(DIGITS, dim=16, depth=1, heads=2, norm="unified")


def test_training_is_deterministic() -> None:
    pytest.importorskip("sklearn")
    split = load_digits_split()
    few = split._replace(x_train=split.x_train[:128], y_train=split.y_train[:128])
    first, again = (train(TINY, few, epochs=2, seed=5).state_dict() for _ in range(2))
    assert all(torch.equal(first[key], again[key]) for key in first)


def test_shifts_move_images_by_at_most_one_pixel() -> None:
    torch.manual_seed(0)
    images = torch.full((50, 1, 8, 8), -1.0)
    images[:, :, 4, 4] = 1
    moved = shifted(images)
    assert moved.shape == images.shape
    assert torch.equal(moved.sum(dim=(1, 2, 3)), images.sum(dim=(1, 2, 3)))
    assert torch.equal(moved[:, :, 3:6, 3:6].sum(dim=(1, 2, 3)), torch.full((50,), -7.0))
    assert not torch.equal(moved, images)


def test_an_interrupted_write_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_record_keeps_other_entries(tmp_path: Path) -> None:
    path = tmp_path / "accuracy.json"
    record(path, "a", {"accuracy": 0.5})
    record(path, "b", {"accuracy": 0.6})
    record(path, "a", {"accuracy": 0.7})
    assert json.loads(path.read_text()) == {"a": {"accuracy": 0.7}, "b": {"accuracy": 0.6}}
