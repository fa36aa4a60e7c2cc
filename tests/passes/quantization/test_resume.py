"""Runs that were stopped, by any means at any time, end with the same constants, bit for bit."""

import multiprocessing
import os
import signal
import sys

import numpy as np
import pytest

from passel.errors import InvalidInput
from passel.passes.quantization import checkpoint, rounds, walk
from passel.passes.quantization.store import Store
from tests.passes.quantization.walked import constants, data, quantized, residual

FORK = multiprocessing.get_context("fork")
SCHEMES = {
    "static": {"scheme": "int8", "weights": "mse+gptq"},
    "equalized": {"scheme": "w4", "weights": "awq+gptq", "block_size": 16},
}
EVENTS = [(checkpoint.Checkpoint, "save"), (checkpoint.Checkpoint, "advance"), (Store, "save")]
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="kills forked processes")


def counted(action, at):
    """Let every event of EVENTS count, and `action` happen before the `at`-th."""
    counter = [0]

    def watched(original):
        def call(*args):
            counter[0] += 1
            if counter[0] == at:
                action()
            return original(*args)

        return call

    for owner, name in EVENTS:
        setattr(owner, name, watched(getattr(owner, name)))
    return counter


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def _killed(at, how):
    counted(die, at)
    quantized(residual(), **how)


def killed(at, how):
    """Whether a run in another process was killed before its `at`-th event."""
    process = FORK.Process(target=_killed, args=(at, how))
    process.start()
    process.join(60)
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


@pytest.fixture(scope="module")
def whole():
    """The constants of uninterrupted runs."""
    found = {}
    for name, how in SCHEMES.items():
        graph = residual()
        quantized(graph, **how)
        found[name] = constants(graph)
    return found


def finished(how, expected):
    """Run to the end in this process and compare; the notes."""
    graph = residual()
    one, _ = quantized(graph, **how)
    assert constants(graph) == expected
    return one.notes


@pytest.mark.parametrize(
    ("name", "at"), [("static", k) for k in (1, 13, 30, 47)] + [("equalized", 28)]
)
def test_killed_once(whole, tmp_path, name, at):
    how = {**SCHEMES[name], "work_dir": str(tmp_path)}
    assert killed(at, how)
    notes = finished(how, whole[name])
    went_on = any("went on from stretch" in note for note in notes)
    assert went_on == (at > 25)  # those before were in the first stretch
    assert not list(tmp_path.rglob("*.npy"))


def test_killed_again_and_again(whole, tmp_path):
    """Each run does a few steps more than the one before."""
    how = {**SCHEMES["static"], "work_dir": str(tmp_path)}
    runs = 0
    while killed(17, how):
        runs += 1
        assert runs < 20
    assert runs >= 2
    finished(how, whole["static"])


def test_killed_while_a_file_is_being_written(whole, tmp_path, monkeypatch):
    how = {**SCHEMES["static"], "work_dir": str(tmp_path)}

    def torn():
        original, calls = np.savez, [0]

        def half(file, **arrays):
            calls[0] += 1
            original(file, **arrays)
            if calls[0] == 4:
                file.truncate(file.tell() // 2)
                file.flush()
                die()

        checkpoint.np.savez = half
        quantized(residual(), **how)

    process = FORK.Process(target=torn)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert list(tmp_path.rglob("*.part"))
    finished(how, whole["static"])


def test_interrupted_by_the_user(whole, tmp_path, monkeypatch):
    how = {**SCHEMES["static"], "work_dir": str(tmp_path)}
    with monkeypatch.context() as patched:
        for owner, name in EVENTS:
            patched.setattr(owner, name, getattr(owner, name))  # to be undone
        counter = counted(interrupt, 40)
        with pytest.raises(KeyboardInterrupt):
            quantized(residual(), **how)
        assert counter == [40]
    assert any("went on from stretch" in note for note in finished(how, whole["static"]))


def interrupt():
    raise KeyboardInterrupt


@pytest.mark.parametrize("name", SCHEMES)
def test_a_second_call_computes_nothing(whole, tmp_path, monkeypatch, name):
    how = {**SCHEMES[name], "work_dir": str(tmp_path)}
    finished(how, whole[name])
    size = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    for module, function in ((rounds, "round_weight"), (walk, "moments_for")):
        monkeypatch.setattr(module, function, lambda *args, **named: pytest.fail("computed"))
    finished(how, whole[name])
    assert size == sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert not list(tmp_path.rglob("*.npy"))
    assert size < 120_000


def test_quality_is_reported_alike(tmp_path):
    how = {**SCHEMES["static"], "work_dir": str(tmp_path)}
    reports = [quantized(residual(), **each)[1] for each in ({}, how, how)]
    first, *others = [repr(report.layers) for report in reports]  # as text, for NaN
    assert others == [first, first]
    assert np.isfinite([layer.output_snr_db for layer in reports[2].layers]).all()


@pytest.mark.parametrize(
    ("change", "part"),
    [({"calibration": data(seed=8)}, "data"), ({"model": 1}, "model")],
)
def test_a_stale_state_is_never_mixed_in(tmp_path, change, part):
    how = {**SCHEMES["equalized"], "weights": "mse+gptq", "work_dir": str(tmp_path)}
    assert killed(30, how)
    seed = change.pop("model", 0)
    fresh, resumed = residual(seed=seed), residual(seed=seed)
    quantized(fresh, **{**how, "work_dir": "", **change})
    one, _ = quantized(resumed, **{**how, **change})
    assert constants(resumed) == constants(fresh)
    assert any(f"is of another {part}: started anew" in note for note in one.notes)


def test_another_method_has_a_state_of_its_own(whole, tmp_path):
    how = {**SCHEMES["static"], "work_dir": str(tmp_path)}
    assert killed(40, how)
    finished({**SCHEMES["equalized"], "work_dir": str(tmp_path)}, whole["equalized"])
    assert any("went on from stretch" in note for note in finished(how, whole["static"]))


@pytest.mark.parametrize("damage", ["manifest", "weight", "activations"])
def test_a_damaged_state_is_computed_again(whole, tmp_path, damage):
    how = {**SCHEMES["static"], "work_dir": str(tmp_path)}
    assert killed(45, how)
    pattern = {"manifest": "rounding.json", "weight": "op-*.npz", "activations": "*.npy"}[damage]
    path = sorted(tmp_path.rglob(pattern))[0]
    path.write_bytes(path.read_bytes()[:-9])
    notes = finished(how, whole["static"])
    assert not any("went on from stretch" in note for note in notes)
    expected = {"manifest": "is damaged", "activations": "are incomplete"}.get(damage)
    assert expected is None or any(expected in note for note in notes)


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match="cannot write"):
        quantized(residual(), work_dir=str(tmp_path / "file"))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_without_a_work_dir_nothing_is_left(tmp_path, monkeypatch, error):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(Store.__init__, "__defaults__", (None, 0))
    seen = []

    def fail(self, *args):
        seen.extend(tmp_path.rglob("*.npy"))
        raise error("stop")

    quantized(residual())
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(Store, "turn", fail)
    with pytest.raises(error):
        quantized(residual())
    assert len(seen) > 6
    assert list(tmp_path.iterdir()) == []
