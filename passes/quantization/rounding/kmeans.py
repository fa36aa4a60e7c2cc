"""Optimal quantization of weighted numbers on a line: k-means in one dimension.

Why: on a line each cluster is an interval of the sorted numbers, so the squared error of any
table of values is a difference of three running sums, Σh·x², Σh·x and Σh, at the K−1 midpoints:
after one sort a table is judged in K·log N steps, however many numbers there are. The best
intervals are found by dynamic programming, E[k, j] = min_i E[k−1, i] + cost(i, j).
Exactness: the optimum for up to `CUTS` numbers; beyond that the programme cuts only at `CUTS`
quantiles and evenly spaced values, and Lloyd's iteration moves the cuts from there.
References: Wang, Song 2011, The R Journal 3(2); Lloyd 1982, IEEE Trans. Inf. Theory 28(2).
"""

import numpy as np

CUTS = 1024


class SortedNumbers:
    """Numbers x [N] of weights h [N] ≥ 0, sorted, with their running sums."""

    def __init__(self, numbers: np.ndarray, weights: np.ndarray) -> None:
        """Sort them; all-zero weights count as all ones."""
        numbers, weights = numbers.ravel(), weights.ravel()
        if not weights.any():
            weights = np.ones_like(weights)
        order = np.argsort(numbers, kind="stable")
        self.numbers = numbers[order]
        sorted_weights = weights[order]
        powers = (
            sorted_weights,
            sorted_weights * self.numbers,
            sorted_weights * self.numbers**2,
        )
        self.sums = np.stack([np.concatenate([[0.0], np.cumsum(power)]) for power in powers])

    def cells(self, table: np.ndarray) -> np.ndarray:
        """Where the cell of each entry of a sorted table [K] begins, and N: [K + 1]."""
        inner = np.searchsorted(self.numbers, (table[1:] + table[:-1]) / 2, side="right")
        return np.concatenate([[0], inner, [len(self.numbers)]])

    def error(self, table: np.ndarray) -> float:
        """Σh·(x − nearest entry)² for a sorted table [K]."""
        mass, first, second = np.diff(self.sums[:, self.cells(table)], axis=1)
        return max(float((second - 2 * table * first + table**2 * mass).sum()), 0.0)

    def means(self, table: np.ndarray) -> np.ndarray:
        """The mean of each cell [K]; the old entry where a cell weighs nothing."""
        mass, first, _ = np.diff(self.sums[:, self.cells(table)], axis=1)
        return np.sort(np.where(mass > 0, first / np.where(mass > 0, mass, 1.0), table))

    def cost(self, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
        """Weighted variance of numbers[start:stop] about their mean; operands broadcast."""
        mass, first, second = self.sums[:, stop] - self.sums[:, start]
        return np.maximum(second - first**2 / np.where(mass > 0, mass, 1.0), 0.0)


def kmeans(
    data: SortedNumbers, count: int, start: np.ndarray | None = None, rounds: int = 50
) -> np.ndarray:
    """A sorted table [count] of least weighted squared error; deterministic.

    With a `start` (sorted, [count]) only what Lloyd's iteration makes of that.
    """
    table = best_table(data, count) if start is None else start
    error = data.error(table)
    for _ in range(rounds):
        moved = data.means(table)
        after = data.error(moved)
        if after >= error * (1 - 1e-9):
            break
        table, error = moved, after
    return table


def best_table(data: SortedNumbers, count: int) -> np.ndarray:
    """The best table [count] whose cells begin at `cut_positions`."""
    cuts = cut_positions(data)
    count_cells = min(count, len(cuts) - 1)
    cost = data.cost(cuts[:, None], cuts[None, :])
    cost[np.tril_indices(len(cuts), -1)] = np.inf  # an interval does not end before it begins
    best, choices = cost[0], []
    for _ in range(count_cells - 1):
        total = best[:, None] + cost
        choices.append(total.argmin(axis=0))
        best = total.min(axis=0)
    ends = [len(cuts) - 1]
    for choice in reversed(choices):
        ends.append(int(choice[ends[-1]]))
    edges = cuts[np.array([0, *reversed(ends)])]
    return filled_means(data, edges, count)


def filled_means(data: SortedNumbers, edges: np.ndarray, count: int) -> np.ndarray:
    """Means of the intervals between `edges`, sorted, the last one repeated up to `count`."""
    mass, first, _ = np.diff(data.sums[:, edges], axis=1)
    means = np.sort(first[mass > 0] / mass[mass > 0])
    return np.concatenate([means, np.full(count - len(means), means[-1])])


def cut_positions(data: SortedNumbers) -> np.ndarray:
    """Indices 0 = c_0 < .. < c_B = N between which no cell is split, B ≤ `CUTS`."""
    total = len(data.numbers)
    if total <= CUTS:
        return np.arange(total + 1)
    even = np.linspace(0, total, CUTS // 2 + 1).astype(np.int64)
    levels = np.linspace(data.numbers[0], data.numbers[-1], CUTS // 2 + 1)[1:-1]
    return np.unique(np.concatenate([even, np.searchsorted(data.numbers, levels)]))
