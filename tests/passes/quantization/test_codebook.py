"""codebook: k-means against brute force, codes and tables against the loss they are to lower."""

from dataclasses import replace
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from passel.passes.quantization.grid import Grid
from passel.passes.quantization.layer import LayerData
from passel.passes.quantization.rounded import Format
from passel.passes.quantization.rounding import kmeans as kmeans_module
from passel.passes.quantization.rounding import round_weight
from passel.passes.quantization.rounding.codebook import codebook, row_clusters
from passel.passes.quantization.rounding.kmeans import SortedNumbers, kmeans
from passel.passes.quantization.rounding.learned_table import (
    adam,
    learned,
    loss,
    moved_codes,
    resorted,
)
from passel.passes.quantization.rounding.rtn import rtn
from passel.passes.quantization.rounding.tables import table_part
from tests.passes.quantization.layers import layers, trained_like

FORMATS = [Format(Grid("int2")), Format(Grid("int3"), 4), Format(Grid("uint1"), -1)]


def squared(numbers, weights, table):
    return (weights * np.abs(numbers[:, None] - table).min(axis=1) ** 2).sum()


def least_by_brute_force(numbers, weights, count):
    """The least error of cutting the sorted numbers into at most `count` intervals."""
    order = np.argsort(numbers)
    x, h = numbers[order], weights[order]
    least = np.inf
    for cells in range(1, min(count, len(x)) + 1):
        for cuts in combinations(range(1, len(x)), cells - 1):
            edges = [0, *cuts, len(x)]
            error = 0.0
            for a, b in pairwise(edges):
                mass = h[a:b].sum()
                mean = (h[a:b] * x[a:b]).sum() / mass if mass else 0.0
                error += (h[a:b] * (x[a:b] - mean) ** 2).sum()
            least = min(least, error)
    return least


@given(
    seed=st.integers(0, 10**6), size=st.integers(1, 9), count=st.integers(1, 5), tied=st.booleans()
)
def test_kmeans_is_the_optimum_on_a_line(seed, size, count, tied):
    rng = np.random.default_rng(seed)
    numbers = rng.integers(-3, 4, size) * 1.0 if tied else rng.standard_normal(size)
    weights = rng.uniform(0.1, 2, size)
    table = kmeans(SortedNumbers(numbers, weights), count)
    assert table.shape == (count,)
    assert (np.diff(table) >= 0).all()
    least = least_by_brute_force(numbers, weights, count)
    assert squared(numbers, weights, table) == pytest.approx(least, abs=1e-9)


@given(seed=st.integers(0, 10**6), count=st.integers(1, 16))
def test_running_sums_give_the_error_of_any_table(seed, count):
    rng = np.random.default_rng(seed)
    numbers, weights = rng.standard_normal(200), rng.uniform(0, 1, 200)
    table = np.sort(rng.standard_normal(count))
    found = SortedNumbers(numbers, weights).error(table)
    assert found == pytest.approx(squared(numbers, weights, table), rel=1e-9)


def test_kmeans_on_a_few_cuts_is_nearly_the_optimum(monkeypatch):
    rng = np.random.default_rng(0)
    data = SortedNumbers(rng.standard_t(3, 900), rng.uniform(0, 1, 900))
    least = data.error(kmeans(data, 16))
    monkeypatch.setattr(kmeans_module, "CUTS", 128)
    assert least <= data.error(kmeans(data, 16)) <= 1.02 * least


@settings(max_examples=30)
@given(layer=layers(), wanted=st.sampled_from(FORMATS), clusters=st.integers(1, 4))
def test_codes_scales_and_table_are_storable(layer, wanted, clusters):
    rounded = codebook(layer, wanted, parameter=clusters)
    (part,) = rounded.parts
    count = 2**wanted.grid.bits
    rows, width = layer.weight.shape
    assert part.table.shape[-1] == count
    assert part.codes.max() < count
    assert (np.diff(part.table, axis=-1) >= 0).all()
    for stored in (part.table, part.scale):
        np.testing.assert_array_equal(stored, stored.astype(np.float32).astype(np.float64))
    tables = 1 if part.table.ndim == 1 else rows
    scales = 1 if wanted.block < 0 else rows * wanted.blocks(width)
    assert rounded.bits == rows * width * wanted.grid.bits + 32 * (scales + tables * count)
    assert np.isfinite(rounded.dense()).all()


