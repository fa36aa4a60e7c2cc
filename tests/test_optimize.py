"""`optimize`, the choice of passes, the report, and passes in other people's pipelines."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import helper
from torch import Tensor, nn
from torch.export import ExportedProgram

import passel
from passel.errors import InvalidInput
from passel.passes import Canonicalize, FoldAffine
from passel.passes.registry import DEFAULT
from tests.api import Spoil, close, example, files, onnx_model

X = example()


class Folding(nn.Module):
    """A batch norm that folds, and one behind a ReLU at the output that does not."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(8, 8), nn.BatchNorm1d(8), nn.BatchNorm1d(8)
        for norm in (self.norm, self.last):
            norm.running_var = torch.rand(8) + 0.5
            norm.running_mean = torch.randn(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.norm(self.first(x))))


@pytest.fixture(scope="module")
def program() -> ExportedProgram:
    return torch.export.export(Folding().eval(), (X,))


def test_a_module_gives_an_exported_program():
    model = Folding().eval()
    optimized = passel.optimize(model, X)
    assert isinstance(optimized.program, ExportedProgram)
    assert close(optimized.program.module()(X), model(X))
    assert optimized.report.model == "Folding"


def test_an_exported_program_keeps_its_own_inputs(program):
    optimized = passel.optimize(program)
    assert close(optimized.program.module()(X), program.module()(X))
    assert optimized.report.model == "ExportedProgram"
    assert (
        program.graph_module.code == torch.export.export(Folding().eval(), (X,)).graph_module.code
    )


def test_a_program_without_inputs_needs_some(program):
    bare = torch.export.export(Folding().eval(), (X,))
    bare._example_inputs = None
    with pytest.raises(InvalidInput, match="example_inputs: the ExportedProgram carries none"):
        passel.optimize(bare)
    assert close(passel.optimize(bare, X).program.module()(X), bare.module()(X))


def test_onnx_gives_onnx(program, tmp_path):
    passel.export_onnx(program, X, tmp_path / "m.onnx", passes="none")
    before = files(tmp_path)
    optimized = passel.optimize(str(tmp_path / "m.onnx"))
    assert isinstance(optimized.program, ir.Model)
    assert optimized.program.opset_imports[""] == 23
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    ("request_", "specs"),
    [
        ("default", [one.spec for one in DEFAULT]),
        ("none", []),
        ([], []),
        ("fold_affine", ["fold-affine"]),
        (["none", "canonicalize"], ["canonicalize"]),
        (FoldAffine(), ["fold-affine"]),
        (
            ("canonicalize", "compress(form='paper')", Canonicalize()),
            ["canonicalize", "compress(form='paper')", "canonicalize"],
        ),
    ],
)
def test_which_passes_run(program, request_, specs):
    report = passel.optimize(program, passes=request_, verify=False).report
    assert [entry.spec for entry in report.passes] == specs


def test_available_passes_have_a_line_each():
    found = passel.passes.available()
    assert {"canonicalize", "recenter", "compress", "fold-affine"} <= found.keys()
    assert all(line.endswith(".") and "\n" not in line for line in found.values())


def test_progress_is_told_before_each_pass(program):
    seen: list[tuple[str, int, int]] = []
    passel.optimize(
        program, passes=["canonicalize", Spoil()], verify=False, progress=lambda *a: seen.append(a)
    )
    assert seen == [("canonicalize", 0, 2), ("spoil", 1, 2)]


@pytest.mark.parametrize("pattern", ["norm", "re:^nor", {"fold_affine": ["norm"]}])
def test_excluded_parts_stay(program, pattern):
    report = passel.optimize(program, exclude=pattern).report
    (entry, *_) = [e for e in report.passes if e.name == "fold-affine"]
    assert entry.excluded
    assert report.why_not("fold-affine", entry.excluded[0]) == "excluded by the caller"


def test_why_not(program):
    report = passel.optimize(program).report
    (entry, *_) = [e for e in report.passes if e.name == "fold-affine"]
    assert len(entry.applied) == 1
    ((site, refusal), *_) = entry.refused
    assert report.why_not("fold_affine", site) == str(refusal)
    assert report.why_not("fold-affine", entry.applied[0]).startswith("fold-affine did apply at")
    assert report.why_not("recenter", "nowhere") == "recenter found nothing to do at nowhere"
    with pytest.raises(InvalidInput, match=r"expected a pass that ran \(.*\), got 'compress'"):
        report.why_not("compress", site)


def test_the_report_holds_sizes_errors_and_times(program, tmp_path):
    report = passel.optimize(program).report
    assert report.after.parameters < report.before.parameters
    assert report.before.bytes == 4 * report.before.parameters
    assert sum(report.after.ops.values()) < sum(report.before.ops.values())
    assert all(entry.seconds > 0 for entry in report.passes)
    assert [error.tolerance for error in report.errors] == pytest.approx(
        [1e-4 * report.errors[0].peak]
    )
    assert {"capture", "passes", "verify"} <= report.stages.keys()
    report.to_json(tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text()) == json.loads(
        json.dumps(report.to_dict())
    )
    text = str(report)
    for expected in (
        "passes on ExportedProgram",
        "fold-affine",
        "left alone",
        "max |Δ|",
        "verified",
    ):
        assert expected in text


def test_a_report_that_cannot_be_written_leaves_nothing(program, tmp_path):
    (tmp_path / "file").write_text("mine")
    report = passel.optimize(program, passes="none", verify=False).report
    for path in (tmp_path / "none" / "r.json", tmp_path / "file" / "r.json", tmp_path):
        with pytest.raises(InvalidInput, match="expected a writable path for the report"):
            report.to_json(path)
    assert files(tmp_path).keys() == {"file"}


def test_an_onnx_pass_in_a_pipeline():
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["t"]),
        helper.make_node("Mul", ["t", "s"], ["y"]),
    ]
    weights = {"w": np.eye(8, dtype=np.float32), "s": np.arange(8, dtype=np.float32)}
    proto = onnx_model(nodes, {"x": ["n", 8]}, {"y": ["n", 8]}, weights)
    model = ir.from_proto(proto)
    fold = passel.onnx_pass("fold-affine")
    assert isinstance(fold, ir.passes.PassBase)
    pipeline = ir.passes.Sequential(fold, passel.onnx_pass(["canonicalize", FoldAffine()]))
    result = pipeline(model)
    assert result.modified
    assert [node.op_type for node in result.model.graph] == ["MatMul"]
    assert [node.op_type for node in model.graph] == ["MatMul", "Mul"]
    assert [report.spec for report in fold.reports] == ["fold-affine"]
    assert not pipeline(result.model).modified
    onnx.checker.check_model(ir.to_proto(result.model))
    with pytest.raises(InvalidInput, match="passes: expected one of default, none"):
        passel.onnx_pass("nothing")


def test_the_public_names_and_that_importing_is_cheap():
    code = (
        "import sys, passel; assert not {'torch', 'onnx', 'onnxruntime'} & set(sys.modules);"
        "assert all(hasattr(passel, name) for name in passel.__all__);"
        "assert set(passel.__all__) <= set(dir(passel)); passel.errors.PasselError"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path.home())
    with pytest.raises(AttributeError, match="module 'passel' has no attribute 'nothing'"):
        _ = passel.nothing
