"""Budgets: what they say, and the greedy choice beside the best of all choices."""

import itertools

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from passel.errors import InvalidInput
from passel.passes.quantization.budget import Budget
from passel.passes.quantization.greedy import Ladder, Option, choose
from passel.passes.quantize import Quantize


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("", Budget()),
        ("snr>=30", Budget(noise=1e-3)),
        (" SNR >= 20dB ", Budget(noise=1e-2)),
        ("error<=0.02", Budget(noise=4e-4)),
        ("error<=2%", Budget(noise=4e-4)),
        ("error<=1e-3", Budget(noise=1e-6)),
        ("size<=12MB", Budget(bytes=12e6)),
        ("size<=1.5 MiB", Budget(bytes=1.5 * 2**20)),
        ("size<=60%", Budget(share=0.6)),
        ("snr>=30, size<=60%", Budget(noise=1e-3, share=0.6)),
    ],
)
def test_what_a_budget_says(text, budget):
    found = Budget.of(text)
    assert found.noise == pytest.approx(budget.noise)
    assert (found.bytes, found.share) == (budget.bytes, budget.share)
    assert bool(found) == bool(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("fast", r"expected budget as 'snr>=30'.*got 'fast'"),
        ("snr<=30", r"expected snr>= in budget, got 'snr<=30'"),
        ("error>=0.1", r"expected error<= in budget"),
        ("size<=0MB", r"expected a number above 0"),
        ("size<=1e999B", r"expected a number above 0"),
        ("size<=12", r"unit of size in budget to be %, B, KB, MB, GB, KiB, MiB or GiB"),
        ("size<=12dB", r"unit of size"),
        ("snr>=30%", r"unit of snr in budget to be dB"),
        ("error<=1MB", r"unit of error in budget to be % or none"),
        ("snr>=-3", r"expected budget as"),
        ("snr>=30,", r"expected budget as.*got ''"),
        ("size<=1MB,size<=60%", r"one bound of each kind"),
        ("snr>=30,error<=0.1", r"snr or error"),
    ],
)
def test_what_no_budget_says(text, says):
    with pytest.raises(ValueError, match=says):
        Budget.of(text)
    with pytest.raises(ValueError, match=says):
        Quantize(budget=text)


def test_a_share_is_of_the_size_before():
    assert Budget.of("size<=60%").size(1000) == 600
    assert Budget.of("size<=1KB").size(5) == 1000
    assert Budget.of("snr>=3").size(5) is None


def options(*triples):
    """Options of (price, noise), their cost being their bytes."""
    return tuple(Option(None, price, noise, price) for price, noise in triples)


numbers = st.integers(0, 40).map(float)
ladders = st.lists(
    st.lists(st.tuples(numbers, numbers), min_size=1, max_size=4).map(
        lambda found: Ladder(options(*found))
    ),
    min_size=1,
    max_size=4,
)


def total(chosen, what):
    return sum(getattr(one, what) for one in chosen)


def best(found, bounded, bound, minimised):
    """The smallest sum of all choices within the bound; None if there is none."""
    every = itertools.product(*(ladder.options for ladder in found))
    sums = [total(one, minimised) for one in every if total(one, bounded) <= bound]
    return min(sums, default=None)


def spread(found, what):
    each = [[getattr(one, what) for one in ladder.options] for ladder in found]
    return max(max(values) - min(values) for values in each)


@given(ladders, st.integers(0, 100).map(float))
def test_the_cheapest_within_noise_is_near_the_best(found, noise):
    wanted = best(found, "noise", noise, "cost")
    if wanted is None:
        with pytest.raises(InvalidInput, match="the best that can be reached is"):
            choose(found, noise, None)
        return
    chosen = choose(found, noise, None)
    assert total(chosen, "noise") <= noise
    assert wanted <= total(chosen, "cost") <= wanted + spread(found, "cost")


