"""What all tests share: both views of a torch module, exactness bounds, goldens, hypothesis."""

import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

from passel.capture import export_program, to_onnx
from passel.graph import Graph, Op, fx
from passel.graph import onnx as onnx_view
from passel.graph.fx_tensor import to_numpy
from passel.graph.text import to_text
from passel.models import randomize
from passel.passes.base import Pass
from passel.passes.driver import run_pass
from passel.passes.report import PassReport, count_ops

GOLDEN = Path(__file__).parent / "golden"
BOUNDS = {"float64": 1e-11, "float32": 1e-4, "float16": 3e-2, "bfloat16": 2e-1}
"""max |Δ| / max |y| that an exact pass may cause, by element type."""

Arrays = list[np.ndarray]
Lifted = tuple[Graph, Callable[[], Arrays]]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write tests/golden/ anew")
    parser.addoption(
        "--thorough", action="store_true", help="many hypothesis examples (or PASSEL_THOROUGH=1)"
    )


def pytest_configure(config: pytest.Config) -> None:
    common: dict[str, Any] = {"deadline": None, "derandomize": True, "database": None}
    hypothesis.settings.register_profile("fast", max_examples=15, **common)
    hypothesis.settings.register_profile("thorough", max_examples=300, **common)
    thorough = config.getoption("--thorough") or os.environ.get("PASSEL_THOROUGH") == "1"
    hypothesis.settings.load_profile("thorough" if thorough else "fast")
    _memoise_exporter()


@pytest.fixture(autouse=True, scope="session")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A cache folder of the tests' own: what the user has tuned must not decide what they see."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PASSEL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print what test_architectures.py recorded of each architecture, in either outcome."""
    reports = [report for found in terminalreporter.stats.values() for report in found]
    properties = [pair for report in reports for pair in getattr(report, "user_properties", ())]
    rows = sorted(
        {tuple(row[:6]): row for name, row in properties if name == "architecture"}.items()
    )
    if not rows:
        return
    terminalreporter.section("norms of every architecture")
    terminalreporter.line(
        f"{'architecture':24}{'view':6}{'LN':>4}{'-> LN':>6}{'RMS':>5}{'error':>9}"
    )
    for _, (name, view, before, layer, rms, error, note) in rows:
        counts = f"{before:4}{layer:6}{rms:5}{error:9.0e}"
        terminalreporter.line(f"{name:24}{view:6}{counts}  {note}")


def _memoise_exporter() -> None:
    """Let torch.onnx build its tables once a process, not once a call: five times faster.

    Private names, so that a torch without them is merely slower.
    """
    try:
        import torch._export.utils as utils
        import torch.export.exported_program as exported
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        original = ONNXRegistry.from_torchlib
        ONNXRegistry.from_torchlib = staticmethod(functools.cache(original))
        operators = functools.cache(utils._collect_all_valid_cia_ops)
        utils._collect_all_valid_cia_ops = operators
        exported._collect_all_valid_cia_ops = operators
    except (ImportError, AttributeError):
        pass


