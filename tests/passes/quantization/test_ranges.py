"""Ranges of activations: computed, taken from a cache, or given by the user."""

import json

import numpy as np
import pytest

from passel.errors import InvalidInput
from passel.passes.base import Context
from passel.passes.driver import run_passes
from passel.passes.quantization import ranges
from passel.passes.quantization.calibration.data import Samples
from passel.passes.quantization.grid import Grid
from passel.passes.quantization.ranges import RangeFinder
from passel.passes.quantization.settle import EXAMPLES_ONLY
from passel.passes.quantize import Quantize
from tests.passes.quantization.walked import constants, data, named, quantized, residual

U8 = Grid("uint8", symmetric=False)
STATIC = {"scheme": "int8", "weights": "rtn"}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ranges.json"


@pytest.fixture
def collected(monkeypatch):
    """The names of values that were collected, call by call."""
    calls, original = [], ranges.collect

    def collect(graph, wanted, *args, **how):
        calls.append([value.name for value in wanted])
        return original(graph, wanted, *args, **how)

    monkeypatch.setattr(ranges, "collect", collect)
    return calls


def run(path, **how):
    graph = residual()
    one, _ = quantized(graph, **{**STATIC, "calibration_cache_path": str(path), **how})
    return constants(graph), one.notes


def expected(**how):
    graph = residual()
    quantized(graph, **{**STATIC, **how})
    return constants(graph)


def test_ranges_are_those_of_the_data():
    graph = residual()
    values = [graph.inputs[0], named(graph, "down0").x]
    samples = Samples.of(data(), graph.inputs)
    found = RangeFinder(graph, "minmax", samples).find(dict.fromkeys(values, U8))
    probe = graph.probe(values)
    arrays = [np.concatenate(each) for each in zip(*map(probe, samples), strict=True)]
    assert list(found) == values
    assert list(found.values()) == [(array.min(), array.max()) for array in arrays]


def test_a_second_run_takes_them_from_the_cache(path, collected):
    first, notes = run(path)
    assert len(collected) == 1
    assert not any("cache" in note for note in notes)
    second, notes = run(path)
    assert len(collected) == 1
    assert f"calibration taken from the cache {path}" in notes
    assert first == second == expected()


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"calibration": data(seed=9)}, "data"),
        ({"calibrate_method": "percentile"}, "method"),
        ({"scheme": "int8", "nodes_to_exclude": ("down0",)}, "method"),
    ],
)
def test_a_stale_cache_is_computed_again(path, collected, change, what):
    run(path)
    if "nodes_to_exclude" in change:
        graph = residual()
        one = Quantize(
            placement="all", calibration=data(), calibration_cache_path=str(path), **change
        )
        list(one.match(graph))
        notes = one.notes
    else:
        found, notes = run(path, **change)
        assert len(collected) == 2
        assert found == expected(**change)
    text = f"the calibration cache {path} was made for another {what}: recomputed"
    assert text in notes
    before = path.read_text()
    run(path)
    assert path.read_text() != before  # it holds what was asked for last


def test_ranges_that_a_user_gives_win_by_name(path, collected):
    graph = residual()
    value = named(graph, "down0").x.name
    content = {value: [-1.0, 3.0], "unknown": [0, 1], "x": {"lowest": -2.0, "highest": 2.5}}
    path.write_text(json.dumps(content))
    notes = []
    finder = RangeFinder(
        graph, "minmax", Samples.of(data(), graph.inputs), str(path), note=notes.append
    )
    values = [graph.inputs[0], named(graph, "down0").x, named(graph, "head").x]
    found = finder.find(dict.fromkeys(values, U8))
    assert list(found) == values
    assert [found[one] for one in values[:2]] == [(-2.0, 2.5), (-1.0, 3.0)]
    assert collected == [[values[2].name]]
    assert f"1 of 3 ranges are not in {path}: computed" in notes
    assert json.loads(path.read_text()) == content  # a user's file stays as it is


def test_of_ranges_by_channel_the_widest_counts(path):
    path.write_text(json.dumps({"x": [[-1.0, -4.0], [2.0, 1.0]]}))
    graph = residual()
    found = RangeFinder(graph, "minmax", None, str(path)).find({graph.inputs[0]: U8})
    assert list(found.values()) == [(-4.0, 2.0)]


def test_a_cache_stands_in_for_data(path):
    first, _ = run(path)
    again, notes = run(path, calibration=None)
    assert again == first
    assert f"calibration taken from the cache {path}" in notes
    graph = residual(seed=3)
    with pytest.raises(InvalidInput, match=r"expected data, for ranges of .* values .*ranges.json"):
        quantized(graph, **STATIC, calibration=None, calibration_cache_path=str(path))


def test_examples_do_not_take_the_place_of_a_cache(path):
    first, _ = run(path)
    context = Context(examples=[data(1, seed=5)])
    graph = residual()
    one = Quantize("int8", "rtn", placement="all", calibration_cache_path=str(path))
    run_passes(graph, [one], context=context)
    assert constants(graph) == first
    assert EXAMPLES_ONLY not in context.notes


def test_a_file_that_holds_no_ranges(path):
    path.write_text("[1, 2]")
    with pytest.raises(InvalidInput, match=r"ranges.json: expected \{"):
        run(path)


def test_a_value_that_is_never_finite_is_named():
    graph = residual(1)
    samples = Samples.of([np.full((2, 16), 3e38, np.float32)], graph.inputs)
    value = named(graph, "head").x
    with pytest.raises(InvalidInput, match=f"value '{value.name}'"):
        RangeFinder(graph, "minmax", samples).find({value: U8})