@given(ladders, st.integers(0, 100).map(float))
def test_the_most_precise_within_size_is_near_the_best(found, size):
    wanted = best(found, "bytes", size, "noise")
    if wanted is None:
        least = sum(min(one.bytes for one in ladder.options) for ladder in found)
        with pytest.raises(InvalidInput, match=f"smallest that can be reached is {least + 7:,.0f}"):
            choose(found, None, size + 7, 7)
        return
    chosen = choose(found, None, size + 7, 7)
    assert total(chosen, "bytes") <= size
    assert wanted <= total(chosen, "noise") <= wanted + spread(found, "noise")


@given(st.lists(st.integers(1, 1000).map(float), min_size=1, max_size=8), st.floats(0.01, 1.0))
def test_products_of_one_size_are_chosen_as_by_brute_force(noises, share):
    found = [Ladder(options((1, noise), (4, 0))) for noise in noises]
    noise = share * sum(noises)
    chosen = choose(found, noise, None)
    assert total(chosen, "cost") == best(found, "noise", noise, "cost")


@given(st.lists(st.integers(1, 8).map(lambda n: 2.0**n), min_size=1, max_size=8, unique=True))
def test_the_noisiest_go_first(noises):
    """Tightening the bound only adds to what was upgraded, the noisiest of all sizes before."""
    found = [Ladder(options((1, noise), (4, 0))) for noise in noises]
    order = sorted(noises, reverse=True)
    for count in range(len(noises)):
        chosen = choose(found, sum(order[count:]), None)
        upgraded = {n for n, one in zip(noises, chosen, strict=True) if one.noise == 0}
        assert upgraded == set(order[:count])
        sized = choose(found, None, 4 * count + len(noises) - count)
        assert [one.noise for one in sized] == [one.noise for one in chosen]


@pytest.mark.parametrize(("behind", "wins"), [(0.95, True), (0.8, False)])
def test_of_near_ties_the_one_behind_a_nonlinearity_gets_the_precision(behind, wins):
    ladders = [
        Ladder(options((1, 10.0), (4, 0.0))),
        Ladder(options((1, 10 * behind), (4, 0.0)), first=True),
        Ladder(options((1, 1.0), (4, 0.0))),
    ]
    expected = [10, 0, 1] if wins else [0, 8, 1]
    assert [one.noise for one in choose(ladders, 11.0, None)] == expected
    assert [one.noise for one in choose(ladders, None, 1 + 4 + 1)] == expected


def test_a_form_that_is_no_better_is_never_taken():
    found = [Ladder(options((1, 5), (2, 5), (2, 6), (3, 9), (6, 0)))]
    assert choose(found, 5, None)[0].cost == 1
    assert choose(found, 4, None)[0].cost == 6
    assert choose(found, None, 5)[0].cost == 1


def test_with_two_bounds_size_decides_where_the_cheapest_is_too_large():
    slow = Option(None, bytes=1, noise=2, cost=9)
    large = Option(None, bytes=5, noise=1, cost=1)
    assert choose([Ladder((slow, large))], 2, 5) == [large]
    assert choose([Ladder((slow, large))], 2, 4) == [slow]
    with pytest.raises(InvalidInput, match=r"at least -1.76 dB .* in 4 bytes is -3.01 dB"):
        choose([Ladder((slow, large))], 1.5, 4)


@given(ladders)
def test_what_comes_first_changes_no_bound(found):
    """Preferring some in near ties keeps to the bound, and costs hardly more."""
    preferred = [Ladder(one.options, first=i % 2 == 0) for i, one in enumerate(found)]
    least = sum(min(one.noise for one in ladder.options) for ladder in found)
    most = sum(max(one.noise for one in ladder.options) for ladder in found)
    assume(most > least)
    noise = (least + most) / 2
    chosen = choose(preferred, noise, None)
    assert total(chosen, "noise") <= noise
    floor = sum(min(one.cost for one in ladder.options) for ladder in found)
    above = best(found, "noise", noise, "cost") - floor
    assert total(chosen, "cost") - floor <= above / 0.9 + spread(found, "cost") + 1e-9
