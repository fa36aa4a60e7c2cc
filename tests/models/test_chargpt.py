"""The trained character GPT: what accuracy.json says is what it does, on the text it kept."""

import math

import numpy as np
import pytest
import torch

from passel.models import chargpt, recorded_accuracy
from passel.models.digits import checkpoints

MAX_BYTES = 4_000_000


def test_checkpoint_reaches_its_recorded_perplexity() -> None:
    model, entry = chargpt.load(), recorded_accuracy()["chargpt"]
    assert not model.training
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert entry["perplexity"] < 5
    assert entry["test_characters"] == chargpt.test_tokens()[:, 1:].numel()
    assert chargpt.perplexity(model) == pytest.approx(entry["perplexity"], rel=1e-4)


def test_perplexity_of_a_guess_is_the_vocabulary() -> None:
    def guess(tokens: torch.Tensor) -> np.ndarray:
        return np.zeros((*tokens.shape, len(chargpt.CHARACTERS)))

    windows = chargpt.test_tokens(8)
    assert chargpt.perplexity(guess, windows) == pytest.approx(96)


def test_perplexity_is_that_of_the_definition() -> None:
    logits = torch.from_numpy(np.random.default_rng(0).normal(size=(5, 3, 96)))
    windows = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8], [9, 1, 2, 3], [0, 0, 0, 0], [7, 3, 7, 3]])
    calls = iter((logits[:2], logits[2:4], logits[4:]))
    total = 0.0
    for row, targets in zip(logits.tolist(), windows[:, 1:].tolist(), strict=True):
        for scores, target in zip(row, targets, strict=True):
            total -= math.log(math.exp(scores[target]) / sum(map(math.exp, scores)))
    found = chargpt.perplexity(lambda _: next(calls), windows, batch=2)
    assert found == pytest.approx(math.exp(total / 15), rel=1e-12)


def test_windows_are_the_text_in_order() -> None:
    windows, text = chargpt.test_tokens(), chargpt.text("test")
    assert windows.shape[1] == chargpt.CHARGPT.context + 1
    joined = "".join(chargpt.CHARACTERS[token] for token in windows[:, :-1].flatten().tolist())
    assert text.startswith(joined)
    assert len(text) - len(joined) <= chargpt.CHARGPT.context
    assert torch.equal(windows[1:, 0], windows[:-1, -1])
    assert torch.equal(chargpt.test_tokens(2), windows[[0, len(windows) // 2]])


def test_calibration_text_is_none_of_the_test_text() -> None:
    inputs, held_out = chargpt.calibration_tokens(), chargpt.text("test")
    assert inputs.shape == (256, chargpt.CHARGPT.context)
    pieces = ["".join(chargpt.CHARACTERS[token] for token in row) for row in inputs.tolist()]
    assert "".join(pieces) == chargpt.text("calibration")
    assert not any(piece in held_out for piece in pieces)


def test_encode_refuses_other_characters() -> None:
    assert chargpt.encode("\n ~").tolist() == [0, 1, 95]
    with pytest.raises(ValueError, match="expected printable ASCII and newlines, got"):
        chargpt.encode("caf\xe9")


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="expected 'test' or 'calibration', got 'train'"):
        chargpt.text("train")
    with pytest.raises(ValueError, match="expected 1 to 256 windows, got 257"):
        chargpt.calibration_tokens(257)
    with pytest.raises(ValueError, match="windows, got 0"):
        chargpt.test_tokens(0)


def test_checkpoint_is_small_and_the_text_has_its_license() -> None:
    folder = checkpoints()
    assert len(folder.joinpath("chargpt.safetensors").read_bytes()) < MAX_BYTES
    terms = folder.joinpath("chargpt_text_license.txt").read_text(encoding="utf-8")
    assert "PYTHON SOFTWARE FOUNDATION LICENSE VERSION 2" in terms
    assert "All Rights Reserved" in terms
