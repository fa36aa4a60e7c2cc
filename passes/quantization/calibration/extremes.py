"""The smallest and largest numbers of a stream, of all of it or averaged over its tensors."""

import numpy as np


class Extremes:
    """Extremes of `channels` streams; with a momentum, old ones count momentum, new ones the rest.

    Attributes:
        low, high: [C] float64; NaN before the first number.
    """

    fields = ("low", "high")

    def __init__(self, channels: int = 1, momentum: float | None = None) -> None:
        self.momentum = momentum
        self.low = np.full(channels, np.nan)
        self.high = np.full(channels, np.nan)

    def update(self, rows: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
        """Take in a tensor [C, n] by its extremes [C], NaN for a channel without numbers."""
        if self.momentum is None:
            self.low, self.high = np.fmin(self.low, low), np.fmax(self.high, high)
        else:
            self.low = _mixed(self.low, low, self.momentum)
            self.high = _mixed(self.high, high, self.momentum)


def _mixed(old: np.ndarray, new: np.ndarray, momentum: float) -> np.ndarray:
    """momentum·old + (1 − momentum)·new, or the one of them that is a number."""
    both = momentum * old + (1 - momentum) * new
    return np.where(np.isnan(old), new, np.where(np.isnan(new), old, both))
