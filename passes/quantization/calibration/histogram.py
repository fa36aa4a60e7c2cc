"""A streaming histogram of fixed memory whose result does not depend on the order of the data.

Why: bin i of a channel holds x in [i·2^k, (i+1)·2^k) with one k a channel. Doubling the width sends
bin i to bin ⌊i/2⌋, and ⌊⌊x/w⌋/2⌋ = ⌊x/2w⌋, so merging pairs as the range grows gives exactly the
counts that the final width would have given from the start: no count is ever split or guessed.
Zero is always an edge, and the window of bins moves freely, so one-sided data uses all of them.
"""

from dataclasses import dataclass

import numpy as np

BLOCK = 1 << 15
"""Numbers that are binned at once: few enough to stay in a core's cache."""
FINEST = -1000
"""Exponent of the width before any number but 0 was seen."""
DIGITS = 40
"""Bins are never narrower than 2^−DIGITS of the largest |x|, so that bin numbers stay exact."""


@dataclass(frozen=True)
class Bins:
    """The histogram of one channel.

    Attributes:
        edges: [B + 1] float64, of equal widths.
        counts: [B] float64; exact zeros are not in them.
        zeros: how many numbers were exactly 0.
        low, high: the extremes.
    """

    edges: np.ndarray
    counts: np.ndarray
    zeros: float
    low: float
    high: float

    @property
    def centres(self) -> np.ndarray:
        """[B] what the numbers in each bin are taken for; never outside the extremes."""
        return np.clip((self.edges[:-1] + self.edges[1:]) / 2, self.low, self.high)

    def quantile(self, share: float) -> float:
        """The number below which `share` of all data lies, linear within a bin; zeros count."""
        counts = self._with_zeros()
        total = np.concatenate([[0.0], np.cumsum(counts)])
        wanted = share * total[-1]
        index = int(np.clip(np.searchsorted(total, wanted) - 1, 0, len(counts) - 1))
        inside = (wanted - total[index]) / max(counts[index], 1.0)
        width = self.edges[1] - self.edges[0]
        return float(np.clip(self.edges[index] + inside * width, self.low, self.high))

    def magnitude(self) -> "Bins":
        """The histogram of |x|: bin −1−i joins bin i."""
        width = self.edges[1] - self.edges[0]
        first = round(self.edges[0] / width)
        number = first + np.arange(len(self.counts))
        folded = np.where(number < 0, -1 - number, number)
        start = int(folded.min())
        counts = np.bincount(folded - start, weights=self.counts)
        edges = (start + np.arange(len(counts) + 1)) * width
        low = 0.0 if self.low <= 0 <= self.high else min(abs(self.low), abs(self.high))
        return Bins(edges, counts, self.zeros, low, max(-self.low, self.high))

    def _with_zeros(self) -> np.ndarray:
        counts = self.counts.copy()
        at = int(np.clip(np.searchsorted(self.edges, 0.0, "right") - 1, 0, len(counts) - 1))
        counts[at] += self.zeros
        return counts


class Histogram:
    """Counts of `channels` streams of numbers in `bins` bins each, and their extremes.

    Attributes:
        counts: [C, bins] exact zeros included.
        first: [C] number of the bin at the start of the window.
        exponent: [C] k of the width 2^k.
        zeros: [C] how many numbers were exactly 0.
        low, high: [C] the extremes; NaN before the first number.
    """

    fields = ("counts", "first", "exponent", "zeros", "low", "high")

    def __init__(self, channels: int = 1, bins: int = 4096) -> None:
        if bins < 4:
            raise ValueError(f"expected at least 4 bins, got {bins}")
        self.bins = bins
        self.counts = np.zeros((channels, bins), np.int64)
        self.first = np.zeros(channels, np.int64)
        self.exponent = np.full(channels, FINEST, np.int64)
        self.zeros = np.zeros(channels, np.int64)
        self.low = np.full(channels, np.nan)
        self.high = np.full(channels, np.nan)

    def update(self, rows: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
        """Add numbers [C, n], NaN for none, whose extremes are `low` and `high` [C]."""
        self.low, self.high = np.fmin(self.low, low), np.fmax(self.high, high)
        self._widen(np.nan_to_num(self.low), np.nan_to_num(self.high))
        step = max(max(BLOCK, self.counts.size) // len(rows), 1)
        for start in range(0, rows.shape[1], step):
            self._add(rows[:, start : start + step].astype(np.float64))

    def channel(self, index: int) -> Bins:
        """The bins of one channel that hold something, and those between them."""
        counts = self.counts[index].astype(np.float64)
        used = np.flatnonzero(counts)
        start, stop = (used[0], used[-1] + 1) if len(used) else (0, 1)
        edges = (self.first[index] + np.arange(start, stop + 1)) * 2.0 ** self.exponent[index]
        home = -self.first[index]
        if self.zeros[index]:
            counts[home] -= self.zeros[index]
        return Bins(
            edges,
            counts[start:stop],
            float(self.zeros[index]),
            float(self.low[index]),
            float(self.high[index]),
        )

    def _add(self, x: np.ndarray) -> None:
        absent = np.isnan(x) if np.isnan(x.min()) else None
        if absent is not None:
            x = np.where(absent, np.nan_to_num(self.low)[:, None], x)
        place = np.floor(x * np.ldexp(1.0, -self.exponent)[:, None]).astype(np.int64)
        place -= self.first[:, None]
        zeros = x == 0
        if absent is not None:
            self.counts -= self._tally(place, absent)
            zeros &= ~absent
        self.counts += self._tally(place)
        self.zeros += zeros.sum(axis=1)

    def _widen(self, low: np.ndarray, high: np.ndarray) -> None:
        """Let every channel's window hold [low, high], merging bins where it must."""
        exponent = _needed(low, high, self.exponent, self.bins)
        first = np.floor(np.ldexp(low, -exponent)).astype(np.int64)
        shift = np.minimum(exponent - self.exponent, 62)
        if ((shift > 0) | (first != self.first)).any():
            old = self.first[:, None] + np.arange(self.bins)
            place = (old >> shift[:, None]) - first[:, None]
            held = self.counts > 0
            self.counts = self._tally(np.where(held, place, 0), self.counts)
        self.exponent, self.first = exponent, first

    def _tally(self, place: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        """[C, bins] how often each place occurs, or sums of its weights; both [C, n]."""
        if len(place) > 1:
            place = place + np.arange(len(place))[:, None] * self.bins
        flat = None if weights is None else weights.ravel()
        total = np.bincount(place.ravel(), flat, self.counts.size)
        return total.reshape(self.counts.shape).astype(np.int64, copy=False)


def _needed(low: np.ndarray, high: np.ndarray, exponent: np.ndarray, bins: int) -> np.ndarray:
    """The smallest exponents, not below the present ones, at which [low, high] fits the bins."""
    peak = np.maximum(np.abs(low), np.abs(high))
    span = np.maximum((high - low) / bins, np.ldexp(peak, -DIGITS))
    least = np.where(span > 0, np.frexp(span)[1].astype(np.int64) - 1, FINEST)
    result = np.maximum(exponent, least)
    while True:
        taken = np.floor(np.ldexp(high, -result)) - np.floor(np.ldexp(low, -result)) + 1
        if (taken <= bins).all():
            return result
        result = result + (taken > bins)
