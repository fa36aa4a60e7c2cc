"""Running samples through a graph: right values, bounded chunks, progress, kills and resumption."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from passel.errors import InvalidInput
from passel.graph import onnx as onnx_view
from passel.passes.quantization.calibration import (
    Moments,
    Samples,
    Twin,
    collect,
    observer,
)
from passel.passes.quantization.calibration.collect import chunked
from passel.passes.quantization.grid import Grid

WIDTH = 6
INT8 = Grid("int8")


def net(seed=0):
    """x [batch, 6] -> h = relu(x·w) -> y = h·v, as a graph and as numpy."""
    generator = np.random.default_rng(seed)
    w, v = (generator.normal(size=(WIDTH, WIDTH)).astype(np.float32) for _ in range(2))
    helper = onnx.helper
    shape = ["batch", WIDTH]
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["a"]),
            helper.make_node("Relu", ["a"], ["h"]),
            helper.make_node("MatMul", ["h", "v"], ["y"]),
        ],
        "net",
        [helper.make_tensor_value_info("x", 1, shape)],
        [helper.make_tensor_value_info("y", 1, shape)],
        [onnx.numpy_helper.from_array(w, "w"), onnx.numpy_helper.from_array(v, "v")],
        value_info=[helper.make_tensor_value_info(name, 1, shape) for name in "ah"],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    lifted = onnx_view.lift(ir.from_proto(model))
    return lifted, lambda x: {"x": x, "a": x @ w, "h": np.maximum(x @ w, 0)}


def data(count=8, rows=4):
    generator = np.random.default_rng(7)
    return [generator.normal(size=(rows, WIDTH)).astype(np.float32) for _ in range(count)]


def named(graph, *names):
    found = {v.name: v for v in graph.inputs}
    found |= {v.name: v for op in graph.ops for v in op.outputs}
    return [found[name] for name in names]


def asked(graph):
    """One of each statistic on three values, the graph's input among them."""
    x, a, h = named(graph, "x", "a", "h")
    return {
        x: [observer("minmax"), Moments(WIDTH)],
        a: [observer("entropy"), observer("moving-average", 1)],
        h: [observer("mse"), Moments(WIDTH)],
    }


def gathered(wanted):
    """All that the statistics hold, as one list of arrays."""
    return [
        array
        for statistics in wanted.values()
        for statistic in statistics
        for _, array in sorted(statistic.state().items())
    ]


def equal(one, other):
    assert len(one) == len(other) > 5
    for left, right in zip(one, other, strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.fixture
def graph():
    return net()[0]


@pytest.fixture
def samples(graph):
    return Samples.of(data(), graph.inputs)


# -- values ----------------------------------------------------------------------------------------


def test_statistics_are_of_the_models_values(graph, samples):
    wanted, reference = asked(graph), net()[1]
    assert collect(graph, wanted, samples) == ()
    arrays = [reference(x) for x in data()]
    for value, statistics in wanted.items():
        whole = np.concatenate([values[value.name] for values in arrays])
        for made in statistics:
            if isinstance(made, Moments):
                expected = whole.T.astype(np.float64) @ whole / len(whole)
                np.testing.assert_allclose(made.second, expected, atol=1e-5)
    low, high = wanted[named(graph, "x")[0]][0].range(INT8)
    assert (low, high) == (np.min(data()), np.max(data()))


def test_both_views(either_view):
    import torch  # not above, as the killed processes import this file too
    from torch import nn

    module = nn.Sequential(nn.Linear(WIDTH, 5), nn.ReLU(), nn.Linear(5, 3))
    x = torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(0))
    graph, _ = either_view.lift(module, [x])
    hidden = next(op for op in graph.ops if op.kind == "Linear").output
    made = observer("minmax")
    collect(graph, {hidden: [made]}, Samples.of([x, x + 1], graph.inputs))
    with torch.no_grad():
        expected = torch.stack([module[0](x), module[0](x + 1)])
    np.testing.assert_allclose(made.range(INT8)[1], expected.max().item(), rtol=1e-5)


def test_a_float_twin_gives_cross_moments(graph, samples):
    twin, reference = net(seed=1)
    made = Moments(WIDTH, cross=True)
    (h,), (beside,) = named(graph, "h"), named(twin, "h")
    collect(graph, {h: [made]}, samples, twin=Twin(twin, {h: beside}))
    ours = np.concatenate([net()[1](x)["h"] for x in data()])
    theirs = np.concatenate([reference(x)["h"] for x in data()])
    np.testing.assert_allclose(made.cross, theirs.T @ ours / len(ours), atol=1e-5)
    with pytest.raises(ValueError, match="expected a twin of 'h', whose moments keep cross"):
        collect(graph, {h: [Moments(WIDTH, cross=True)]}, samples)


