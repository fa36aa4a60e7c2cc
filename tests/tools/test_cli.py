"""`passel optimize`, in process on tiny files: results, and what is left behind."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from passel.tools.cli import main

Capture = pytest.CaptureFixture[str]
MakeModel = Callable[..., onnx.ModelProto]


def listed(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*")}


def ops(path: str) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


@pytest.mark.parametrize(
    "arguments",
    [
        ["in.onnx", "out.onnx"],
        ["in.onnx", "-o", "out.onnx"],
        ["--opset", "23", "in.onnx", "out.onnx"],
        ["-q", "in.onnx", "out.onnx"],
        ["optimize", "in.onnx", "--output", "out.onnx", "--seed", "3"],
    ],
)
def test_optimize_writes_the_result(arguments: list[str], folder: Path) -> None:
    assert main(arguments) == 0
    assert listed(folder) == {"in.onnx", "out.onnx"}
    assert "RMSNormalization" in ops("out.onnx")
    assert main(["diff", "in.onnx", "out.onnx"]) == 0


def test_optimize_says_what_changed(folder: Path, capsys: Capture) -> None:
    assert main(["in.onnx", "out.onnx"]) == 0
    out, err = capsys.readouterr()
    assert not err
    for text in ("LayerNormalization", "RMSNormalization", "-100%", "max error", "wrote out.onnx"):
        assert text in out


def test_quiet_prints_nothing(folder: Path, capsys: Capture) -> None:
    assert main(["in.onnx", "out.onnx", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("width", ["80", "120"])
def test_output_fits_the_terminal(
    width: str, folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    assert main(["in.onnx", "out.onnx", "-v"]) == main(["inspect", "in.onnx"]) == 0
    assert main(["diff", "in.onnx", "out.onnx"]) == main(["run", "in.onnx", "--runs", "2"]) == 0
    assert main(["passes"]) == 0
    assert max(len(line) for line in capsys.readouterr().out.splitlines()) <= int(width)


def test_the_input_can_be_replaced(folder: Path) -> None:
    assert main(["in.onnx", "-o", "in.onnx"]) == 0
    assert listed(folder) == {"in.onnx"}
    assert "RMSNormalization" in ops("in.onnx")


def test_external_data_stays_external_in_place(folder: Path, block: MakeModel) -> None:
    onnx.save(block(width=512), "in.onnx")
    assert main(["in.onnx", "ext.onnx", "--save-as-external-data", "-p", "none"]) == 0
    assert (folder / "ext.onnx.data").exists()
    assert main(["ext.onnx", "ext.onnx"]) == 0
    assert "RMSNormalization" in ops("ext.onnx")
    assert (folder / "ext.onnx").stat().st_size < 8192
    assert listed(folder) == {"in.onnx", "ext.onnx", "ext.onnx.data"}
    assert main(["diff", "in.onnx", "ext.onnx"]) == 0
    assert main(["ext.onnx", "one.onnx", "--inline"]) == 0
    assert not (folder / "one.onnx.data").exists()


def test_a_dry_run_writes_nothing(folder: Path, capsys: Capture) -> None:
    assert main(["in.onnx", "out.onnx", "--dry-run"]) == main(["in.onnx", "--dry-run"]) == 0
    assert listed(folder) == {"in.onnx"}
    out = capsys.readouterr().out
    assert "twice the largest tensor" in out
    assert "nothing was written" in out


def test_a_dry_run_foresees_the_size(folder: Path, capsys: Capture) -> None:
    from passel.graph.onnx_io import read
    from passel.tools.cli_facts import written_bytes

    assert main(["in.onnx", "out.onnx"]) == 0
    actual = (folder / "out.onnx").stat().st_size
    assert written_bytes(read("out.onnx")) == pytest.approx(actual, rel=0.02)


def test_the_report_is_json(folder: Path) -> None:
    assert main(["in.onnx", "out.onnx", "--report", "r.json", "-p", "default,compress"]) == 0
    report = json.loads((folder / "r.json").read_text())
    assert report["model"] == "in.onnx"
    assert report["passes"][-1]["spec"] == "compress"
    assert report["errors"][0]["name"] == "y"


def test_passes_and_excludes(folder: Path) -> None:
    assert main(["in.onnx", "out.onnx", "-p", "none"]) == 0
    assert "LayerNormalization" in ops("out.onnx")
    assert main(["in.onnx", "out.onnx", "-x", "re:^norm$"]) == 0
    assert "LayerNormalization" in ops("out.onnx")


def test_real_inputs_are_used(folder: Path) -> None:
    np.save("x.npy", np.ones((5, 3, 4), np.float32))
    np.savez("all.npz", x=np.ones((5, 3, 4), np.float32))
    assert main(["in.onnx", "out.onnx", "--input", "x=x.npy"]) == 0
    assert main(["in.onnx", "out.onnx", "--input", "x.npy"]) == 0
    assert main(["in.onnx", "out.onnx", "--inputs", "all.npz"]) == 0
    assert main(["in.onnx", "out.onnx", "--input-shape", "x:5,3,4"]) == 0


def test_without_verification_no_inputs_are_needed(folder: Path) -> None:
    text = helper.make_tensor_value_info("x", onnx.TensorProto.STRING, [2])
    result = helper.make_tensor_value_info("y", onnx.TensorProto.STRING, [2])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [text], [result])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), "text.onnx")
    assert main(["text.onnx", "out.onnx"]) == 2
    assert not (folder / "out.onnx").exists()
    assert main(["text.onnx", "out.onnx", "--no-verify"]) == 0
