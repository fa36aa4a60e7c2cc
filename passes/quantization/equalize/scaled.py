"""The algebra that per-channel scales share: a layer that reads x/s, and what makes a usable s."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..layer import LayerData

SPAN = 1e4
"""How many times the smallest scale the largest may be, so that x/s keeps its digits."""


@dataclass(frozen=True)
class Found:
    """The result of a search for scales.

    Attributes:
        scale: s [I] float64; all ones where nothing was better.
        strength: the exponent that s was made with; None for scales of 1.
        losses: of every exponent tried, the error it leads to; empty where nothing was searched.
        notes: what the user should know.
    """

    scale: np.ndarray
    strength: float | None
    losses: dict[float | None, float]
    notes: tuple[str, ...] = ()


def rescaled(layer: LayerData, scale: np.ndarray) -> LayerData:
    """The layer whose weight is W·diag(s) and whose input is x/s, statistics included."""
    apart = np.outer(scale, scale)
    return replace(
        layer,
        weight=layer.weight.astype(np.float64) * scale,
        second=None if layer.second is None else layer.second / apart,
        cross=None if layer.cross is None else layer.cross / apart,
        mean_abs=None if layer.mean_abs is None else layer.mean_abs / scale,
        peak=None if layer.peak is None else layer.peak / scale,
    )


def width_of(readers: Sequence[LayerData]) -> int:
    """I, which all readers of one value have in common.

    Raises:
        ValueError: there is no reader, or they differ.
    """
    widths = {layer.weight.shape[1] for layer in readers}
    if len(widths) != 1:
        names = ", ".join(f"{layer.name or '?'}: {layer.weight.shape[1]}" for layer in readers)
        raise ValueError(f"expected readers of one width, got {names or 'no reader'}")
    return widths.pop()


def bounded(size: np.ndarray) -> np.ndarray:
    """Sizes ≥ 0 with those below 1/`SPAN` of the largest raised to it; ones if all are 0."""
    largest = float(size.max())
    return np.maximum(size, largest / SPAN) if largest > 0 else np.ones(len(size))


def centred(scale: np.ndarray, power_of_two: bool) -> np.ndarray:
    """S with √(max·min) = 1, where asked for at the nearest powers of two.

    Powers of two change exponents only, so x/s and W·diag(s) are as exact as x and W.
    """
    middle = scale / np.sqrt(scale.max() * scale.min())
    return np.exp2(np.rint(np.log2(middle))) if power_of_two else middle
