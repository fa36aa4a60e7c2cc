"""The default pipeline, and compress after it, on every architecture they are for.

float64 says whether the algebra is right; float32 whether it is also safe to use. What stays a
LayerNorm stays for a reason that is written here and asserted.
"""

import functools
from functools import cached_property

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.export import ExportedProgram

from passel.capture import export_program, to_onnx
from passel.graph import Graph, fx, onnx
from passel.graph.ops import Linear
from passel.passes.driver import run_passes
from passel.passes.registry import DEFAULT
from passel.passes.report import PassReport
from passel.passes.streams import Stream, find_streams
from passel.passes.weights import operand_width
from tests.architectures import ARCHITECTURES
from tests.residual import VIEWS, apply, double, error, norms, outputs

WIDTH = 24
FORMS = {"isometric": "rms", "paper": "crms"}
AMPLIFYING = ("norms and rotary tables", "queries and keys")
"""Activations rounded to float32: they turn the last bit of a float64 into one of a float32."""
NEWEST = ("vit", "gpt2", "gpt-j", "bloom", "whisper", "llama", "passel-gpt-tied")


@functools.lru_cache(maxsize=1)
def captured(name: str, wide: bool) -> tuple[ExportedProgram, tuple[Tensor, ...]]:
    """The program, which both views of a case start from, and its inputs."""
    torch.manual_seed(0)
    model, inputs = ARCHITECTURES[name].build()
    if wide:
        model, inputs = double(model, inputs)
    return export_program(model, (inputs, {}), None, name), inputs


class Case:
    """One architecture in one view and one element type."""

    def __init__(self, name: str, view: str, opset: int = 20, wide: bool = True) -> None:
        self.name, self.view = name, view
        self.architecture = ARCHITECTURES[name]
        program, self.inputs = captured(name, wide)
        self.program = program if view == "fx" else to_onnx(program, opset)
        self.original = outputs(self.lift(), self.inputs)

    def lift(self) -> Graph:
        return fx.lift(self.program) if self.view == "fx" else onnx.lift(self.program)

    @cached_property
    def optimized(self) -> tuple[Graph, list[PassReport]]:
        graph = self.lift()
        return graph, apply(graph, "default")

    @cached_property
    def prepared(self) -> list[np.ndarray]:
        """Outputs as the default pipeline leaves them just before recenter."""
        names = [one.name for one in DEFAULT]
        graph = self.lift()
        run_passes(graph, DEFAULT[: names.index("recenter")])
        return outputs(graph, self.inputs)

    @property
    def recentred(self) -> PassReport:
        return next(report for report in self.optimized[1] if report.name == "recenter")

    def check(self, graph: Graph) -> float:
        """Compare with the original; and more closely with what recenter was given.

        Returns:
            The error against the original.
        """
        got = outputs(graph, self.inputs)
        single = self.architecture.single
        assert error(got, self.prepared) <= (1e-6 if single in AMPLIFYING else 1e-9)
        found = error(got, self.original)
        assert found <= (1e-6 if single else 1e-9)
        return found


@pytest.fixture(
    scope="module",
    params=[(name, view) for name in ARCHITECTURES for view in VIEWS],
    ids=lambda pair: "-".join(pair),
)
def case(request: pytest.FixtureRequest) -> Case:
    return Case(*request.param)


def test_default_pipeline(case: Case, record_property) -> None:
    before = case.lift()
    apply(before, "canonicalize")
    graph, _ = case.optimized
    got, found = case.check(graph), norms(graph)
    row = [norms(before).get("layer", 0), found.get("layer", 0), found.get("rms", 0)]
    single = f"float32: {case.architecture.single}" if case.architecture.single else ""
    note = "; ".join(filter(None, [*case.architecture.reasons, case.architecture.note, single]))
    record_property("architecture", [case.name, case.view, *row, got, note])
    assert row == [case.architecture.layers, case.architecture.left, case.architecture.rms]
    assert case.recentred.reasons == case.architecture.reasons
    assert (not case.recentred.applied) == (case.architecture.left == case.architecture.layers)


@pytest.mark.parametrize("form", FORMS)
def test_compress(case: Case, form: str) -> None:
    graph = case.lift()
    apply(graph, "default")
    (report,) = apply(graph, f"compress(form={form!r})")
    assert len(report.applied) == len(case.recentred.applied)
    case.check(graph)
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
        for reader in norm.output.readers:
            if isinstance(reader, Linear):
                assert operand_width(reader) == WIDTH - 1


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
    assert error(outputs(case.optimized[0], case.inputs), case.original) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_single_precision(name: str, view: str) -> None:
    case = Case(name, view, wide=False)
    assert error(outputs(case.optimized[0], case.inputs), case.original) <= 1e-4
    for form in FORMS:
        graph = case.lift()
        apply(graph, "default", f"compress(form={form!r})")
        assert error(outputs(graph, case.inputs), case.original) <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", NEWEST)
def test_newest_opset(name: str) -> None:
    case = Case(name, "onnx", opset=23)
    graph, _ = case.optimized
    case.check(graph)
    assert norms(graph).get("rms", 0) == case.architecture.rms


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit", "gpt2", "whisper", "bloom"])
def test_both_views_report_the_same(name: str) -> None:
    reports = [Case(name, view).recentred for view in VIEWS]
    assert len({len(report.applied) for report in reports}) == 1
    assert reports[0].reasons == reports[1].reasons


def test_error_sees_nan() -> None:
    assert error([np.array([np.nan])], [np.ones(1)]) == np.inf