@pytest.mark.parametrize("clusters", [1, 3])
def test_at_most_as_many_values_as_entries_are_kept_exactly(clusters):
    rng = np.random.default_rng(0)
    values = np.array([-1.25, 0.125, 0.5, 3.0])
    weight = values[rng.integers(0, 4, (6, 33))]
    rounded = codebook(LayerData(weight), Format(Grid("int2"), -1), parameter=clusters)
    np.testing.assert_allclose(rounded.dense(), weight, rtol=3e-7)


def test_one_cluster_without_statistics_is_at_least_kmeans():
    layer = replace(trained_like(), second=None)
    wanted = Format(Grid("int3"), -1)
    rounded = codebook(layer, wanted)
    data = SortedNumbers(layer.weight.astype(np.float64), np.ones(layer.weight.shape))
    expected = data.error(kmeans(data, 8))
    assert layer.error(rounded.dense()) == pytest.approx(expected, rel=1e-4)
    assert rounded.notes == ("codebook: no statistics of the inputs, fitted to the weights alone",)


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("block", [0, 16])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_it_beats_even_grids_and_the_fit_to_weights_alone(bits, block, shifted):
    layer, wanted = trained_like(shifted=shifted), Format(Grid(f"int{bits}"), block)
    plain = codebook(replace(layer, second=None, cross=None), wanted)
    found = layer.error(codebook(layer, wanted).dense())
    assert found < 0.5 * layer.error(round_weight(layer, wanted, ["gptq"]).dense())
    assert found < 0.5 * layer.error(plain.dense())


def small():
    layer, wanted = trained_like(rows=5, width=11), Format(Grid("int2"), 4)
    part = table_part(
        layer.weight.astype(np.float64), wanted, np.full((5, 3), 0.5), np.array([-1, -0.2, 0.1, 1])
    )
    return layer, part


@pytest.mark.parametrize("by_row", [False, True])
def test_a_sweep_gives_each_column_its_best_codes_in_turn(by_row):
    layer, part = small()
    if by_row:
        steps = np.linspace(0.5, 1.5, 5)[:, None]
        part = replace(part, table=part.table * steps)
    expected = part.codes.copy()
    target = layer.target()
    for column in range(11):
        for row in range(5):
            losses = []
            for code in range(4):
                expected[row, column] = code
                losses.append(loss(replace(part, codes=expected), target, layer.second))
            expected[row, column] = int(np.argmin(losses))
    found = moved_codes(part, target, layer.second)
    np.testing.assert_array_equal(found.codes, expected)


def test_a_sweep_over_more_columns_than_one_lazy_block_is_the_same(monkeypatch):
    layer, part = small()
    whole = moved_codes(part, layer.target(), layer.second)
    monkeypatch.setattr("passel.passes.quantization.rounding.learned_table.LAZY", 3)
    lazy = moved_codes(part, layer.target(), layer.second)
    np.testing.assert_array_equal(lazy.codes, whole.codes)


@pytest.mark.parametrize("labels", [np.zeros(5, dtype=int), np.array([0, 1, 1, 0, 2])])
def test_the_gradient_step_lowers_the_loss_and_keeps_shared_tables_shared(labels):
    layer, part = small()
    if labels.any():
        part = replace(part, table=np.array([1.0, 0.8, 1.2])[labels][:, None] * part.table)
    table, scale = adam(part, layer.target(), layer.second, labels, 1.0)
    after = resorted(part, table, scale)
    assert loss(after, layer.target(), layer.second) < loss(part, layer.target(), layer.second)
    assert after.table.shape == part.table.shape
    if labels.any():
        np.testing.assert_array_equal(after.table[1], after.table[2])
        np.testing.assert_array_equal(after.table[0], after.table[3])


