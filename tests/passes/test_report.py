"""Reports: plain data, JSON that is whole or absent, counts, and the text of each table."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from passel.backends.saved_report import report_of
from passel.errors import InvalidInput
from passel.graph.cost_layers import AttentionLayer
from passel.models import ViT, ViTConfig, randomize, vit_inputs
from passel.passes import Canonicalize, FoldAffine, resolve
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


def layer(name, tokens, flops, kept=None):
    count = kept or tokens
    return AttentionLayer(name, f"{name}.attn", tokens, count, 4, 2, count * 100, flops)


def sized(*layers, **more):
    cached = sum(one.kv_bytes for one in layers)
    return Size({"Attention": 1}, 0, 0, kv_bytes=cached, layers=list(layers), **more)


def line_with(text, start):
    """The cells of the first table row that begins so."""
    rows = (line.strip("│ ").split("│") for line in str(text).splitlines())
    return next([cell.strip() for cell in row] for row in rows if row[0].strip() == start)


def test_cost_before_and_after(view):
    settings = {"image_size": 16, "patch_size": 8, "dim": 24, "heads": 4, "classes": 5}
    config = ViTConfig(depth=3, pool="mean", **settings)
    graph, _ = view.lift(ViT(config), vit_inputs(config), opset=20)
    before = Size.of(graph)
    run_passes(graph, resolve("default"))
    report = Report(before=before, after=Size.of(graph))
    assert before.flops > report.after.flops > 0.95 * before.flops
    assert before.kv_bytes == report.after.kv_bytes == 3 * 2 * 4 * 24 * 4
    assert before.flops == sum(before.flops_by_kind.values())
    assert len(before.layers) == len(report.after.layers) == 3
    assert line_with(report, "GFLOPs")[1:] == [
        f"{size.flops / 1e9:.4g}" for size in (before, report.after)
    ]
    assert "activation MB" in str(report)
    (row,) = (line for line in str(report).splitlines() if "blocks.0.attention …" in line)
    assert "4/4" in row


def test_layers_are_shown_where_they_changed():
    dense = [layer(f"b{k}", 16, 10**9) for k in range(4)]
    kept = [dense[0], layer("b1", 2, 10**8), dense[2], layer("b3", 2, 10**8)]
    report = Report(before=sized(*dense), after=sized(*kept))
    assert line_with(report, "b0.attn") == ["b0.attn", "16/16", "1", "1,600"]
    changed = ["16/16 → 2/2", "1 → 0.1", "1,600 → 200"]
    assert line_with(report, "b1.attn")[1:] == changed
    assert line_with(report, "all")[2:] == ["4 → 2.2 (55.0 %)", "6,400 → 3,600 (56.2 %)"]
    assert "attention layers" not in str(Report(before=sized(*dense), after=sized(*dense)))


def test_equal_layers_are_one_row():
    before = [layer(f"b{k}", 16, 10**9) for k in range(3)]
    after = [layer(f"b{k}", 4, 10**9) for k in range(3)]
    row = line_with(Report(before=sized(*before), after=sized(*after)), "b0.attn … b2.attn (3)")
    assert row[1:] == ["16/16 → 4/4", "1", "1,600 → 400"]


def test_a_layer_that_is_gone():
    before = [layer(name, 16, 10**9) for name in ("b0", "b1")]
    report = Report(before=sized(*before), after=sized(before[1]))
    assert line_with(report, "b0.attn")[1:] == ["16/16 → –", "1 → –", "1,600 → –"]
    assert line_with(report, "all")[2:] == ["2 → 1 (50.0 %)", "3,200 → 1,600 (50.0 %)"]


def test_what_is_not_counted_is_said(view):
    shapes = {"input": {0: "batch"}}
    graph, _ = view.lift(nn.Linear(8, 6), X, dynamic_shapes=shapes)
    size = Size.of(graph)
    (name,) = size.symbols
    assert size.uncounted == f"with {name} = 1"
    assert f"cost: with {name} = 1" in str(Report(before=size, after=size))
    assert Size.of(graph, {name: 4}).flops == 4 * size.flops
    assert Size({}, 0, 0, unknown={"FFT": 2}).uncounted == "not counted: FFT 2"
    assert not Size({}, 0, 0).uncounted


def test_costs_and_layers_survive_json():
    report = Report(before=sized(layer("b0", 16, 9), symbols=["n"]), after=sized())
    plain = json.loads(json.dumps(report.to_dict()))
    assert plain["before"]["layers"][0]["keys"] == 16
    assert plain["before"]["kv_bytes"] == 1600
    again = report_of(plain)
    assert again.before == report.before
    assert str(again) == str(report)


def test_a_report_saved_without_costs_can_be_read():
    plain = Report().to_dict()
    plain["before"] = {"ops": {}, "parameters": 1, "bytes": 4}
    assert report_of(plain).before == Size({}, 1, 4)
