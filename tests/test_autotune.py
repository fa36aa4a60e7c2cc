"""passel.autotune on tiny models, in real processes: the result, the lookup, crashes, bad input."""

import sys
from pathlib import Path

import pytest
import torch

import passel
from passel import tuner
from passel.backends.tuning import stable
from passel.backends.tuning.database import Database
from passel.backends.tuning.memory import tuned_plan
from passel.backends.tuning.plan import Plan
from passel.errors import InvalidInput
from passel.execution import lift
from passel.onnx_form import as_onnx
from passel.passes import Quantize
from passel.pipeline import Job
from tests.api import close, example, net

CRASHING = Path(__file__).with_name("crashing_candidate.py")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PASSEL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tuned.db"


def no_processes(monkeypatch):
    def refuse(*_):
        raise AssertionError("a process was started")

    monkeypatch.setattr(tuner, "Child", refuse)


def test_tune_then_look_up(tmp_path, monkeypatch, cache):
    model, x = net(), example()
    seen = []
    tuned = passel.autotune(model, x, trials=3, threads=1, progress=lambda s: seen.append(s.doing))
    chosen = tuned.report.chosen
    assert close(tuned(x), model(x))
    assert chosen["ratio"] <= 1
    assert chosen["best ms"] <= chosen["baseline ms"]
    assert chosen["trials"]["tried"] == 3
    assert "measuring the baseline" in seen
    assert cache.exists()
    tuned.save(tmp_path / "saved")
    assert close(passel.load(tmp_path / "saved")(x), model(x))

    no_processes(monkeypatch)
    again = passel.autotune(model, x, trials=3, threads=1)
    history = "history (s, best)"  # which JSON knows as lists, not as tuples
    kept = again.report.chosen
    assert kept | {history: 0, "plan": 0} == chosen | {history: 0, "plan": 0}
    assert Plan.from_dict(kept["plan"]) == Plan.from_dict(chosen["plan"])
    assert again.report.notes[0] == "taken from the database; nothing was measured"
    assert close(again(x), model(x))
    other = net()
    other.first.weight.data *= 2  # other weights, same graph
    assert close(passel.autotune(other, x, trials=2, threads=1)(x), other(x))

    captured = passel.capture.capture(model, x)
    onnx = as_onnx(Job.of("default", (), None), captured)
    plan = Plan.from_dict(chosen["plan"])
    assert tuned_plan(lift(onnx), captured.inputs, threads=1) == plan
    assert tuned_plan(lift(onnx), captured.inputs, threads=0) is None  # was never searched
    compiled = passel.compile(model, x, threads=1)
    assert compiled.report.chosen["plan"] == str(plan)
    assert "lookup" in compiled.report.stages
    assert close(compiled(x), model(x))


@pytest.fixture
def fragile(monkeypatch):
    """Lets one form of candidates crash or hang."""

    def make(how):
        line = [sys.executable, "-W", "ignore", str(CRASHING)]
        monkeypatch.setattr(tuner, "command", lambda _, folder: [*line, folder, how])

    return make


def test_a_candidate_that_crashes_ends_its_trial_only(fragile):
    fragile("crash")
    model, x = net(), example()
    tuned = passel.autotune(model, x, trials=2, threads=1)
    assert "1 candidates failed: the process was ended by SIGSEGV" in tuned.report.notes
    assert tuned.report.chosen["trials"]["failed"] == 1
    assert close(tuned(x), model(x))


@pytest.mark.slow
def test_a_candidate_that_hangs_ends_its_trial_only(fragile, monkeypatch):
    fragile("hang")
    monkeypatch.setattr(stable, "BUILD_SECONDS", 25.0)
    model, x = net(), example()
    tuned = passel.autotune(model, x, trials=2, threads=1)
    assert "1 candidates failed: no answer within 25 s" in tuned.report.notes
    assert close(tuned(x), model(x))


def test_no_database_is_made_by_looking(cache):
    captured = passel.capture.capture(net(), example())
    assert tuned_plan(lift(captured.program), captured.inputs) is None
    assert not cache.exists()


