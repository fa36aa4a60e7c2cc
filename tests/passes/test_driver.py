"""The driver: exclusion, fixpoint, checking, progress, and what it reports."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

from passel.errors import InvalidGraph, InvalidInput, PasselError
from passel.graph.ops import Elementwise
from passel.models import UnifiedNorm, randomize
from passel.passes import Canonicalize, FoldAffine, FoldConstants, Pass, Refusal
from passel.passes.driver import MAX_ROUNDS, run_pass, run_passes
from passel.passes.patterns import Pattern
from passel.passes.report import Report

X = (torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0)),)
PASSES = (FoldConstants(), FoldAffine())


class Net(nn.Module):
    """Two norms in submodules, each between Linears."""

    def __init__(self):
        super().__init__()
        self.first, self.norm1 = nn.Linear(8, 8), UnifiedNorm(8)
        self.middle, self.norm2, self.last = nn.Linear(8, 8), UnifiedNorm(8), nn.Linear(8, 3)

    def forward(self, x):
        return self.last(self.norm2(torch.tanh(self.middle(self.norm1(self.first(x))))))


@functools.cache
def program(view):
    return view.export(randomize(Net()), X)


@pytest.fixture
def graph(view):
    lifted, _ = view.open(program(view), X)
    run_passes(lifted, [Canonicalize(), FoldConstants(), Canonicalize()])
    return lifted


def left(graph, scope):
    """The multiplications and additions of a module that are still there."""
    kinds = ("mul", "div", "add", "Affine")
    return sum(op.kind in kinds and op.scope.endswith(scope) for op in graph.ops)


@pytest.mark.parametrize("pattern", ["norm1", r"re:norm1$", "re:^norm[1]"])
def test_excludes_a_module(graph, pattern):
    (report,) = run_passes(graph, [FoldAffine()], exclude=[pattern])
    assert left(graph, "norm1") > 0
    assert left(graph, "norm2") == 0
    assert report.excluded
    assert report.applied


def test_excludes_by_kind_and_by_name(graph):
    name = [op.name for op in graph.ops if op.kind == "div"][-1]
    (report,) = run_passes(graph, [FoldAffine()], exclude=name)
    assert report.excluded == [name]
    (report,) = run_passes(graph, [FoldAffine()], exclude="Linear")
    assert not report.applied  # whatever is left folds into a Linear only
    assert report.excluded


@pytest.mark.parametrize("name", ["fold-affine", "fold_affine"])
@pytest.mark.parametrize("patterns", ["norm1", ["norm1"]])
def test_excludes_from_one_pass(graph, name, patterns):
    reports = run_passes(graph, [FoldAffine(), Canonicalize()], exclude={name: patterns})
    assert reports[0].excluded
    assert not reports[1].excluded


def test_a_prefix_of_a_module_path_is_no_match():
    op = Elementwise(name="layer.11", scope="encoder.layer.11.norm", fn="add")
    assert Pattern("encoder.layer.11").matches(op)
    assert Pattern("add").matches(op)
    assert not Pattern("encoder.layer.1").matches(op)
    assert not Pattern("norm").matches(op)
    assert Pattern("re:norm").matches(op)


BAD = {
    "matches nothing": (["nonsense"], "'nonsense' matches no op name, op kind or module path"),
    "no expression": (["re:("], "is no regular expression"),
    "no pass of the run": (
        {"recenter": ["norm1"]},
        r"expected passes of this run .* \['recenter'\]",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_exclusions(graph, case):
    exclude, message = BAD[case]
    with pytest.raises(InvalidInput, match=message):
        run_passes(graph, PASSES, exclude=exclude)


def test_progress_sees_each_pass_before_it_runs(graph):
    seen = []
    passes = [FoldConstants(), FoldAffine(), Canonicalize()]
    reports = run_passes(graph, passes, progress=lambda *call: seen.append(call))
    assert seen == [(one.spec, k, 3) for k, one in enumerate(passes)]
    assert [report.spec for report in reports] == [one.spec for one in passes]
    assert all(report.seconds >= 0 for report in reports)


def test_why_not(graph):
    report = Report(passes=run_passes(graph, [Canonicalize(), FoldAffine()], exclude="norm1"))
    applied, excluded = report.passes[1].applied[0], report.passes[1].excluded[0]
    assert report.why_not("fold_affine", applied) == f"fold-affine did apply at {applied}"
    assert report.why_not("fold-affine", excluded) == "excluded by the caller"
    assert report.why_not("fold-affine", "x") == "fold-affine found nothing to do at x"
    with pytest.raises(
        InvalidInput, match=r"expected a pass that ran \(canonicalize, fold-affine\)"
    ):
        report.why_not("recenter", "x")


def test_why_not_gives_the_reason(fx_view):
    class Alone(nn.Module):
        def forward(self, x):
            return torch.exp(x * 3)

    lifted, _ = fx_view.lift(Alone(), X)
    report = Report(passes=run_passes(lifted, [FoldAffine()]))
    (site,) = report.passes[0].refused
    text = report.why_not("fold-affine", site[0])
    assert text.startswith(f"no neighbour can absorb the affine at {site[0]} (forwards: a reader")
    assert report.passes[0].reasons == {"no neighbour can absorb the affine": 1}


@dataclass(frozen=True)
class OpSite:
    op: object

    @property
    def anchor(self):
        return self.op

    @property
    def touched(self):
        return (self.op,)


@dataclass(frozen=True)
class Endless(Pass[OpSite]):
    """Always finds its first op again."""

    name: ClassVar[str] = "endless"

    def match(self, graph) -> Iterator[OpSite]:
        yield OpSite(next(iter(graph.ops)))

    def rewrite(self, graph, site) -> None:
        pass


@dataclass(frozen=True)
class Breaks(Endless):
    """Leaves an op reading a value that does not know of it."""

    name: ClassVar[str] = "breaks"

    def match(self, graph) -> Iterator[OpSite]:
        for op in list(graph.ops)[1:2]:
            if op.inputs[0].uses:
                yield OpSite(op)

    def rewrite(self, graph, site) -> None:
        site.op.inputs[0].uses.clear()


@dataclass(frozen=True)
class Declines(Endless):
    """Refuses everything."""

    name: ClassVar[str] = "declines"

    def refuse(self, graph, site) -> Refusal | None:
        return Refusal("it does not want to", site.op.name)


def test_a_pass_that_does_not_settle_is_reported(graph):
    with pytest.raises(PasselError, match=f"endless did not settle in {MAX_ROUNDS} rounds"):
        run_pass(graph, Endless())


def test_a_pass_that_breaks_the_graph_is_named(graph):
    with pytest.raises(InvalidGraph, match="after breaks: "):
        run_pass(graph, Breaks())


def test_refusals_are_those_of_the_last_walk(graph):
    report = run_pass(graph, Declines())
    assert report.reasons == {"it does not want to": 1}
    assert not report.applied
