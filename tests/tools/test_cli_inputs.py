"""How the command line reads its arguments: passes, example inputs, progress."""

import io
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch

from passel import progress
from passel.errors import InvalidInput, InvalidModel
from passel.passes import Compress, resolve
from passel.progress import Working
from passel.tools import cli_screen
from passel.tools.cli import arranged
from passel.tools.cli_inputs import GivenInputs
from passel.tools.cli_options import split_passes


def value(name: str, *dims: int | str, dtype: ir.DataType = ir.DataType.FLOAT) -> ir.Value:
    return ir.Value(name=name, shape=ir.Shape(dims), type=ir.TensorType(dtype))


@pytest.mark.parametrize(
    ("argv", "wanted"),
    [
        ("in.onnx out.onnx", "optimize in.onnx out.onnx"),
        ("./model out", "optimize ./model out"),
        ("--dry-run in.onnx", "optimize --dry-run in.onnx"),
        ("in.onnx out.onnx -q --debug", "-q --debug optimize in.onnx out.onnx"),
        ("inspect in.onnx --quiet", "--quiet inspect in.onnx"),
        ("bench --quiet", "bench --quiet"),
        ("nosuch in.onnx", "nosuch in.onnx"),
        ("--help", "--help"),
        ("", ""),
    ],
)
def test_the_command_may_be_left_out(argv: str, wanted: str) -> None:
    assert arranged(argv.split()) == wanted.split()


def test_commas_separate_passes_outside_parentheses() -> None:
    assert split_passes(None) == ["default"]
    entries = ["default, compress(form='paper')", "recenter(split_tied=False),merge-linears"]
    assert split_passes(entries) == [
        "default",
        "compress(form='paper')",
        "recenter(split_tied=False)",
        "merge-linears",
    ]
    assert resolve(split_passes(["compress(form='paper')"])) == [Compress(form="paper")]


def test_random_inputs_are_seeded() -> None:
    values = [value("x", "batch", 3)]
    first, again, other = (GivenInputs(seed=seed).tensors(values)["x"] for seed in (0, 0, 1))
    assert first.shape == (2, 3)
    assert first.equal(again)
    assert not first.equal(other)


def test_one_shape_fixes_an_extent_for_all_inputs(tmp_path: Path) -> None:
    values = [value("ids", "batch", "seq", dtype=ir.DataType.INT64), value("mask", "seq", "other")]
    made = GivenInputs(shapes=["ids:4,16"]).tensors(values)
    assert {name: tuple(tensor.shape) for name, tensor in made.items()} == {
        "ids": (4, 16),
        "mask": (16, 2),
    }
    np.save(tmp_path / "mask.npy", np.ones((7, 5), np.float32))
    made = GivenInputs(files=[f"mask={tmp_path}/mask.npy"]).tensors(values)
    assert list(made) == ["ids", "mask"]
    assert tuple(made["ids"].shape) == (2, 7)


def test_names_may_hold_colons() -> None:
    made = GivenInputs(shapes=["serving:x:3,3"]).tensors([value("serving:x", "a", "b")])
    assert made["serving:x"].shape == (3, 3)


def test_unnamed_entries_need_a_single_input() -> None:
    with pytest.raises(InvalidInput, match="names no input; the model has a, b"):
        GivenInputs(shapes=["3"]).tensors([value("a", 3), value("b", 3)])


def test_an_input_without_shape_asks_for_one() -> None:
    unknown = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT))
    with pytest.raises(InvalidInput, match="--input-shape x:"):
        GivenInputs().tensors([unknown])
    assert GivenInputs(shapes=["x:2,2"]).tensors([unknown])["x"].shape == (2, 2)


def test_types_beyond_numpy() -> None:
    made = GivenInputs().tensors([value("x", 2, dtype=ir.DataType.BFLOAT16)])
    assert made["x"].dtype is torch.bfloat16
    with pytest.raises(InvalidInput, match="'x' is no tensor of numbers"):
        GivenInputs().tensors([value("x", 2, dtype=ir.DataType.STRING)])


def test_failures_on_random_inputs_say_so() -> None:
    def fail(given: GivenInputs) -> None:
        with given.explained():
            raise InvalidModel("ONNX Runtime failed while running: Gather")

    with pytest.raises(InvalidModel, match="The inputs were random"):
        fail(GivenInputs())
    with pytest.raises(InvalidModel, match=r"Gather$"):
        fail(GivenInputs(files=["x.npy"]))


def test_progress_appears_late_and_only_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    def shown(patience: float, enabled: bool) -> str:
        stream = Terminal()
        monkeypatch.setattr(cli_screen.sys, "stderr", stream)
        monkeypatch.setattr(progress, "PATIENCE", patience)
        monkeypatch.setenv("TERM", "xterm")
        with Working(enabled=enabled) as working:
            working.on_pass("recenter", 0, 3)
            if enabled and not patience:
                working._timer.join()
        return stream.getvalue()

    assert "pass 1 of 3: recenter" in shown(0.0, True)
    assert shown(100.0, True) == shown(0.0, False) == ""
