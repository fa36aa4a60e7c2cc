"""What cannot be done: exit statuses, one-line messages, and nothing left behind."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from passel.errors import VerificationError
from passel.graph.onnx_io import read
from passel.tools import cli
from passel.tools.cli import main

Capture = pytest.CaptureFixture[str]
MakeModel = Callable[..., onnx.ModelProto]


def listed(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*")}


def bad_files(folder: Path) -> None:
    (folder / "cut.onnx").write_bytes((folder / "in.onnx").read_bytes()[:200])
    (folder / "text.onnx").write_text("hello\n")
    (folder / "empty.onnx").touch()
    (folder / "x.npz").write_bytes(b"PK\x03\x04 cut short")
    np.save(folder / "double.npy", np.ones((2, 3, 4)))
    np.save(folder / "flat.npy", np.ones(3, np.float32))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nosuch.onnx", "out.onnx"], "no such file: 'nosuch.onnx'"),
        (["cut.onnx", "out.onnx"], "cut.onnx"),
        (["text.onnx", "out.onnx"], "not an ONNX model"),
        (["empty.onnx", "out.onnx"], "empty file"),
        ([".", "out.onnx"], "got the folder"),
        (["in.onnx"], "expected where to write"),
        (["in.onnx", "out.onnx", "-o", "other.onnx"], "expected one output"),
        (["in.onnx", "out.onnx", "-p", "nosuch"], "expected one of default"),
        (["in.onnx", "out.onnx", "-p", "compress(form='x')"], "compress"),
        (["in.onnx", "out.onnx", "--fast"], "No such option: --fast"),
        (["in.onnx", "out.onnx", "--rtol", "-1"], "--rtol"),
        (["in.onnx", "out.onnx", "-x", "nosuch"], "matches no op"),
        (["in.onnx", "nosuch/out.onnx"], "there is no folder"),
        (["in.onnx", "out.onnx", "--report", "nosuch/r.json"], "there is no folder"),
        (["in.onnx", "out.onnx", "--report", "out.onnx"], "a file of its own"),
        (["in.onnx", "out.onnx", "--opset", "13"], "expected at least 18"),
        (["in.onnx", "out.onnx", "--opset", "999"], "--opset"),
        (["in.onnx", "out.onnx", "--input", "z=flat.npy"], "no input 'z'; it has x"),
        (["in.onnx", "out.onnx", "--input", "x=nosuch.npy"], "no such file: 'nosuch.npy'"),
        (["in.onnx", "out.onnx", "--input", "x=text.onnx"], "cannot read 'text.onnx'"),
        (["in.onnx", "out.onnx", "--input", "x=flat.npy"], "expected shape (batch, 3, 4)"),
        (["in.onnx", "out.onnx", "--input", "x=double.npy"], "expected float32, got float64"),
        (["in.onnx", "out.onnx", "--inputs", "x.npz"], "cannot read 'x.npz'"),
        (["in.onnx", "out.onnx", "--input-shape", "x:2,9,4"], "expected shape (batch, 3, 4)"),
        (["in.onnx", "out.onnx", "--input-shape", "x:two"], "expected e.g. x:1,3"),
        (["in.onnx", "out.onnx", "--input-shape", "q:1"], "no input 'q'"),
        (["inspect", "cut.onnx"], "cut.onnx"),
        (["run", "nosuch.onnx"], "no such file"),
        (["run", "in.onnx", "--target", "tpu"], "target"),
        (["diff", "in.onnx", "nosuch.onnx"], "no such file"),
        (["passes", "nosuch"], "expected one of canonicalize"),
        (["optimise", "in.onnx"], "No such command 'optimise'"),
        (["inspect"], "Missing argument"),
    ],
)
def test_bad_input_is_told_in_a_line(
    arguments: list[str], message: str, folder: Path, capsys: Capture
) -> None:
    bad_files(folder)
    before = listed(folder)
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert "Traceback" not in err
    assert not out
    assert listed(folder) == before


@pytest.mark.parametrize(("flags", "status"), [([], 1), (["--no-verify"], 0)])
def test_a_result_that_disagrees_is_not_written(
    flags: list[str], status: int, folder: Path, capsys: Capture
) -> None:
    arguments = ["in.onnx", "out.onnx", "--rtol", "1e-30", "--report", "r.json", *flags]
    assert main(arguments) == status
    assert ((folder / "out.onnx").exists(), (folder / "r.json").exists()) == (not status,) * 2
    if status:
        assert "raise the bound with --rtol/--atol" in capsys.readouterr().err


def test_a_failed_replacement_leaves_the_input(folder: Path) -> None:
    before = (folder / "in.onnx").read_bytes()
    assert main(["in.onnx", "-o", "in.onnx", "--rtol", "1e-30"]) == 1
    assert (folder / "in.onnx").read_bytes() == before
    assert listed(folder) == {"in.onnx"}


def failing(error: BaseException):
    def write(*arguments: object, **options: object) -> None:
        raise error

    return write


def test_an_interrupt_is_no_traceback(
    folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("passel.graph.onnx_write._publish", failing(KeyboardInterrupt()))
    assert main(["in.onnx", "out.onnx"]) == 130
    assert capsys.readouterr().err == "passel: interrupted\n"
    assert listed(folder) == {"in.onnx"}


@pytest.mark.parametrize("debug", [True, False])
def test_a_bug_is_told_in_a_line_unless_debugged(
    debug: bool, folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("passel.graph.onnx_write._publish", failing(ZeroDivisionError("oh")))
    assert main(["in.onnx", "out.onnx", *["--debug"][: int(debug)]]) == 3
    err = capsys.readouterr().err
    assert "passel: bug: ZeroDivisionError: oh" in err
    assert ("Traceback" in err) == debug
    assert listed(folder) == {"in.onnx"}


def test_the_conversion_of_the_opset_is_verified_too(
    folder: Path,
    block: MakeModel,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(model: object, target: int) -> tuple[object, str]:
        return read(block(seed=1)), ""

    monkeypatch.setattr("passel.tools.cli_optimize.raise_opset", broken)
    assert main(["in.onnx", "out.onnx"]) == 1
    assert "after pass conversion to opset" in capsys.readouterr().err
    assert listed(folder) == {"in.onnx"}


def test_library_words_become_options() -> None:
    error = VerificationError("use exclude= or rtol=", guilty=None, output="", error=1, tolerance=0)
    assert cli._in_options(str(error)) == "use --exclude or --rtol"
