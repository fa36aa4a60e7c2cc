"""What a run takes: as much as was said, whatever the number of samples, and few sessions."""

import shutil
import time
import tracemalloc
import weakref
from collections import namedtuple

import numpy as np
import pytest

from passel.errors import InvalidInput
from passel.execution import engine
from passel.passes.base import Context
from passel.passes.driver import run_passes
from passel.passes.quantization import rounds, telling
from passel.passes.quantization.calibration.data import Samples
from passel.passes.quantization.memory import Estimate, Needed, estimate, readable
from passel.passes.quantization.store import Store
from passel.passes.quantization.walk import Walk
from passel.passes.quantize import Quantize
from tests.passes.quantization.walked import data, named, quantized, residual


def linears(graph):
    return tuple(op for op in graph.ops if op.kind == "Linear")


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (1234567890, "1.2 GB"), (34e6, "34 MB"),
     (999.6e6, "1.0 GB"), (5e12, "5.0 TB")],
)  # fmt: skip
def test_bytes_as_text(count, text):
    assert readable(count) == text


def test_what_is_said(tmp_path):
    assert str(Estimate(1_200_000_000)) == "needs about 1.2 GB of memory besides the model"
    both = Estimate(1_200_000_000, 3_400_000_000, tmp_path)
    assert str(both).endswith(
        f"1.2 GB of memory besides the model and 3.4 GB on disk in {tmp_path}"
    )
    assert str(Estimate(1, 2)).endswith("2 B on disk in a temporary folder")


# -- the estimate beside what happens --------------------------------------------------------------


@pytest.mark.parametrize("weights", ["mse+gptq", "awq+gptq"])
def test_memory_is_as_estimated(weights):
    """At a size where what is counted outweighs what is not."""
    width = 192
    graph = residual(1, width)
    samples = Samples.of(data(24, 256, width), graph.inputs)
    ops, equalized = linears(graph), linears(graph) if weights.startswith("awq") else ()
    found = estimate(graph, Needed(walked=ops, equalized=equalized), samples)
    weight = sum(v.constant.nbytes for v in graph.constants())
    tracemalloc.start()
    try:
        quantized(graph, scheme="w8", weights=weights, calibration=samples)
        peak = tracemalloc.get_traced_memory()[1] - weight
    finally:
        tracemalloc.stop()
    assert 0.3 * found.memory < peak < 1.15 * found.memory


def test_disk_is_as_estimated(tmp_path, monkeypatch):
    graph, largest = residual(2, 32), [0]
    samples = Samples.of(data(5, 100, 32), graph.inputs)
    found = estimate(graph, Needed(walked=linears(graph)), samples, folder=tmp_path)
    original = Store.save

    def save(self, *args):
        original(self, *args)
        held = sum(path.stat().st_size - 128 for path in tmp_path.rglob("*.npy"))
        largest[0] = max(largest[0], held)

    monkeypatch.setattr(Store, "save", save)
    quantized(graph, calibration=samples, work_dir=str(tmp_path))
    assert largest[0] == found.disk == 2 * 2 * 5 * 100 * 32 * 4


def test_what_does_not_fit_in_memory_is_expected_on_disk(monkeypatch):
    graph = residual(2, 32)
    samples = Samples.of(data(5, 100, 32), graph.inputs)
    whole = estimate(graph, Needed(walked=linears(graph)), samples)
    monkeypatch.setattr("passel.passes.quantization.memory.LIMIT", 1000)
    spilled = estimate(graph, Needed(walked=linears(graph)), samples)
    assert whole.disk == 0
    assert whole.memory - spilled.memory == spilled.disk - 1000


def test_rows_and_samples_count():
    graph = residual(2, 32)

    def disk(count, rows, folder="x"):
        samples = Samples.of(data(count, rows, 32), graph.inputs)
        return estimate(graph, Needed(walked=linears(graph)), samples, folder=folder).disk

    assert disk(6, 10) == 3 * disk(2, 10) > 0
    assert disk(2, 40) == 4 * disk(2, 10)


def test_steps_follow_one_another():
    """The largest counts, not the sum."""
    graph = residual(2, 32)
    samples = Samples.of(data(5, 100, 32), graph.inputs)
    ops = linears(graph)
    alone = [
        estimate(graph, needed, samples).memory
        for needed in (Needed(ranges=(ops[1].x,)), Needed(equalized=ops), Needed(walked=ops))
    ]
    together = Needed(ranges=(ops[1].x,), equalized=ops, walked=ops)
    assert estimate(graph, together, samples).memory == max(alone)
    assert min(alone) > 0