def test_entries_that_overtake_are_sorted_with_their_codes():
    _, part = small()
    mixed = part.table[[2, 0, 3, 1]]
    found = resorted(part, mixed, part.scale)
    np.testing.assert_array_equal(found.table, np.sort(mixed).astype(np.float32))
    np.testing.assert_allclose(found.dense(), replace(part, table=mixed).dense(), rtol=1e-6)


@settings(max_examples=20)
@given(layer=layers())
def test_learning_never_raises_the_loss(layer):
    if layer.second is None:
        return
    wanted = Format(Grid("int2"), 3)
    rows, width = layer.weight.shape
    scale, table = np.ones((rows, wanted.blocks(width))), np.array([-1.0, -0.5, 0.25, 1.0])
    part = table_part(layer.target(), wanted, scale, table)
    found = learned(part, layer.target(), layer.second, np.zeros(rows, dtype=int))
    before = loss(part, layer.target(), layer.second)
    assert loss(found, layer.target(), layer.second) <= before


def test_rows_alike_are_one_cluster():
    rng = np.random.default_rng(0)
    kinds = rng.permutation(np.repeat([0, 1, 2], 8))
    draws = [rng.uniform(-1, 1, 500), rng.standard_t(2, 500), rng.choice([-1.0, 1.0], 500)]
    unit = np.stack([rng.permutation(draws[kind]) for kind in kinds])
    labels = row_clusters(unit, 3)
    for kind in range(3):
        assert len(set(labels[kinds == kind])) == 1
    assert set(labels) == {0, 1, 2}
    np.testing.assert_array_equal(row_clusters(unit, 24), np.arange(24))
    np.testing.assert_array_equal(row_clusters(np.zeros((4, 3)), 3), np.zeros(4))


def test_clusters_lower_the_error_of_rows_that_differ():
    rng = np.random.default_rng(0)
    weight = np.concatenate([rng.standard_t(2, (8, 256)), rng.uniform(-1, 1, (8, 256))])
    layer, wanted = LayerData(weight), Format(Grid("int3"))
    one, two = (codebook(layer, wanted, parameter=n) for n in (1, 2))
    assert layer.error(two.dense()) < 0.95 * layer.error(one.dense())
    assert len(np.unique(two.parts[0].table, axis=0)) == 2


def test_it_is_deterministic_and_leaves_the_global_generator_alone():
    state = torch.random.get_rng_state()
    layer, wanted = trained_like(), Format(Grid("int2"), 16)
    first, second = codebook(layer, wanted), codebook(layer, wanted)
    np.testing.assert_array_equal(first.dense(), second.dense())
    assert torch.equal(state, torch.random.get_rng_state())


def test_scales_of_the_stage_before_are_where_it_starts():
    weight = np.random.default_rng(0).integers(0, 4, (4, 16)) * [[1.0], [2.0], [4.0], [8.0]]
    weight[:, 0] = weight.max(axis=1)
    layer, wanted = LayerData(weight), Format(Grid("int2"))
    rounded = codebook(layer, wanted, rtn(layer, Format(Grid("int8"))))
    np.testing.assert_allclose(rounded.dense(), weight, atol=1e-5)
    assert rounded.method == "rtn+codebook"


def test_what_it_cannot_follow_or_make_is_an_error():
    layer, wanted = trained_like(), Format(Grid("int4"))
    with pytest.raises(ValueError, match=r"fc: codebook makes codes of its own.*'rtn.lorc'"):
        round_weight(layer, wanted, ["rtn", "lorc", "codebook"])
    with pytest.raises(ValueError, match="codebook expected an integer format of 1 to 8 bits"):
        codebook(layer, Format(Grid("int16")))
    with pytest.raises(ValueError, match="at least 1 cluster of rows, got 0"):
        codebook(layer, wanted, parameter=0)
    with pytest.raises(ValueError, match=r"proj.*finite"):
        codebook(LayerData(np.array([[1.0, np.inf]]), name="proj"), wanted)