# -- chunks ----------------------------------------------------------------------------------------


def test_chunks_fit_the_budget_and_keep_the_order(graph):
    x, a, h = named(graph, "x", "a", "h")
    size = 4 * WIDTH * 4
    sample = data()[0]
    assert chunked(graph, [x, a, h], [sample], 3 * size) == [[x, a, h]]
    assert chunked(graph, [x, a, h], [sample], 2 * size) == [[x, a], [h]]
    assert chunked(graph, [x, a, h], [sample], 1) == [[x], [a], [h]]
    a.shape = None
    assert chunked(graph, [x, a, h], [sample], 3 * size) == [[x], [a], [h]]


def test_chunks_change_nothing(graph, samples, monkeypatch):
    whole, parts = asked(graph), asked(graph)
    collect(graph, whole, samples)
    probed = []
    original = graph.probe
    monkeypatch.setattr(graph, "probe", lambda values: probed.append(values) or original(values))
    collect(graph, parts, samples, memory=1)
    assert [len(values) for values in probed] == [1, 1, 1]
    equal(gathered(whole), gathered(parts))


# -- progress --------------------------------------------------------------------------------------


def test_progress_reaches_the_end(graph, samples):
    calls = []
    collect(graph, asked(graph), samples, progress=lambda *call: calls.append(call), memory=1)
    done = [call[0] for call in calls]
    assert done == sorted(done)
    assert calls[0][:2] == (0, 24)
    assert calls[-1] == (24, 24, "calibrating: sample 8 of 8")


def test_progress_goes_on_while_one_sample_takes_long(graph, monkeypatch):
    original = graph.probe

    def slow(values):
        run = original(values)
        return lambda arrays: time.sleep(1.6) or run(arrays)

    monkeypatch.setattr(graph, "probe", slow)
    times = []
    one = Samples.of(data(1), graph.inputs)
    collect(graph, asked(graph), one, progress=lambda *_: times.append(time.monotonic()))
    assert len(times) >= 4
    assert max(np.diff(times)) < 0.9  # twice a second, with room for a busy machine


def test_an_exception_of_progress_stops_the_work(graph, samples):
    def progress(done, total, label):
        if done == 3:
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        collect(graph, asked(graph), samples, progress=progress)


# -- saving and resuming ---------------------------------------------------------------------------


class Stop:
    """A progress callback that interrupts at a step, and remembers the steps."""

    def __init__(self, at=None, how=KeyboardInterrupt):
        self.at, self.how, self.done = at, how, []

    def __call__(self, done, total, label):
        self.done.append(done)
        if done == self.at:
            raise self.how


@pytest.mark.parametrize("memory", [1, 1 << 30])
@pytest.mark.parametrize("at", [0, 3, 7])
def test_ctrl_c_saves_and_the_next_call_goes_on(graph, samples, tmp_path, memory, at):
    whole = asked(graph)
    collect(graph, whole, samples, memory=memory)
    with pytest.raises(KeyboardInterrupt):
        collect(graph, asked(graph), samples, progress=Stop(at), state=tmp_path, memory=memory)
    rest, seen = asked(graph), Stop()
    notes = collect(graph, rest, samples, progress=seen, state=tmp_path, memory=memory)
    assert seen.done[0] == at
    assert any(f"went on from step {at} of" in note for note in notes) == (at > 0)
    equal(gathered(whole), gathered(rest))


def test_an_interrupt_between_two_statistics_is_not_saved(graph, samples, tmp_path, monkeypatch):
    """The state stays that of the last whole sample."""
    whole = asked(graph)
    collect(graph, whole, samples)
    broken = asked(graph)
    (h,) = named(graph, "h")
    calls = []

    def update(array):
        calls.append(0)
        if len(calls) == 4:
            raise KeyboardInterrupt

    broken[h][0].update = update
    with pytest.raises(KeyboardInterrupt):
        collect(graph, broken, samples, state=tmp_path, seconds=100)
    rest = asked(graph)
    collect(graph, rest, samples, state=tmp_path)
    equal(gathered(whole), gathered(rest))


