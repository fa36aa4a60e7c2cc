"""A trained character-level GPT, and the English text it is measured on.

The text is the docstrings of Python's standard library. `passel.tools.train_chargpt` collects them,
trains on most modules and writes the checkpoint; the docstrings of the modules it held out, and a
sample of those it learned, lie beside the checkpoint, because they differ between versions of
Python. They are under Python's own license, in `chargpt_text_license.txt` there. `accuracy.json`
records what the checkpoint reaches on the held-out text.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .digits import checkpoints
from .gpt import GPT, GPTConfig

CHECKPOINT = "chargpt"
CHARACTERS = "\n" + "".join(map(chr, range(32, 127)))
"""The vocabulary: a character's token is its position here."""

CHARGPT = GPTConfig(vocab=len(CHARACTERS), context=128, dim=128, depth=4, heads=4, tied=False)


def load() -> GPT:
    """Return the trained model in float32 and evaluation mode; it is stored in float16."""
    from safetensors.torch import load as load_tensors

    stored = load_tensors(checkpoints().joinpath(f"{CHECKPOINT}.safetensors").read_bytes())
    model = GPT(CHARGPT)
    model.load_state_dict({name: tensor.float() for name, tensor in stored.items()})
    return model.eval()


def text(name: str) -> str:
    """Return the stored text "test" or "calibration"."""
    if name not in ("test", "calibration"):
        raise ValueError(f"expected 'test' or 'calibration', got {name!r}")
    return checkpoints().joinpath(f"{CHECKPOINT}_{name}.txt").read_text(encoding="ascii")


def encode(characters: str) -> Tensor:
    """Return the tokens int64 (length,) of a text in CHARACTERS."""
    token = {character: index for index, character in enumerate(CHARACTERS)}
    unknown = sorted(set(characters) - token.keys())
    if unknown:
        raise ValueError(f"expected printable ASCII and newlines, got {unknown[:8]}")
    return torch.tensor([token[character] for character in characters], dtype=torch.int64)


def test_tokens(count: int | None = None) -> Tensor:  # noqa: PT028  (no test)
    """Return held-out windows int64 (count, context + 1): inputs, then the last one's successor.

    A window starts with the last character of the one before. `count` picks that many, evenly
    spaced; None means all.
    """
    windows = encode(text("test")).unfold(0, CHARGPT.context + 1, CHARGPT.context)
    return windows if count is None else _spaced(windows, count)


def calibration_tokens(count: int | None = None) -> Tensor:
    """Return inputs int64 (count, context) taken from the training text, as `test_tokens` does."""
    windows = encode(text("calibration")).unfold(0, CHARGPT.context, CHARGPT.context)
    return windows if count is None else _spaced(windows, count)


def perplexity(
    predict: Callable[[Tensor], Tensor | np.ndarray],
    windows: Tensor | None = None,
    batch: int = 32,
) -> float:
    """Return exp of the mean cross-entropy of `predict` (tokens to logits) per character.

    `windows` default to `test_tokens()`; the last batch may be short.
    """
    tokens = test_tokens() if windows is None else windows
    total = 0.0
    with torch.no_grad():
        for part in tokens.split(batch):
            logits = torch.as_tensor(predict(part[:, :-1])).double()
            total += float(F.cross_entropy(logits.mT, part[:, 1:], reduction="sum"))
    return math.exp(total / tokens[:, 1:].numel())


def _spaced(windows: Tensor, count: int) -> Tensor:
    """Return `count` rows at even distances."""
    if not 1 <= count <= len(windows):
        raise ValueError(f"expected 1 to {len(windows)} windows, got {count}")
    return windows[torch.arange(count) * len(windows) // count]