def relative_error(expected: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> float:
    """max |Δ| / max |y| of the worst output; inf where shapes, types or NaNs differ."""
    if len(expected) != len(found):
        return float("inf")
    return max((_relative(y, z) for y, z in zip(expected, found, strict=True)), default=0.0)


def _relative(expected: np.ndarray, found: np.ndarray) -> float:
    if expected.shape != found.shape or expected.dtype != found.dtype:
        return float("inf")
    y, z = expected.astype(np.float64), found.astype(np.float64)
    if not (np.isfinite(y).all() and np.isfinite(z).all()):
        return 0.0 if np.array_equal(y, z, equal_nan=True) else float("inf")
    peak = float(np.abs(y).max(initial=0)) or 1.0
    return float(np.abs(y - z).max(initial=0)) / peak


@dataclass
class Outcome:
    """What passes did to one model.

    Attributes:
        graph: as the passes left it.
        reports: one per pass.
        before, after: op counts by kind.
        error: relative error of the worst output.
        expected, found: outputs before and after.
    """

    graph: Graph
    reports: list[PassReport]
    before: dict[str, int]
    after: dict[str, int]
    expected: Arrays
    found: Arrays
    error: float = field(init=False)

    def __post_init__(self) -> None:
        self.error = relative_error(self.expected, self.found)

    def count(self, *kinds: str) -> int:
        """How many ops of these kinds are left."""
        return sum(self.after.get(kind, 0) for kind in kinds)

    @property
    def applied(self) -> int:
        """Sites rewritten, by all passes together."""
        return sum(len(report.applied) for report in self.reports)

    @property
    def reasons(self) -> set[str]:
        """Why sites were left alone, the reasons within the details included."""
        refusals = [refusal for report in self.reports for _, refusal in report.refused]
        return {text for refusal in refusals for text in (refusal.reason, refusal.detail) if text}

    def refused(self, reason: str) -> bool:
        """Whether a site was left alone for this reason, or for one that says so in its detail."""
        return any(reason in text for text in self.reasons)


@dataclass(frozen=True)
class View:
    """One of the two ways to look at a torch module."""

    name: str

    def export(
        self,
        module: nn.Module,
        inputs: Sequence[Tensor],
        dynamic_shapes: Any = None,
        opset: int = 20,
    ) -> Any:
        """The module as a program of this view's IR."""
        name = type(module).__name__
        program = export_program(module.eval(), (tuple(inputs), {}), dynamic_shapes, name)
        return program if self.name == "fx" else to_onnx(program, opset)

    def open(self, program: Any, inputs: Sequence[Tensor]) -> Lifted:
        """The graph of a program, and a function that runs the graph as it stands on the inputs."""
        graph = (fx if self.name == "fx" else onnx_view).lift(program)
        arrays = [to_numpy(tensor) for tensor in inputs]
        return graph, lambda: graph.run(arrays)

    def lift(self, module: nn.Module, inputs: Sequence[Tensor], **how: Any) -> Lifted:
        """`export`, then `open`."""
        return self.open(self.export(module, inputs, **how), inputs)

    def apply(
        self,
        module: nn.Module,
        inputs: Sequence[Tensor],
        *passes: Pass[Any],
        dtype: torch.dtype = torch.float64,
        random: bool = True,
        bound: float | None = None,
        **lifting: Any,
    ) -> Outcome:
        """Lift a module with random norm parameters, run passes, and check that they are exact.

        Each pass also has to find nothing more when it is run again at once.
        """
        prepared = randomize(module) if random else module
        typed = [tensor.to(dtype) if tensor.is_floating_point() else tensor for tensor in inputs]
        graph, run = self.lift(prepared.to(dtype), typed, **lifting)
        outcome = apply(graph, run, *passes)
        limit = BOUNDS[str(dtype).removeprefix("torch.")] if bound is None else bound
        assert outcome.error <= limit, f"relative error {outcome.error:.2e}, allowed {limit:.0e}"
        return outcome


def apply(graph: Graph, run: Callable[[], Arrays], *passes: Pass[Any]) -> Outcome:
    """Run passes, each twice: the second run must find nothing."""
    before, expected, reports = count_ops(graph), run(), []
    for one in passes:
        reports.append(run_pass(graph, one))
        again = run_pass(graph, one)
        assert not again.applied, f"{one.spec} found more when run again: {again.applied}"
    return Outcome(graph, reports, before, count_ops(graph), expected, run())


@pytest.fixture(params=["fx", "onnx"])
def view(request: pytest.FixtureRequest) -> View:
    """Both views of a torch module; a test that takes it runs twice."""
    return View(request.param)


@pytest.fixture(params=["fx", pytest.param("onnx", marks=pytest.mark.slow)])
def either_view(request: pytest.FixtureRequest) -> View:
    """Both views, for what hardly depends on them: the ONNX one among the slow tests only."""
    return View(request.param)


@pytest.fixture
def fx_view() -> View:
    return View("fx")


@pytest.fixture
def run_on() -> Callable[..., Outcome]:
    """`apply`, for graphs that a test made itself."""
    return apply


@pytest.fixture
def onnx_text() -> Callable[..., Lifted]:
    """A graph from ONNX's text form, for what torch cannot write, with what runs it."""

    def build(text: str, *arrays: np.ndarray) -> Lifted:
        graph = onnx_view.lift(ir.from_proto(onnx.parser.parse_model(text)))
        return graph, lambda: graph.run(list(arrays))

    return build


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, Graph], None]:
    """Compare a graph's text with tests/golden/<name>.txt; --update-golden writes it."""

    def check(name: str, graph: Graph) -> None:
        path, text = GOLDEN / f"{name}.txt", to_text(graph)
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.exists(), f"no {path.name} yet: run pytest --update-golden"
        assert text == path.read_text(encoding="utf-8")

    return check


@pytest.fixture
def op_named() -> Callable[[Graph, str], Op]:
    """The op of a graph by its name."""
    return lambda graph, name: next(op for op in graph.ops if op.name == name)
