"""The benchmark's arithmetic and its bad input; the measuring itself is `make bench`."""

import pytest
import typer

from passel.tools import bench
from passel.tools.bench.footprint import optimize_apart, write_synthetic
from passel.tools.bench.latency import Side, compare, summary


class Ended:
    """A process that has nothing more to say."""

    def kill(self) -> None:
        """Nothing to end."""


def side(name: str, milliseconds: list[float]) -> Side:
    return Side(name, Ended(), [value / 1e3 for value in milliseconds])  # type: ignore[arg-type]


def test_ratios_are_of_medians_against_onnxruntime() -> None:
    rows = summary([side("onnxruntime", [4, 5, 100]), side("passel", [2, 2.5, 3])])
    assert rows["onnxruntime"]["median_ms"] == pytest.approx(5)
    assert rows["passel"]["speedup"] == pytest.approx(2)


def test_without_a_baseline_there_is_no_ratio() -> None:
    assert "speedup" not in summary([side("eager", [1, 2, 3])])["eager"]


UNKNOWN = [(["resnet"], "resnet"), (["--side", "tflite"], "tflite")]


@pytest.mark.parametrize(("arguments", "what"), UNKNOWN)
def test_unknown_names_are_listed(arguments: list[str], what: str) -> None:
    with pytest.raises(typer.BadParameter, match=f"unknown (model|side) '{what}'; there are"):
        bench.main(arguments)


@pytest.mark.slow
def test_sides_run_in_processes_of_their_own() -> None:
    rows = compare(
        "vit_s16", ["onnxruntime", "passel"], seconds=0.5, threads=1, progress=lambda _: None
    )
    assert rows["passel"]["median_ms"] > 0
    assert rows["passel"]["peak_mib"] > 100


@pytest.mark.slow
def test_a_large_file_is_optimized_within_its_size_and_two_tensors(tmp_path) -> None:
    source = tmp_path / "large.onnx"
    blocks = write_synthetic(source, 1.0)
    found = optimize_apart(source)
    assert found["streams_recentred"] == 1
    assert found["peak_bytes"] <= (blocks * 2 + 2) * 2048 * 8192 * 4
