"""What a work folder keeps besides roundings, and what the caller is told of a run."""

from passel.passes.base import Context
from passel.passes.driver import run_passes
from passel.passes.quantization.settle import _Times
from passel.passes.quantize import Quantize
from tests.passes.quantization.walked import data, residual


def test_measured_placement_is_kept(tmp_path):
    """Times vary from run to run; what is placed by them must not."""
    calls = []

    def timed(shapes):
        calls.append(shapes)
        form = ("static", "float")[len(calls) - 1]
        return [dict.fromkeys(("float", "static", "dynamic"), 2.0) | {form: 1.0} for _ in shapes]

    wide = 160  # products of 128² and more are worth placing
    reports = []
    for _ in range(2):
        context = Context(time_products=timed)
        one = Quantize(
            "int8", calibration=data(2, width=wide), placement="measured", work_dir=str(tmp_path)
        )
        reports.append(run_passes(residual(1, wide), [one], context=context))
    assert len(calls) == 1
    assert reports[0][0].spec == reports[1][0].spec
    assert "static" in reports[0][0].spec
    assert _Times(str(tmp_path), residual(1, wide, seed=3), "").load(1) is None


def test_notes_reach_the_caller(tmp_path):
    context = Context()
    one = Quantize("int8", "mse+gptq", calibration=data(), work_dir=str(tmp_path), placement="all")
    run_passes(residual(), [one], context=context)
    (text,) = [note for note in context.notes if "needs about" in note]
    assert str(tmp_path) in text
    assert one.spec == Quantize("int8", "mse+gptq", work_dir=str(tmp_path), placement="all").spec
