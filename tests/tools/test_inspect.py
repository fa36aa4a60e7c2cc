"""`passel inspect`: operations, bytes, and attention layers, as text and as JSON."""

import json
from pathlib import Path

import onnx_ir as ir
import pytest

from passel.models import GPT, GPTConfig, gpt_inputs
from passel.tools.cli import main
from passel.tools.cli_tables import operations, size
from tests.conftest import View

Capture = pytest.CaptureFixture[str]
CONFIG = GPTConfig(vocab=97, context=32, dim=24, depth=3, heads=4)


@pytest.fixture
def gpt(folder: Path) -> Path:
    model = View("onnx").export(
        GPT(CONFIG),
        gpt_inputs(CONFIG, batch=2),
        dynamic_shapes={"ids": {0: "batch", 1: "tokens"}},
    )
    ir.save(model, folder / "gpt.onnx")
    return folder / "gpt.onnx"


def test_the_headline_says_what_a_run_costs(folder: Path, capsys: Capture) -> None:
    assert main(["inspect", "in.onnx"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    flops = 2 * 3 * (4 * 8 + 8 * 4) + 7 * 3 * 8
    assert f"one run {flops} FLOPs, reads {size(2 * 128 + 64)} of parameters" in out
    assert f"writes {3 * (8 + 8 + 4) * 4} B of activations; with batch = 1" in out
    assert "MatMul 2 384 FLOPs 69.6%" in out
    assert "KV cache" not in out


def test_layers_of_a_gpt(gpt: Path, capsys: Capture) -> None:
    assert main(["inspect", str(gpt)]) == 0
    out = capsys.readouterr().out
    (row,) = (line for line in out.splitlines() if "blocks.0.attention … blocks.2" in line)
    (symbol,) = {part for part in row.split() if "/" in part and part != "4/4"}
    assert symbol.count("/") == 1
    assert "4/4" in row
    assert row.split()[-2:] == ["192", "B"]
    assert "KV cache" in out


def test_json(gpt: Path, capsys: Capture) -> None:
    assert main(["inspect", str(gpt), "--json", "-q"]) == 0
    found = json.loads(capsys.readouterr().out)["size"]
    assert len(found["symbols"]) == 2
    assert [layer["scope"] for layer in found["layers"]] == [
        f"blocks.{k}.attention" for k in range(3)
    ]
    assert found["kv_bytes"] == sum(layer["kv_bytes"] for layer in found["layers"]) == 3 * 192
    assert found["flops"] == sum(found["flops_by_kind"].values())
    assert found["bytes"] > 4 * 12 * 3 * 24 * 24


def test_numbers_of_operations() -> None:
    assert operations(12) == "12 FLOPs"
    assert operations(4_610_000_000) == "4.61 GFLOPs"
    assert operations(999_600_000) == "1000 MFLOPs"
