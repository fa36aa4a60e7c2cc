"""Tables of quantized layers and of evaluations, and the cosine in the table of errors."""

import json
import math

import pytest

from passel.backends.saved_report import report_of
from passel.passes.base import LayerQuality
from passel.passes.report import OutputError, PassReport, Report, Size

NAN = float("nan")


def layer(name, output=NAN, weight=40.0, form="int8 per channel", notes=(), alone=NAN):
    return LayerQuality(name, form, "mse", 8.25, weight, output, tuple(notes), alone)


def report_with(*layers, **more):
    return Report(passes=[PassReport("quantize", layers=list(layers))], **more)


def cells(report, start):
    """The cells of the first row that begins so."""
    rows = (line.strip("│ ").split("│") for line in str(report).splitlines())
    return next([cell.strip() for cell in row] for row in rows if row[0].strip().startswith(start))


def order(report, names):
    places = {name: str(report).index(f"│ {name} ") for name in names}
    return sorted(names, key=places.__getitem__)


def test_the_worst_output_comes_first():
    report = report_with(layer("good", 50.0), layer("bad", 10.0), layer("fair", 30.0))
    assert order(report, ["good", "fair", "bad"]) == ["bad", "fair", "good"]
    assert cells(report, "bad") == ["bad", "int8 per channel", "mse", "8.25", "40.0", "10.0"]
    assert "quantized layers (3)" in str(report)


def test_by_the_weight_where_no_output_was_measured():
    report = report_with(layer("good", weight=50.0), layer("bad", weight=10.0))
    assert order(report, ["good", "bad"]) == ["bad", "good"]
    assert "output SNR" not in str(report)
    assert "alone SNR" not in str(report)


def test_an_output_that_was_not_measured_is_a_dash():
    report = report_with(layer("told", 20.0, alone=31.0), layer("untold"))
    assert cells(report, "told")[-2:] == ["20.0", "31.0"]
    assert cells(report, "untold")[-2:] == ["-", "-"]


def test_the_rest_is_one_row_of_medians():
    layers = [layer(f"l{k:02d}", float(k)) for k in range(40)]
    report = report_with(*layers)
    assert "l14" in str(report)
    assert "l15" not in str(report)
    assert cells(report, "… 25 more")[-2:] == ["40.0", "27.0"]  # the median of 15 .. 39


def test_notes_are_told_once():
    shared = [layer(name, 5.0, notes=["no kernel"]) for name in "abc"]
    text = str(report_with(*shared, layer("d", 1.0, notes=["fell back"])))
    assert text.count("no kernel") == 1
    assert "3 layers: no kernel" in text
    assert "d: fell back" in text


def test_no_layers_no_table():
    assert "quantized layers" not in str(Report())


def test_cosine_is_shown_where_the_pipeline_is_lossy():
    error = OutputError("y", 0.1, 2.0, math.inf, 31.25, cosine=0.9995)
    lossy = cells(Report(errors=[error]), "y")
    assert lossy[-2:] == ["31.2", "0.999500"]
    exact = OutputError("y", 1e-7, 2.0, 1e-4, 120.0, cosine=1.0)
    assert "cosine" not in str(Report(errors=[exact]))
    assert "cosine" in str(report_with(layer("a"), errors=[exact]))


def test_megabytes_and_their_ratio():
    report = Report(before=Size({}, 1, 8_000_000), after=Size({}, 1, 2_000_000))
    assert cells(report, "constants MB")[1:] == ["8", "2 (4.00× smaller)"]
    same = Report(before=Size({}, 1, 8_000_000), after=Size({}, 1, 8_000_000))
    assert cells(same, "constants MB")[1:] == ["8", "8"]


def test_evaluation_before_and_after():
    found = {"before": {"accuracy": 0.91, "loss": 1.0}, "after": {"accuracy": 0.9, "loss": 1.25}}
    report = Report(evaluation=found)
    assert cells(report, "accuracy") == ["accuracy", "0.91", "0.9", "-0.01"]
    assert cells(report, "loss")[-1] == "+0.25"


@pytest.mark.parametrize("number", [0.5, NAN, math.inf])
def test_everything_survives_json(number):
    error = OutputError("y", 0.1, 2.0, math.inf, 31.25, cosine=number)
    before = report_with(layer("a", 3.0), errors=[error], evaluation={"before": {"x": number}})
    again = report_of(json.loads(json.dumps(before.to_dict(), allow_nan=False)))
    assert str(again) == str(before)
    assert repr(again.errors) == repr(before.errors)
    assert repr(again.evaluation) == repr(before.evaluation)


def test_a_report_saved_without_them_can_be_read():
    plain = report_with(errors=[OutputError("y", 0.1, 2.0, 1.0, 3.0, cosine=0.5)]).to_dict()
    del plain["errors"][0]["cosine"], plain["evaluation"]
    again = report_of(plain)
    assert math.isnan(again.errors[0].cosine)
    assert again.evaluation == {}
