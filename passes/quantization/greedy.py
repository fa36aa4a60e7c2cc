"""Choose one form for each product so that all together meet a bound on noise or on size.

Why: the noise n_i that each quantized product causes at the output adds up (errors of different
products hardly depend on each other), so this is a knapsack: min Σ price_i with Σ n_i ≤ N, or
min Σ n_i with Σ bytes_i ≤ B. Per product only the lower convex hull of (price, noise) counts; its
steps have ever smaller slopes, and taking the steepest of all products first solves the relaxed
problem. What is chosen costs at most one step more than the optimum.
Steps within TIE of the best are one as good as the other: then products that read the result of a
nonlinearity come first, whose ranges are widest.
References: Shoham and Gersho 1988 (bit allocation along convex hulls); Chen et al. 2025,
arXiv:2505.14302 (FC2 inputs get the higher precision).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...errors import InvalidInput
from ..base import decibels
from .place import Form

TIE = 0.1
"""Steps whose slopes differ by less, relative to the best, count as equal."""


@dataclass(frozen=True)
class Option:
    """One way to compute a product.

    Attributes:
        form: how; None for float.
        bytes: by how much the constants grow, negative where they shrink.
        noise: relative noise power at the worst output with only this product so.
        cost: what it takes to run, in any unit.
    """

    form: Form | None
    bytes: float
    noise: float
    cost: float


@dataclass(frozen=True)
class Ladder:
    """The options of one product; `first` for those that get the higher precision in a tie."""

    options: tuple[Option, ...]
    first: bool = False


Price = Callable[[Option], float]


def choose(
    ladders: Sequence[Ladder], noise: float | None, size: float | None, base: float = 0.0
) -> list[Option]:
    """One option per product: the cheapest within `noise`, or the most precise within `size`.

    With both bounds the cheapest within `noise` if that fits, else the most precise that fits.

    Args:
        ladders: the options of each product.
        noise: bound on the sum of noise.
        size: bound on `base` plus the sum of bytes.
        base: bytes before any product is changed.

    Raises:
        InvalidInput: no choice meets the bounds; says what the best reaches.
    """
    if noise is not None:
        chosen = _cheapest(ladders, noise)
        if size is None or base + _bytes(chosen) <= size:
            return chosen
    if size is None:
        return [_hull(ladder.options, _cost)[0] for ladder in ladders]
    chosen = _most_precise(ladders, size - base, size, base)
    if noise is not None and sum(one.noise for one in chosen) > noise:
        raise _too_noisy(chosen, noise, f" in {size:,.0f} bytes")
    return chosen


def _cheapest(ladders: Sequence[Ladder], noise: float) -> list[Option]:
    """Start from the cheapest forms; buy the steps that take most noise away for their price."""
    climb = _Climb(ladders, _cost, [0] * len(ladders))
    while climb.noise > noise:
        steps = climb.ups()
        if not steps:
            raise _too_noisy(climb.chosen, noise, "")
        climb.at[climb.steepest(steps, best=max)] += 1
    for index in climb.dearest():  # the last step may have made others needless
        while climb.at[index] and climb.noise + climb.gain(index, climb.at[index] - 1) <= noise:
            climb.at[index] -= 1
    return climb.chosen


def _most_precise(
    ladders: Sequence[Ladder], allowed: float, size: float, base: float
) -> list[Option]:
    """Start from the most precise forms; give up the steps that cost least noise for their size."""
    climb = _Climb(ladders, lambda one: one.bytes, None)
    while _bytes(climb.chosen) > allowed:
        steps = {index: place - 1 for index, place in enumerate(climb.at) if place}
        if not steps:
            reached = base + _bytes(climb.chosen)
            raise InvalidInput(
                f"budget: expected at most {size:,.0f} bytes, the smallest that can be reached is "
                f"{reached:,.0f}; ask for a larger size or a scheme of fewer bits"
            )
        climb.at[climb.steepest(steps, best=min)] -= 1
    for index in climb.noisiest():  # the last step may have freed more than was needed
        while climb.at[index] + 1 < len(climb.hulls[index]):
            more = climb.hulls[index][climb.at[index] + 1].bytes - climb.chosen[index].bytes
            if _bytes(climb.chosen) + more > allowed:
                break
            climb.at[index] += 1
    return climb.chosen


class _Climb:
    """Where each product stands on its hull."""

    def __init__(self, ladders: Sequence[Ladder], price: Price, start: list[int] | None) -> None:
        self.ladders, self.price = ladders, price
        self.hulls = [_hull(ladder.options, price) for ladder in ladders]
        self.at = [len(hull) - 1 for hull in self.hulls] if start is None else start

    @property
    def chosen(self) -> list[Option]:
        return [hull[place] for hull, place in zip(self.hulls, self.at, strict=True)]

    @property
    def noise(self) -> float:
        return sum(one.noise for one in self.chosen)

    def ups(self) -> dict[int, int]:
        """The next place of each product that has one."""
        ends = enumerate(zip(self.hulls, self.at, strict=True))
        return {index: place + 1 for index, (hull, place) in ends if place + 1 < len(hull)}

    def gain(self, index: int, place: int) -> float:
        """Noise at `place` above that where the product stands."""
        return self.hulls[index][place].noise - self.hulls[index][self.at[index]].noise

    def slope(self, index: int, place: int) -> float:
        """Noise per price of one step, a positive number."""
        step, here = self.hulls[index][place], self.hulls[index][self.at[index]]
        return (step.noise - here.noise) / (self.price(here) - self.price(step))

    def steepest(self, steps: dict[int, int], best: "Callable[..., float]") -> int:
        """The product whose step has the best slope; of ties one that comes `first`, or last."""
        slopes = {index: self.slope(index, place) for index, place in steps.items()}
        upward = best is max
        bound = best(slopes.values()) * (1 - TIE if upward else 1 / (1 - TIE))
        close = [i for i, slope in slopes.items() if (slope >= bound if upward else slope <= bound)]
        sign = 1 if upward else -1
        return max(close, key=lambda i: (sign * self.ladders[i].first, sign * slopes[i]))

    def dearest(self) -> list[int]:
        """Products by what they cost, those that come `first` at the end."""
        price = [self.price(one) for one in self.chosen]
        return sorted(range(len(price)), key=lambda i: (self.ladders[i].first, -price[i]))

    def noisiest(self) -> list[int]:
        """Products by their noise, the noisiest first."""
        return sorted(range(len(self.at)), key=lambda i: -self.chosen[i].noise)


def _hull(options: Sequence[Option], price: Price) -> list[Option]:
    """The lower convex hull of (price, noise), from the cheapest to the most precise."""
    rising = sorted(options, key=lambda one: (price(one), one.noise))
    hull = [rising[0]]
    while True:
        last = hull[-1]
        better = [one for one in rising if one.noise < last.noise and price(one) > price(last)]
        if not better:
            return hull
        hull.append(min(better, key=lambda one: _slope(last, one, price)))


def _slope(here: Option, there: Option, price: Price) -> tuple[float, float]:
    """Steepest first; of equal ones the nearest."""
    rise = price(there) - price(here)
    return (there.noise - here.noise) / rise, rise


def _cost(option: Option) -> float:
    return option.cost


def _bytes(chosen: Sequence[Option]) -> float:
    return sum(one.bytes for one in chosen)


def _too_noisy(chosen: Sequence[Option], noise: float, where: str) -> InvalidInput:
    reached = sum(one.noise for one in chosen)
    return InvalidInput(
        f"budget: expected an SNR of at least {decibels(1, noise):.2f} dB (relative error "
        f"{noise**0.5:.3g}), the best that can be reached{where} is {decibels(1, reached):.2f} dB "
        f"({reached**0.5:.3g}); ask for less"
    )