def test_a_finished_state_is_taken_as_it_is(graph, samples, tmp_path):
    first, second, seen = asked(graph), asked(graph), Stop()
    collect(graph, first, samples, state=tmp_path)
    collect(graph, second, samples, state=tmp_path, progress=seen)
    assert seen.done == []
    equal(gathered(first), gathered(second))
    assert len(list(tmp_path.iterdir())) == 2  # one manifest, one file of arrays


def test_a_state_of_something_else_is_not_used(graph, samples, tmp_path):
    collect(graph, asked(graph), samples, state=tmp_path)
    other_net = net(seed=1)[0]
    other_data = Samples.of(data(count=9), graph.inputs)
    (x,) = named(graph, "x")
    runs = [
        (other_net, asked(other_net), Samples.of(data(), other_net.inputs), "another model"),
        (graph, asked(graph), other_data, "another model and data"),
        (graph, {x: [observer("minmax")]}, other_data, "another method"),
        (graph, {x: [observer("minmax", 1)]}, other_data, "another method"),
    ]
    for which, wanted, given, message in runs:
        alone = {value: statistics for value, statistics in wanted.items()}
        notes = collect(which, alone, given, state=tmp_path)
        assert any(f"made for {message}: started anew" in note for note in notes), notes


def test_a_state_that_is_damaged_is_not_used(graph, samples, tmp_path):
    whole = asked(graph)
    collect(graph, whole, samples, state=tmp_path)
    for damage in ("calibration.json", "calibration-8.npz"):
        path = tmp_path / damage
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        again = asked(graph)
        notes = collect(graph, again, samples, state=tmp_path)
        assert any("is damaged: started anew" in note for note in notes)
        equal(gathered(whole), gathered(again))


def test_a_folder_that_cannot_be_written_fails_at_once(graph, samples, tmp_path):
    (tmp_path / "file").write_text("")
    seen = Stop()
    with pytest.raises(InvalidInput, match=r"cannot write .*calibration-0.npz: \w+"):
        collect(graph, asked(graph), samples, state=tmp_path / "file", progress=seen)
    assert seen.done == []


SCRIPT = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
import test_calibration_collect as t

def progress(done, total, label):
    if done == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)

t.calibrate(sys.argv[2], progress)
"""


def calibrate(folder, progress=None):
    """Twelve samples from a generator in two chunks, saved after each."""
    graph = net()[0]
    wanted = asked(graph)
    samples = Samples.of(iter(data(12)), graph.inputs)
    notes = collect(graph, wanted, samples, state=folder, seconds=0, progress=progress, memory=200)
    return gathered(wanted), notes


def test_sigkill_midway_changes_nothing(tmp_path):
    """Killed twice, once in each chunk, and gone on to the same bits in another process."""
    whole, _ = calibrate(None)
    for kill in (5, 17):
        arguments = [os.path.dirname(__file__), str(tmp_path), str(kill)]
        command = [sys.executable, "-P", "-c", SCRIPT, *arguments]
        killed = subprocess.run(command, check=False, timeout=120, capture_output=True, text=True)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    resumed, notes = calibrate(tmp_path)
    assert any("went on from step 17 of 24" in note for note in notes)
    equal(whole, resumed)


# -- numbers that are not finite -------------------------------------------------------------------


def test_nan_is_named_with_its_value_and_sample(graph):
    """Each activation is finite in x and overflows in x·w, then 0·inf makes NaN or inf."""
    good = data(2)
    x, a = named(graph, "x", "a")
    huge = np.full((4, WIDTH), 3e38, np.float32)
    samples = Samples.of([*good, huge], graph.inputs)
    with (
        np.errstate(all="ignore"),
        pytest.raises(InvalidInput, match="value 'a' on calibration sample 2: it holds NaN"),
    ):
        collect(graph, {x: [observer("minmax")], a: [Moments(WIDTH)]}, samples)


def test_infinity_left_out_is_noted(samples, graph, monkeypatch):
    (h,) = named(graph, "h")
    original = graph.probe

    def masked(values):
        run = original(values)
        return lambda arrays: [np.where(a > 1, -np.inf, a) for a in run(arrays)]

    monkeypatch.setattr(graph, "probe", masked)
    notes = collect(graph, {h: [observer("minmax")]}, samples)
    count = sum((net()[1](x)["h"] > 1).sum() for x in data())
    assert notes == (f"'h': {count} infinite numbers were left out",)
