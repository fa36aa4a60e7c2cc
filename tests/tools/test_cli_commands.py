"""The commands besides `passel optimize`, in process on tiny files."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from passel import __version__
from passel.tools import cli
from passel.tools.cli import main

Capture = pytest.CaptureFixture[str]
MakeModel = Callable[..., onnx.ModelProto]


WIDTH = 8


def test_version_and_help(capsys: Capture) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"passel {__version__}\n"
    for command in cli.COMMANDS[:-1]:
        assert main([command, "--help"]) == 0
        assert f"passel {command} " in capsys.readouterr().out
    assert main(["--help"]) == 0
    assert "passel in.onnx out.onnx" in capsys.readouterr().out
    assert main([]) == 2
    assert "Usage" in capsys.readouterr().out


def test_passes_and_their_cards(capsys: Capture) -> None:
    from passel.passes import PASSES

    assert main(["passes"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in PASSES)
    assert main(["passes", "fold_affine"]) == 0
    assert "Rewrite" in capsys.readouterr().out


def test_inspect(folder: Path, capsys: Capture) -> None:
    assert main(["inspect", "in.onnx", "--ops"]) == 0
    out = capsys.readouterr().out
    for text in ("opset 18", "batch×3×4", "residual streams", "recenter", "compress *", "embed"):
        assert text in out


def test_inspect_as_json(folder: Path, capsys: Capture) -> None:
    assert main(["inspect", "in.onnx", "--json", "-q"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["facts"]["ops"] == {"MatMul": 2, "LayerNormalization": 1}
    assert found["facts"]["parameters"] == 2 * 4 * WIDTH + 2 * WIDTH
    assert found["streams"][0]["width"] == WIDTH
    assert {entry["spec"] for entry in found["passes"]} >= {"recenter", "compress"}
    recenter = next(entry for entry in found["passes"] if entry["spec"] == "recenter")
    assert recenter["sites"] == ["norm"]


def test_run(folder: Path, capsys: Capture) -> None:
    assert main(["run", "in.onnx", "--input-shape", "x:7,3,4", "--runs=3", "--threads=1"]) == 0
    out = capsys.readouterr().out
    for text in ("7×3×4", "batch×3×4", "float32", "median", "p90", "min", "3 runs", "1 thread"):
        assert text in out


def test_diff_of_different_functions(folder: Path, block: MakeModel, capsys: Capture) -> None:
    onnx.save(block(seed=1), "other.onnx")
    assert main(["diff", "in.onnx", "other.onnx"]) == 1
    assert "differ: output 'y'" in capsys.readouterr().out
    assert main(["diff", "in.onnx", "other.onnx", "--atol", "1e6"]) == 0


def test_diff_fixes_extents_that_either_model_fixes(folder: Path, block: MakeModel) -> None:
    onnx.save(block(batch=6), "six.onnx")
    assert main(["diff", "in.onnx", "six.onnx"]) == main(["diff", "six.onnx", "in.onnx"]) == 0


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [("x", "z", "different inputs"), ("y", "z", "different outputs"), ("", "", "batch×3×4")],
)
def test_diff_of_models_that_cannot_be_compared(
    old: str,
    new: str,
    message: str,
    folder: Path,
    block: MakeModel,
    capsys: Capture,
) -> None:
    model = block()
    if not old:
        model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 2
    for value in [*model.graph.input, *model.graph.output]:
        value.name = new if value.name == old else value.name
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [new if name == old else name for name in names]
    onnx.save(model, "other.onnx")
    assert main(["diff", "in.onnx", "other.onnx"]) == 2
    assert message in capsys.readouterr().err


def test_bench_is_handed_its_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    import passel.tools.bench as bench

    seen: list[list[str]] = []
    monkeypatch.setattr(bench, "main", lambda argv: seen.append(argv) or 0)
    assert main(["bench", "vit_s16", "--seconds", "1", "--quiet"]) == 0
    assert seen == [["vit_s16", "--seconds", "1", "--quiet"]]


def test_help_and_passes_load_no_framework() -> None:
    code = (
        "import sys; from passel.tools.cli import main; main(['--help']); main(['passes']);"
        "heavy = {'torch', 'onnx', 'onnx_ir', 'onnxruntime'} & set(sys.modules);"
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
