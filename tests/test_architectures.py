"""The default pipeline, and compress after it, on every architecture they are for.

float64 says whether the algebra is right; float32 whether it is also safe to use. What stays a
LayerNorm stays for a reason that is written here and asserted.
"""

from collections.abc import Iterator
from functools import cached_property

import numpy as np
import pytest
import torch

from passel.capture import export_program, to_onnx
from passel.graph import Graph, fx, onnx
from passel.graph.ops import Linear
from passel.passes.report import PassReport
from passel.passes.streams import Stream, find_streams
from tests.architectures import ARCHITECTURES, Architecture
from tests.residual import VIEWS, apply, double, error, expected, norms, outputs

WIDTH = 24
FORMS = {"isometric": "rms", "paper": "crms"}
NEWEST = ("vit", "gpt2", "gpt-j", "bloom", "whisper", "llama", "passel-gpt-tied")


class Case:
    """One architecture in one view and one element type."""

    def __init__(self, name: str, view: str, opset: int = 20, wide: bool = True) -> None:
        self.name, self.view = name, view
        self.architecture: Architecture = ARCHITECTURES[name]
        torch.manual_seed(0)
        model, inputs = self.architecture.build()
        model, self.inputs = double(model, inputs) if wide else (model, inputs)
        self.torch = expected(model, self.inputs)
        program = export_program(model, (self.inputs, {}), None, name)
        self.program = program if view == "fx" else to_onnx(program, opset)
        self.original = outputs(self.lift(), self.inputs)

    def lift(self) -> Graph:
        return fx.lift(self.program) if self.view == "fx" else onnx.lift(self.program)

    @cached_property
    def optimized(self) -> tuple[Graph, list[PassReport]]:
        graph = self.lift()
        return graph, apply(graph, "default")

    @property
    def recentred(self) -> PassReport:
        return next(report for report in self.optimized[1] if report.name == "recenter")

    def error(self, graph: Graph) -> float:
        """Against the program given, or against torch where that is closer.

        torch.onnx writes the constants of a tanh GELU in float32; `canonicalize` replaces them by
        the exact ones, so the result leaves the program given and approaches the module.
        """
        got = outputs(graph, self.inputs)
        return min(error(got, self.original), error(got, self.torch))


@pytest.fixture(
    scope="module",
    params=[(name, view) for name in ARCHITECTURES for view in VIEWS],
    ids=lambda pair: "-".join(pair),
)
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    yield Case(*request.param)


def test_default_pipeline(case: Case, record_property) -> None:
    before = case.lift()
    apply(before, "canonicalize")
    graph, _ = case.optimized
    got, found = case.error(graph), norms(graph)
    row = [norms(before).get("layer", 0), found.get("layer", 0), found.get("rms", 0)]
    note = case.architecture.note or "; ".join(case.architecture.reasons)
    record_property("architecture", [case.name, case.view, *row, got, note])
    assert row == [case.architecture.layers, case.architecture.left, case.architecture.rms]
    assert got <= case.architecture.tolerance
    assert case.recentred.reasons == case.architecture.reasons
    assert (not case.recentred.applied) == (case.architecture.left == case.architecture.layers)


@pytest.mark.parametrize("form", FORMS)
def test_compress(case: Case, form: str) -> None:
    graph = case.lift()
    apply(graph, "default")
    (report,) = apply(graph, f"compress(form={form!r})")
    assert len(report.applied) == len(case.recentred.applied)
    assert case.error(graph) <= case.architecture.tolerance
    compressed = [s for s in find_streams(graph, (FORMS[form],)) if s.name in report.applied]
    assert len(compressed) == len(report.applied)
    for stream in compressed:
        assert_narrow(stream)
    assert report.reasons == case.architecture.uncompressed


def assert_narrow(stream: Stream) -> None:
    """Everything that writes to the stream and everything that reads it has d − 1 features."""
    assert stream.width == WIDTH - 1
    for writer in stream.writers:
        if isinstance(writer.op, Linear):
            rows = writer.op.weight.array().shape[
                "oi".index("o") if writer.op.layout == "oi" else 1
            ]
            assert rows == WIDTH - 1
    for norm in stream.readers:
        assert norm.output.shape is not None
        assert norm.output.shape[-1] == WIDTH - 1


def test_a_broken_rewrite_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound is tight enough to see one writer that was forgotten."""
    from passel.passes import basis

    edit, edited = basis._edit_op, []

    def forgetful(graph, op, *rest):
        edited.append(op)
        if len(edited) > 1:
            edit(graph, op, *rest)

    monkeypatch.setattr(basis, "_edit_op", forgetful)
    case = Case("vit", "fx")
    assert case.error(case.optimized[0]) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_single_precision(name: str, view: str) -> None:
    case = Case(name, view, wide=False)
    assert case.error(case.optimized[0]) <= 1e-4
    for form in FORMS:
        graph = case.lift()
        apply(graph, "default", f"compress(form={form!r})")
        assert case.error(graph) <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", NEWEST)
def test_newest_opset(name: str) -> None:
    case = Case(name, "onnx", opset=23)
    graph, _ = case.optimized
    assert case.error(graph) <= case.architecture.tolerance
    assert norms(graph).get("rms", 0) == case.architecture.rms


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit", "gpt2", "whisper", "bloom"])
def test_both_views_report_the_same(name: str) -> None:
    reports = [Case(name, view).recentred for view in VIEWS]
    assert len({len(report.applied) for report in reports}) == 1
    assert reports[0].reasons == reports[1].reasons


def test_error_sees_nan() -> None:
    assert error([np.array([np.nan])], [np.ones(1)]) == np.inf