def test_a_damaged_database_is_no_reason_to_fail(cache):
    cache.parent.mkdir(parents=True)
    cache.write_text("not a database")
    captured = passel.capture.capture(net(), example())
    assert tuned_plan(lift(captured.program), captured.inputs) is None


@pytest.mark.slow
def test_a_stored_plan_that_no_longer_works_is_searched_again(monkeypatch):
    model, x = net(), example()
    first = passel.autotune(model, x, trials=1, threads=1)
    assert first.report.chosen["in words"] == "as exported, 1 threads"
    database = Database.open(None)
    (record,) = database.records()
    database.forget(record.key)
    text = record.plan.replace('"passes": []', '"passes": ["gone"]').replace("as exported", "x")
    database.store(type(record)(**{**vars(record), "plan": text}))
    again = passel.autotune(model, x, trials=1, threads=1)
    assert "the stored plan does not work any more" in "\n".join(again.report.notes)
    assert close(again(x), model(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": 0}, "budget: expected a time like '30s', '5min' or '1h'"),
        ({"budget": "-1s"}, "budget: expected a time"),
        ({"budget": "soon"}, "budget: expected a time"),
        ({"trials": 0}, "trials: expected at least 1, got 0"),
        ({"objective": "speed"}, "objective: expected one of latency, throughput, memory"),
        ({"max_error": -1.0}, "max_error: expected a positive number"),
        ({"target": "tpu"}, "target: expected one of cpu, cuda"),
        ({"threads": -1}, "threads: expected a whole number from 0 on, got -1"),
        ({"seed": 1.5}, "seed: expected a whole number from 0 on, got 1.5"),
        ({"passes": ["faster"]}, "passes: expected one of"),
        ({"passes": ["default", Quantize()]}, "quantization is a part of the search"),
        ({"passes": ["prune-tokens"]}, "prune-tokens is lossy: give max_error="),
        ({"database": "/proc/nowhere/tuned.db"}, "database"),
    ],
)
def test_bad_input(monkeypatch, options, message):
    no_processes(monkeypatch)
    with pytest.raises(InvalidInput, match=message):
        passel.autotune(net(), example(), **options)


def test_a_model_that_is_bad_itself(monkeypatch):
    no_processes(monkeypatch)
    with pytest.raises(passel.errors.InvalidModel, match="training mode"):
        passel.autotune(net().train(), example(), trials=1)
    with pytest.raises(InvalidInput, match="example_inputs"):
        passel.autotune(net(), None, trials=1)


@pytest.mark.slow
def test_torch_where_onnx_runtime_has_no_kernel():
    from tests.test_compile_dtypes import IMAGE, Image

    model, x = Image().eval().double(), IMAGE.double()
    tuned = passel.autotune(model, x, trials=2, threads=1)
    assert tuned.report.chosen["plan"]["backend"] == "torch"
    assert any(note.startswith("the baseline is torch") for note in tuned.report.notes)
    assert torch.allclose(tuned(x), model(x))


@pytest.mark.slow
@pytest.mark.parametrize(("bound", "quantized"), [(0.2, True), (1e-7, False)])
def test_the_error_stays_within_its_bound(bound, quantized):
    from passel.models.digits import load_digits_split, load_trained

    model = load_trained("layer").eval()
    x = load_digits_split().x_test[:32]
    tuned = passel.autotune(model, x, trials=14, threads=1, max_error=bound)
    with torch.no_grad():
        expected = model(x)
    error = float((tuned(x) - expected).abs().max() / expected.abs().max())
    assert error <= max(bound, 1e-4)
    specs = tuned.report.chosen["plan"]["passes"]
    if not quantized:
        assert not any(spec.startswith("quantize") for spec in specs)
        assert any("disagrees with the original" in note for note in tuned.report.notes)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["throughput", "memory"])
def test_other_objectives(objective):
    model, x = net(), example()
    tuned = passel.autotune(model, x, trials=4, objective=objective)
    assert tuned.report.chosen["ratio"] <= 1
    assert close(tuned(x), model(x))
