"""`passel quantize`: files in and out, what is printed, what is refused; on tiny models."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from passel.tools.cli import main

Capture = pytest.CaptureFixture[str]
WIDTH = 128


def mlp() -> onnx.ModelProto:
    """Two products of [128, 256] weights with a bias and a Relu between, and a small head."""
    random = np.random.default_rng(0)
    shapes = {"up": (WIDTH, 2 * WIDTH), "b": (2 * WIDTH,), "down": (2 * WIDTH, WIDTH)}
    shapes["head"] = (WIDTH, 4)
    weights = {
        name: (random.normal(size=shape) / 12).astype(np.float32) for name, shape in shapes.items()
    }
    nodes = [
        helper.make_node("MatMul", ["x", "up"], ["u"], name="fc1"),
        helper.make_node("Add", ["u", "b"], ["ub"], name="add"),
        helper.make_node("Relu", ["ub"], ["r"], name="relu"),
        helper.make_node("MatMul", ["r", "down"], ["d"], name="fc2"),
        helper.make_node("MatMul", ["d", "head"], ["y"], name="small"),
    ]
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with m.onnx and data.npz, 6 samples of 3 rows."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    onnx.save(mlp(), "m.onnx")
    samples = np.random.default_rng(1).normal(size=(6, 3, WIDTH)).astype(np.float32)
    np.savez("data.npz", x=samples)
    return tmp_path


def snr() -> float:
    """Of q.onnx against m.onnx on data that neither has seen, in dB."""
    x = np.random.default_rng(2).normal(size=(16, WIDTH)).astype(np.float32)
    onnx.checker.check_model("q.onnx", full_check=True)
    plain, found = (ort.InferenceSession(n).run(None, {"x": x})[0] for n in ("m.onnx", "q.onnx"))
    return float(10 * np.log10((plain**2).sum() / ((plain - found) ** 2).sum()))


def kinds(path: str = "q.onnx") -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


def test_static(files: Path, capsys: Capture) -> None:
    asked = ["quantize", "m.onnx", "-o", "q.onnx", "--scheme", "int8", "--calibration", "data.npz"]
    assert main([*asked, "--report", "r.json", "--plot", "e.svg"]) == 0
    out = capsys.readouterr().out
    for text in (
        "quantized layers (2)",
        "SNR dB",
        "cosine",
        "uint8 static × int8 per channel",
        "the weight is too small to gain by it",
        "small (512 elements)",
        "4 input sets",
        "wrote q.onnx",
    ):
        assert text in out
    assert kinds().count("QuantizeLinear") == 2
    assert 30 < snr() < 60
    assert Path("q.onnx").stat().st_size < 0.4 * Path("m.onnx").stat().st_size
    plain = json.loads(Path("r.json").read_text())
    (entry,) = [one for one in plain["passes"] if one["spec"].startswith("quantize")]
    assert [layer["name"] for layer in entry["layers"]] == ["fc1", "fc2"]
    assert 0.99 < plain["errors"][0]["cosine"] < 1
    assert Path("e.svg").read_text().startswith("<?xml")


def test_dynamic_is_the_default_and_standard_integers(files: Path) -> None:
    assert main(["quantize", "m.onnx", "q.onnx", "-q"]) == 0
    assert kinds().count("MatMulInteger") == 2
    assert {entry.domain for entry in onnx.load("q.onnx").opset_import} <= {"", "ai.onnx"}
    assert snr() > 30
    assert main(["quantize", "m.onnx", "q.onnx", "-q", "--no-portable"]) == 0
    assert kinds().count("DynamicQuantizeMatMul") == 2
    assert snr() > 30


def test_weights_only_with_blocks_budget_and_groups(files: Path, capsys: Capture) -> None:
    asked = ["quantize", "m.onnx", "q.onnx", "-s", "W4A16", "-c", "data.npz"]
    assert main([*asked, "--group-size", "64", "--weights", "mse+gptq", "--symmetric"]) == 0
    out = capsys.readouterr().out
    assert "uint4 by 64" in out
    assert "gptq" in out
    low = snr()
    assert main([*asked, "--budget", "snr>=30", "--num-calibration-samples", "4"]) == 0
    assert "alone SNR" in capsys.readouterr().out
    assert snr() > 28 > low > 10


def test_dry_run_tells_and_writes_nothing(files: Path, capsys: Capture) -> None:
    before = sorted(files.iterdir())
    asked = ["quantize", "m.onnx", "--scheme", "int8", "-c", "data.npz", "--dry-run"]
    assert main(asked) == 0
    out = capsys.readouterr().out
    for text in ("fc1", "256×128", "fc2", "too small", "2 ops", "265 KB", "of memory besides"):
        assert text in out
    assert "nothing was written" in out
    assert sorted(files.iterdir()) == before
    # the sizes that it promised, against the file
    assert main(["quantize", "m.onnx", "q.onnx", "-s", "int8", "-c", "data.npz", "-q"]) == 0
    capsys.readouterr()
    assert main(["inspect", "q.onnx", "--json"]) == 0
    held = json.loads(capsys.readouterr().out)["facts"]["bytes"]
    promised = next(line for line in out.splitlines() if line.startswith("size"))
    told = float(promised.partition("about ")[2].split()[0]) * 1e3
    assert abs(told - held) < 0.05 * held


def test_exclude_kinds_placement_and_passes(files: Path, capsys: Capture) -> None:
    assert main(["quantize", "m.onnx", "q.onnx", "--nodes-to-exclude", "fc1", "-q"]) == 0
    assert kinds().count("MatMulInteger") == 1
    assert main(["quantize", "m.onnx", "q.onnx", "--placement", "all", "-q"]) == 0
    assert kinds().count("MatMulInteger") == 3
    assert main(["quantize", "m.onnx", "q.onnx", "--placement", "re:fc=weight", "-q"]) == 0
    assert "DynamicQuantizeLinear" not in kinds()
    assert kinds().count("DequantizeLinear") == 2
    assert main(["quantize", "m.onnx", "q.onnx", "--op-types", "Conv,Gather"]) == 0
    assert "nothing was quantized" in capsys.readouterr().out
    assert main(["quantize", "m.onnx", "q.onnx", "--passes", "none", "--verbose"]) == 0
    assert "push-tokens" not in capsys.readouterr().out


def test_measured(files: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    from passel.tools import cli_quantize_run as run

    monkeypatch.setattr(run, "SECONDS", 0.05)
    assert main(["quantize", "m.onnx", "q.onnx", "--measure", "--threads", "1"]) == 0
    assert "than float" in (out := capsys.readouterr().out) or "as fast as float" in out
    assert run.verdict(2.0, 1.0) == "2.00 times as fast as float"
    assert run.verdict(1.0, 2.0).startswith("SLOWER than float, 2.00 times its time")
    assert main(["quantize", "m.onnx", "m.onnx", "--measure"]) == 2
    assert "expected an output beside the model" in capsys.readouterr().err


def test_twice_is_said(files: Path, capsys: Capture) -> None:
    assert main(["quantize", "m.onnx", "q.onnx", "-q"]) == 0
    assert main(["quantize", "q.onnx", "again.onnx"]) == 0
    out = capsys.readouterr().out
    assert "the model is quantized already" in out
    assert "nothing was quantized" in out
    assert main(["quantize", "q.onnx", "--dry-run"]) == 0
    assert "quantized already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--scheme", "int5"], "expected scheme in int8"),
        (["--scheme", "int8"], "calibration: expected data"),
        (["--scheme", "int8", "-c", "none.npz"], "none.npz"),
        (["--weights", "magic"], "magic"),
        (["-x", "nothing_here"], "matches no op name"),
        (["--budget", "snr>=lots"], "budget"),
        (["--num-calibration-samples", "many"], "expected a number, el2n or el2n:NUMBER"),
        (["--placement", "all", "--placement", "fc1=float"], "expected PATTERN=FORM beside others"),
        (["--placement", "fc1=fast"], "placement"),
        (["--op-types", "Softmax"], "op_types_to_quantize"),
        (["--calibration-method", "guess"], "guess"),
        (["--plot", "e.pdf"], "ends in .png or .svg"),
        (["--scheme", "w2", "--opset", "23"], "expected at least 25 for scheme 'w2', got 23"),
        (["--block-size", "0", "--group-size", "-7"], "block_size"),
        (["--report", "q.onnx"], "expected a file of its own"),
    ],
)
def test_bad_input(files: Path, capsys: Capture, options: list[str], message: str) -> None:
    before = sorted(files.iterdir())
    assert main(["quantize", "m.onnx", "q.onnx", *options]) == 2
    assert message in capsys.readouterr().err
    assert sorted(files.iterdir()) == before


def test_real_inputs_calibrate_where_nothing_else_does(files: Path, capsys: Capture) -> None:
    np.savez("one.npz", x=np.random.default_rng(4).normal(size=(9, WIDTH)).astype(np.float32))
    assert main(["quantize", "m.onnx", "q.onnx", "-s", "int8", "--inputs", "one.npz"]) == 0
    assert "calibrated on the example inputs only" in capsys.readouterr().out
