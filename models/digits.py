"""Trained ViTs for 8x8 handwritten digits, and the data they were trained on.

The data is scikit-learn's `load_digits` (1797 images of the UCI optical-digits test set), split
80/20 with a fixed seed. `passel.tools.train_digits` writes the checkpoints; `accuracy.json` beside
them records what each reaches on the 360 test images.
"""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from importlib import resources
from importlib.resources.abc import Traversable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .mod import MoDViT, Routing
from .vit import DIGITS, ViT, ViTConfig

SPLIT_SEED = 0


class DigitsSplit(NamedTuple):
    """Images float32 (count, 1, 8, 8) in [-1, 1] and labels int64 (count,)."""

    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor


def load_digits_split() -> DigitsSplit:
    """Return the same 80/20 split at each call."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "the digits data needs scikit-learn: pip install 'passel[bench]'"
        ) from error
    digits = load_digits()
    order = np.random.default_rng(SPLIT_SEED).permutation(len(digits.target))
    test, train = np.split(order, [math.ceil(0.2 * len(order))])
    images = torch.from_numpy(digits.images.astype(np.float32)).unsqueeze(1) / 8 - 1
    labels = torch.from_numpy(digits.target.astype(np.int64))
    return DigitsSplit(images[train], labels[train], images[test], labels[test])


def accuracy(predict: Callable[[Tensor], Tensor | np.ndarray], batch: int | None = None) -> float:
    """Return the share of test images that `predict` (images to logits) classifies correctly.

    `batch` cuts the images for a predictor with a fixed batch size; it must divide 360.
    """
    split = load_digits_split()
    size = len(split.x_test) if batch is None else batch
    if len(split.x_test) % size:
        raise ValueError(f"expected batch to divide {len(split.x_test)}, got {size}")
    with torch.no_grad():
        logits = [torch.as_tensor(predict(images)) for images in split.x_test.split(size)]
    return float((torch.cat(logits).argmax(dim=1) == split.y_test).double().mean())


def digits_config(norm: str, norm_position: str = "pre") -> ViTConfig:
    """Return the configuration of the digits ViT with the given norm."""
    return replace(DIGITS, norm=norm, norm_position=norm_position)


def checkpoint_name(norm: str, norm_position: str = "pre", ratio: float | None = None) -> str:
    """Return a checkpoint's file name without suffix, which is also its key in accuracy.json.

    `ratio` is that of a Mixture-of-Depths ViT, in the name as a percentage.
    """
    if ratio is None:
        return f"digits_vit_{norm}_{norm_position}"
    return f"digits_mod_vit_{norm}_{norm_position}_{100 * ratio:g}"


def checkpoints() -> Traversable:
    """Return the packaged folder of checkpoints."""
    return resources.files(__package__).joinpath("checkpoints")


def recorded_accuracy() -> dict[str, dict[str, float]]:
    """Return accuracy.json: test accuracy, seed, epochs and test images of each checkpoint."""
    return json.loads(checkpoints().joinpath("accuracy.json").read_text(encoding="utf-8"))


def load_trained(norm: str, norm_position: str = "pre") -> ViT:
    """Return a trained digits ViT in evaluation mode."""
    weights = _weights(checkpoint_name(norm, norm_position))
    model = ViT(digits_config(norm, norm_position))
    model.load_state_dict(weights)
    return model.eval()


def load_trained_mod(
    norm: str = "layer", norm_position: str = "pre", ratio: float = 0.5, mask_form: str = "where"
) -> MoDViT:
    """Return a trained digits Mixture-of-Depths ViT in evaluation mode.

    Both mask forms compute the same, so either fits the weights.
    """
    weights = _weights(checkpoint_name(norm, norm_position, ratio))
    model = MoDViT(digits_config(norm, norm_position), Routing(ratio, mask_form=mask_form))
    model.load_state_dict(weights)
    return model.eval()


def _weights(name: str) -> dict[str, Tensor]:
    """Return a checkpoint's tensors."""
    from safetensors.torch import load

    available = recorded_accuracy()
    if name not in available:
        raise ValueError(f"expected a trained model in {sorted(available)}, got {name!r}")
    return load(checkpoints().joinpath(f"{name}.safetensors").read_bytes())