# -- refusing and telling --------------------------------------------------------------------------


def test_a_disk_without_room_is_refused_before_work_starts(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1, 1, 1 << 20))
    graph = residual()
    with pytest.raises(InvalidInput, match=r"on disk in .*/new/folder, which has 1.0 MB free"):
        quantized(graph, work_dir=str(tmp_path / "new" / "folder"))
    assert not (tmp_path / "new").exists()
    assert not any(op.kind == "Quantize" for op in graph.ops)
    quantized(graph)  # needs no disk


def test_it_is_said_and_noted_before_work_starts(monkeypatch):
    said, context = [], Context()
    monkeypatch.setattr("passel.passes.quantization.work.say", said.append)
    monkeypatch.setattr(rounds, "round_weight", lambda *args: pytest.fail(said[-1]))
    one = Quantize("int8", "gptq", calibration=data(), placement="all")
    with pytest.raises(pytest.fail.Exception, match=r"quantize: needs about .*B of memory"):
        run_passes(residual(), [one], context=context)
    assert [note for note in context.notes if "needs about" in note] == [
        said[0].replace("quantize:", "quantize")
    ]


def test_nothing_is_said_of_a_run_without_data(monkeypatch):
    one, _ = quantized(residual(), scheme="int8-dynamic", weights="rtn", calibration=None)
    assert one.notes == []


# -- bounded, whatever the number of samples -------------------------------------------------------


class Tracked(np.ndarray):
    """An array that can be told from others of the same content."""

    __hash__ = object.__hash__
    __eq__ = object.__eq__


@pytest.mark.parametrize("how", [{}, {"weights": "awq+gptq"}, {"scheme": "w8"}])
def test_samples_are_never_all_in_memory(how, monkeypatch):
    alive, most = [], [0]
    original = Samples.since

    def since(self, start):
        for sample in original(self, start):
            fresh = [np.array(one).view(Tracked) for one in sample]
            alive.extend(map(weakref.ref, fresh))
            most[0] = max(most[0], sum(ref() is not None for ref in alive))
            yield fresh
            del fresh, sample

    monkeypatch.setattr(Samples, "since", since)
    quantized(residual(1), calibration=data(20), **how)
    assert len(alive) > 100
    assert most[0] <= 3


def test_nothing_but_the_store_grows_with_samples(tmp_path):
    """Peak memory with many samples is that with few, when activations go to disk."""
    peaks = []
    for count in (3, 24):
        graph = residual(1, 32)
        samples = Samples.of(data(count, 256, 32), graph.inputs)
        tracemalloc.start()
        try:
            quantized(graph, calibration=samples, scheme="w8", work_dir=str(tmp_path / str(count)))
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    taps = 3 * 21 * 256 * 64 * 4  # these may be held until they are 1 GB
    assert peaks[1] < peaks[0] + taps + 100_000


def test_few_sessions_are_alive_at_once():
    """Each holds a packed copy of its weights."""
    alive, most, made = weakref.WeakSet(), [0], [0]

    class Loaded:
        def __init__(self, model):
            self.run = engine(model, 1)
            alive.add(self)
            made[0] += 1
            most[0] = max(most[0], len(alive))

        def __call__(self, arrays):
            return self.run(arrays)

    graph = residual(2, engine=Loaded)
    for _ in Walk(graph, linears(graph), Samples.of(data(2), graph.inputs), Store()).groups():
        assert len(alive) == 0  # while weights are rounded
    walked = made[0]
    quantized(residual(2, engine=Loaded), weights="awq+gptq")
    assert walked >= 8
    assert made[0] > 2 * walked
    assert most[0] == 1
    assert len(alive) == 0


# -- progress --------------------------------------------------------------------------------------


def test_a_long_step_is_told_twice_a_second(monkeypatch):
    said = []
    monkeypatch.setattr(telling, "say", lambda text: said.append((time.monotonic(), text)))
    original = rounds.round_weight

    def slow(layer, *args):
        if layer.name == "down0":
            time.sleep(1.6)
        return original(layer, *args)

    monkeypatch.setattr(rounds, "round_weight", slow)
    graph = residual(1)
    count = len(linears(graph))
    place = 1 + linears(graph).index(named(graph, "down0"))
    quantized(graph)
    wanted = f"quantize: rounding down0 ({place} of {count})"
    times = [when for when, text in said if text == wanted]
    assert len(times) >= 4
    assert max(np.diff(times)) < 0.9
    texts = " ".join(text for _, text in said)
    for stage in ("calibrating: sample 6 of 6", "as it was", "moments at", ", quantized"):
        assert stage in texts
