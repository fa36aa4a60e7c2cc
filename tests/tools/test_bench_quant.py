"""The quantization benchmark: its errors, its choices and its builders, on tiny models."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from passel.backends.hardware import version_of
from passel.errors import BackendUnavailable, InvalidInput
from passel.tools.bench import quant, quant_build, quant_onnxsim, quant_openvino, quant_ort
from passel.tools.bench.quant_decode import PAST, Decode, cached
from passel.tools.bench.quant_error import fidelity
from passel.tools.bench.quant_models import JUDGED_FROM, Case, arrays, case
from passel.tools.bench.quant_recipes import Built, Job, Recipe
from passel.tools.bench.quant_run import RUNTIMES, Program
from passel.tools.bench.quant_sides import DEFAULT, INT8, SIDES, chosen
from passel.tools.bench.quant_table import HEADINGS, Row, references, rows_to_json, table
from passel.tools.bench.quant_work import Place, key, read_arrays, write_arrays

WIDTH = 64


MIX = torch.randn(WIDTH // 4, WIDTH, generator=torch.Generator().manual_seed(0)) / 4
"""Makes features depend on one another, which is what GPTQ makes use of."""


def sample(index: int) -> tuple[torch.Tensor, ...]:
    return (torch.randn(8, WIDTH // 4, generator=torch.Generator().manual_seed(index)) @ MIX,)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A small MLP and its export."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = torch.nn.Linear(WIDTH, 96), torch.nn.GELU(), torch.nn.Linear(96, 10)
        module = torch.nn.Sequential(*layers).eval()
    folder = tmp_path_factory.mktemp("mlp")
    exported = torch.onnx.export(module, sample(0), dynamo=True, verbose=False)
    assert exported is not None
    exported.save(folder / "float.onnx")
    tiny = Case("mlp", module, sample, calibration=16, judged=3)
    return Job(tiny, folder / "float.onnx", folder, threads=1)


def error_of(side: str, job: Job, folder: Path) -> float:
    """Build a side and measure it in this process."""
    recipe = SIDES[side]
    built = recipe.build(Job(job.case, job.source, folder, 1))
    loaded = RUNTIMES[recipe.runtime](Program("mlp", side, folder, built.config, 1))
    with torch.no_grad():
        judged = list(job.case.judged_inputs())
        pairs = [(loaded.run(arrays(x)), [job.case.module(*x).numpy()]) for x in judged]
        loaded.bound(arrays(judged[0]))()
    return fidelity(pairs).relative


def test_fidelity_is_its_formula() -> None:
    expected = [np.array([3.0, 4.0]), np.array([12.0])]
    found = [np.array([3.0, 4.5]), np.array([11.0])]
    result = fidelity([(found, expected)])
    assert result.relative == pytest.approx(math.sqrt(1.25) / 13)
    assert result.outputs == pytest.approx((0.1, 1 / 12))
    assert result.worst == pytest.approx(1 / 12)
    assert result.snr_db == pytest.approx(20 * math.log10(13 / math.sqrt(1.25)))
    assert result.cosine == pytest.approx(159 / (13 * math.sqrt(9 + 4.5**2 + 121)))


def test_fidelity_of_the_same_has_no_noise_and_goes_into_json() -> None:
    exact = fidelity([([np.ones(3)], [np.ones(3)])])
    assert exact.relative == 0
    assert json.loads(json.dumps(exact.to_dict()))["snr_db"] is None


def test_fidelity_refuses_other_shapes_and_nothing_to_compare_with() -> None:
    with pytest.raises(ValueError, match=r"expected outputs of shapes \[\(2,\)\], got \[\(3,\)\]"):
        fidelity([([np.ones(3)], [np.ones(2)])])
    with pytest.raises(ValueError, match="not all zero"):
        fidelity([([np.ones(3)], [np.zeros(3)])])
    with pytest.raises(ValueError, match="not all zero"):
        fidelity([])


def test_one_step_with_a_cache_is_the_last_of_the_whole_run() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=50, n_positions=PAST + 1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = GPT2LMHeadModel(config).eval()
    ids = torch.randint(50, (1, PAST + 1), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        step = Decode(model)(*cached(model, 3))
        whole = model(ids, use_cache=True)
    torch.testing.assert_close(step[0], whole.logits[:, -1])
    last = whole.past_key_values.layers[1]
    torch.testing.assert_close(step[3], last.keys[:, :, -1:])
    torch.testing.assert_close(step[4], last.values[:, :, -1:])


def test_inputs_are_the_same_each_time_and_none_calibrates_and_judges() -> None:
    first, second = case("vit-digits"), case("vit-digits")
    calibration = [x[0] for x in first.calibration_inputs(5)]
    for one, other in zip(calibration, second.calibration_inputs(5), strict=True):
        assert torch.equal(one, other[0])
    judged = [x[0] for x in first.judged_inputs()]
    assert len(judged) == first.judged
    assert torch.equal(judged[2], first.sample(JUDGED_FROM + 2)[0])
    assert not any(torch.equal(x, y) for x in calibration for y in judged)


def test_a_side_is_named_by_family_setting_or_pattern() -> None:
    assert chosen(["ort-static:all"], "vit-s") == ["ort-static:all"]
    dynamic = chosen(["ort-dynamic"], "vit-s")
    assert len(dynamic) > 2
    assert dynamic == chosen(["ort-dynamic:*", "ort-dynamic"], "vit-s")
    assert "passel-w4" in chosen(None, "llama-decode")
    assert "passel-int8" in chosen(None, "vit-s")
    for names in (INT8, *DEFAULT.values()):
        assert chosen(list(names), "vit-s")
    with pytest.raises(InvalidInput, match="'tvm' is none; there are ort-fp32, ort-dynamic"):
        chosen(["tvm"], "vit-s")


def measured(side: str, median: float, error: float, **changes: str) -> Row:
    times = {"median_ms": median, "p25_ms": median, "p75_ms": median}
    found = {"relative": error, "cosine": 1.0, "snr_db": None}
    return Row(side, "", times=times, fidelity=found, **changes)


def test_a_setting_goes_when_another_is_better_in_both() -> None:
    rows = {
        "f:fast": measured("f:fast", 10, 0.02),
        "f:slow": measured("f:slow", 12, 0.02),
        "f:exact": measured("f:exact", 12, 0.01),
        "f:as-fast": measured("f:as-fast", 10.1, 0.02),
        "f:worse": measured("f:worse", 10.1, 0.03),
    }
    assert quant.dominated(rows) == {"f:slow": "f:fast", "f:worse": "f:fast"}
    assert quant.dominated({name: rows["f:fast"] for name in ("a", "b")}) == {}


def test_ratios_are_against_float_and_the_fastest_quantized_peer() -> None:
    rows = [
        measured("ort-fp32", 20, 0.0),
        measured("openvino-bf16", 5, 0.0),
        measured("ort-dynamic:gemms", 12, 0.02),
        measured("ort-static:gemms", 3, 0.5, beaten_by="ort-static:all"),
        measured("passel-int8", 8, 0.02),
        Row("torch-ao:eager", "", failure="not installed: pip install passel[peers]"),
    ]
    assert references(rows) == (20, 12)
    facts = {"vit-s": {"trained": False, "judged": 4, "tokens": 1, "key": "k"}}
    sides = rows_to_json({"vit-s": rows}, facts)["vit-s"]["sides"]
    assert sides["passel-int8"]["vs_best_peer"] == pytest.approx(1.5)
    assert sides["passel-int8"]["vs_fp32"] == pytest.approx(2.5)
    assert sides["torch-ao:eager"]["failure"].endswith("passel[peers]")
    drawn = table("vit-s", rows, facts["vit-s"], 2)
    assert drawn.row_count == 5
    assert len(drawn.columns) == len(HEADINGS)
    assert next(iter(drawn.columns[0].cells)) == "openvino-bf16"
    assert list(drawn.columns[0].cells)[-1] == "torch-ao:eager"
    assert "200 tokens/s" in list(drawn.columns[-1].cells)
    assert "ort-static:gemms" in str(drawn.caption)


def test_a_folder_appears_when_it_is_complete(tmp_path: Path) -> None:
    place = Place(tmp_path, "m")
    with pytest.raises(RuntimeError), place.making("a:b", {"key": 1}):
        raise RuntimeError
    assert not place.side("a:b").exists()
    with place.making("a:b", {"key": 1}) as folder:
        write_arrays(folder / "x.npz", [np.arange(3), np.ones((2, 2))])
    assert place.built("a:b") == {"key": 1}
    stored = place.side("a:b") / "x.npz"
    assert [x.shape for x in read_arrays(stored)] == [(3,), (2, 2)]
    assert place.bytes("a:b") == stored.stat().st_size
    with place.making("a:b", {"key": 2}):
        pass
    assert place.built("a:b") == {"key": 2}
    assert not stored.exists()


def test_a_key_changes_with_code_and_facts(tmp_path: Path) -> None:
    source = tmp_path / "recipe.py"
    source.write_text("x = 1")
    first = key([source], "1.0", None)
    assert key([source], "1.0", None) == first
    assert key([source], "1.1", None) != first
    source.write_text("x = 2")
    assert key([source], "1.0", None) != first


def test_what_is_built_is_kept_until_something_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, calls = Place(tmp_path, "vit-digits"), []

    def build(job: Job) -> Built:
        calls.append(job.threads)
        return Built(("made",), {"HINT": "x"})

    monkeypatch.setitem(SIDES, "ort-fp32", Recipe("onnxruntime", "test", build))
    with place.making("float", {"key": "1"}):
        pass
    quant_build.make_side(place, "ort-fp32", 1)
    quant_build.make_side(place, "ort-fp32", 1)
    assert calls == [1]
    assert place.built("ort-fp32")["config"] == {"HINT": "x"}
    quant_build.make_side(place, "ort-fp32", 2)
    with place.making("float", {"key": "2"}):
        pass
    quant_build.make_side(place, "ort-fp32", 2)
    assert calls == [1, 2, 2]


def test_a_peer_that_is_not_installed_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = Recipe("onnxruntime", "test", quant_ort.plain, ("no-such-package",))
    assert absent.missing == ["no-such-package"]
    monkeypatch.setitem(SIDES, "ort-fp32", absent)
    with pytest.raises(BackendUnavailable, match=r"not installed: pip install passel\[peers\]"):
        quant_build.make_side(Place(tmp_path, "vit-digits"), "ort-fp32", 1)


def test_the_float_export_has_no_error(job: Job, tmp_path: Path) -> None:
    assert error_of("ort-fp32", job, tmp_path) < 1e-6


@pytest.mark.parametrize("side", ["ort-dynamic:gemms", "ort-static:gemms", "ort-dynamic:default"])
def test_onnxruntime_in_8_bits(side: str, job: Job, tmp_path: Path) -> None:
    assert 1e-4 < error_of(side, job, tmp_path) < 0.05
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_openvino_with_nncf(job: Job, tmp_path: Path) -> None:
    if SIDES["openvino-nncf:transformer"].missing:
        pytest.skip("needs passel[peers]")
    assert quant_openvino.RECIPES["openvino-nncf:transformer"].packages == ("openvino", "nncf")
    assert 1e-4 < error_of("openvino-nncf:transformer", job, tmp_path) < 0.15


def test_onnxsim_rounds_to_4_bits(job: Job, tmp_path: Path) -> None:
    if version_of("onnxsim") is None:
        pytest.skip("needs passel[peers]")
    (tmp_path / "rtn").mkdir()
    (tmp_path / "gptq").mkdir()
    nearest = error_of("onnxsim-w4:rtn", job, tmp_path / "rtn")
    assert 0.01 < nearest < 0.2
    assert 1e-3 < error_of("onnxsim-w4:gptq", job, tmp_path / "gptq") < nearest
    assert not any(recipe.timed for recipe in quant_onnxsim.RECIPES.values())


@pytest.mark.parametrize("command", [["--models", "resnet"], ["--models", "vit-s,resnet"]])
def test_an_unknown_model_is_named(command: list[str]) -> None:
    with pytest.raises(typer.BadParameter, match="unknown model 'resnet'; there are vit-s"):
        quant.main(command)


def test_the_command_line_has_the_option() -> None:
    from passel.tools.cli_commands import app

    shown = CliRunner().invoke(app, ["bench", "--quant", "--help"])
    assert shown.exit_code == 0
    assert "--work-dir" in shown.output
    assert "--work-dir" not in CliRunner().invoke(app, ["bench", "--help"]).output


def test_a_side_has_no_runtime_in_its_process_but_its_own() -> None:
    """Another's imports would be part of its peak of memory, and its threads in its way."""
    code = (
        "import sys, passel.tools.bench.quant_worker\n"
        "print([name for name in ('torch', 'onnxruntime', 'tvm') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.slow
def test_sides_are_built_and_timed_in_processes_of_their_own(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    arguments = ["--models", "vit-digits", "--sides", "ort-fp32,ort-dynamic:gemms,openvino-fp32"]
    options = ["--seconds", "0.5", "--threads", "1", "--work-dir", str(tmp_path / "work")]
    assert quant.main([*arguments, *options, "--json", str(out)]) == 0
    sides = json.loads(out.read_text("utf-8"))["models"]["vit-digits"]["sides"]
    assert sides["ort-fp32"]["error"]["relative"] < 1e-5
    assert 1e-3 < sides["ort-dynamic:gemms"]["error"]["relative"] < 0.2
    assert sides["ort-dynamic:gemms"]["file_bytes"] < sides["ort-fp32"]["file_bytes"]
    assert sides["ort-fp32"]["median_ms"] > 0
    if version_of("openvino") is None:
        assert sides["openvino-fp32"]["failure"] == "not installed: pip install passel[peers]"
