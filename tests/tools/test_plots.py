"""Pictures of a report: what is drawn, the same file each time, and clear refusals."""

import sys
from pathlib import Path

import pytest

from passel.errors import BackendUnavailable, InvalidInput
from passel.passes.base import LayerQuality
from passel.passes.report import PassReport, Report
from passel.tools.plots import plot_layers

pytest.importorskip("matplotlib")


def report_of(*ratios: float, forms: tuple[str, ...] = ("int8", "uint4 by 32")) -> Report:
    layers = [
        LayerQuality(f"layer{k}", forms[k % len(forms)], "rtn", 8.0, 40.0, ratio)
        for k, ratio in enumerate(ratios)
    ]
    return Report(model="m.onnx", passes=[PassReport("quantize", layers=layers)])


@pytest.mark.parametrize("name", ["error.png", "error.svg", "error.SVG"])
def test_the_same_report_gives_the_same_file(tmp_path: Path, name: str) -> None:
    report, path = report_of(30.0, 20.0, 25.0), tmp_path / name
    plot_layers(report, path)
    first = path.read_bytes()
    plot_layers(report, path)
    assert path.read_bytes() == first
    assert first.startswith(b"\x89PNG" if name.endswith("png") else b"<?xml")
    plot_layers(report_of(30.0, 20.0, 35.0), path)
    assert path.read_bytes() != first


def test_names_forms_and_ratios_are_in_the_picture(tmp_path: Path) -> None:
    plot_layers(report_of(30.0, 20.0, float("inf")), tmp_path / "e.svg")
    text = (tmp_path / "e.svg").read_text()
    for part in ("layer0", "layer2", "int8", "uint4 by 32", "SNR of the output", "exact", "m.onnx"):
        assert part in text


def test_bars_are_as_high_as_the_ratios() -> None:
    from passel.tools import plots

    figure = plots._figure(report_of(30.0, 20.0, float("inf")).layers, "")
    (axes,) = figure.axes
    heights = {round(bar.get_x() + bar.get_width() / 2): bar.get_height() for bar in axes.patches}
    assert heights == {0: 30.0, 1: 20.0, 2: pytest.approx(33.0)}
    colours = [bar.get_facecolor() for bar in sorted(axes.patches, key=lambda bar: bar.get_x())]
    assert colours[0] == colours[2] != colours[1]


def test_weights_stand_in_where_no_output_was_measured(tmp_path: Path) -> None:
    plot_layers(report_of(float("nan"), float("nan")), tmp_path / "e.svg")
    assert "SNR of the weight" in (tmp_path / "e.svg").read_text()


def test_the_users_settings_do_not_show(tmp_path: Path) -> None:
    import matplotlib

    plot_layers(report_of(30.0, 20.0), tmp_path / "a.svg")
    with matplotlib.rc_context({"font.size": 30, "svg.hashsalt": "other", "axes.grid": True}):
        plot_layers(report_of(30.0, 20.0), tmp_path / "b.svg")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidInput, match=r"ends in \.png or \.svg, got .*e\.pdf"):
        plot_layers(report_of(1.0), tmp_path / "e.pdf")
    with pytest.raises(InvalidInput, match="there is no folder"):
        plot_layers(report_of(1.0), tmp_path / "none" / "e.png")
    with pytest.raises(InvalidInput, match="a report with quantized layers"):
        plot_layers(Report(), tmp_path / "e.png")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(BackendUnavailable, match=r"pip install 'passel\[plot\]'"):
        plot_layers(report_of(1.0), tmp_path / "e.png")
    assert list(tmp_path.iterdir()) == []
