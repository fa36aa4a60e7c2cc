"""Reports: plain data, JSON that is whole or absent, counts, and the text of each table."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from passel.errors import InvalidInput
from passel.models import randomize
from passel.passes import Canonicalize, FoldAffine
from passel.passes.driver import run_passes
from passel.passes.report import OutputError, Report, Size, count_ops

X = (torch.randn(2, 8, generator=torch.Generator().manual_seed(0)),)


@pytest.fixture
def report(fx_view):
    model = randomize(
        nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 4), nn.Tanh(), nn.BatchNorm1d(4))
    )
    graph, _ = fx_view.lift(model, X)
    made = Report(model="Sequential", before=Size.of(graph))
    made.passes = run_passes(graph, [Canonicalize(), FoldAffine()], exclude="3")
    made.passes += run_passes(graph, [FoldAffine()])
    made.after = Size.of(graph)
    made.errors = [OutputError("y", 1e-7, 2.0, 1e-4, math.inf)]
    made.stages, made.notes = {"passes": 0.5}, ["a note"]
    made.chosen = {"form": "plain", "milliseconds": {"plain": np.float32(1.5).item()}}
    return made


def test_to_dict_is_plain_json(report):
    plain = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert plain["model"] == "Sequential"
    assert plain["errors"][0]["snr_db"] == "inf"
    last = plain["passes"][-1]
    assert last["spec"] == "fold-affine"
    assert last["refused"][0]["reason"] == "no neighbour can absorb the affine"
    assert last["reasons"] == {"no neighbour can absorb the affine": 1}
    assert set(last["refused"][0]) == {"site", "reason", "node", "detail"}


def test_to_json_writes_all_or_nothing(report, tmp_path, monkeypatch):
    target = tmp_path / "report.json"
    report.to_json(target)
    assert json.loads(target.read_text()) == json.loads(json.dumps(report.to_dict()))
    before = target.read_text()

    def fail(self, text, **how):
        raise OSError("no space")

    monkeypatch.setattr("pathlib.Path.write_text", fail)
    with pytest.raises(InvalidInput, match=r"expected a writable path .*no space"):
        report.to_json(target)
    assert target.read_text() == before
    assert list(tmp_path.iterdir()) == [target]


def test_to_json_names_a_folder_that_is_not_there(report, tmp_path):
    with pytest.raises(InvalidInput, match="expected a writable path"):
        report.to_json(tmp_path / "missing" / "report.json")


def test_text_has_every_table(report):
    text = str(report)
    for part in ("passes on Sequential", "left alone", "before and after", "verification"):
        assert part in text
    assert "BatchNorm 2→1" in text
    assert "note: a note" in text
    assert "no neighbour can absorb the affine" in text


def test_exclusions_are_counted(fx_view):
    graph, _ = fx_view.lift(nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)), X)
    text = str(Report(passes=run_passes(graph, [FoldAffine()], exclude="1")))
    assert "excluded by the caller" in text


def test_nothing_found_is_said(fx_view):
    graph, _ = fx_view.lift(nn.Linear(8, 4), X)
    assert "nothing found" in str(Report(passes=run_passes(graph, [FoldAffine()])))


def test_size_counts_a_shared_weight_once(view):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.f = nn.Linear(8, 8, bias=False)

        def forward(self, x):
            return self.f(torch.relu(self.f(x)))

    graph, _ = view.lift(Tied(), X)
    size = Size.of(graph)
    assert size.bytes in (4 * 64, 4 * 64 + 8)
    assert size.ops == count_ops(graph)


def test_relative_error_of_a_zero_output_is_absolute():
    assert OutputError("y", 0.5, 0.0, 1.0, 0.0).relative == 0.5
    assert OutputError("y", 0.5, 2.0, 1.0, 0.0).relative == 0.25
