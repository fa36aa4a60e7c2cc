"""Verification: what counts as equal, and who is blamed."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import passel
from passel.errors import InvalidInput, VerificationError
from passel.graph import Graph
from passel.verify import TOLERANCE, compare, failure, first_violation, worst_of
from tests.api import Spoil, Weighted, close, example, files, net, quickly

X = example()
NAN, INF = float("nan"), float("inf")


def one(expected: Any, found: Any, **bounds: float) -> Any:
    (error,) = compare(["y"], [np.asarray(expected)], [np.asarray(found)], **bounds)
    return error


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_each_type_has_its_bound(dtype):
    expected = np.array([10, -1], dtype)
    bound = TOLERANCE[dtype] * 10
    below, above = expected.astype("float64") + bound * 0.4, expected.astype("float64") + bound * 2
    assert first_violation([one(expected, below.astype(dtype))]) is None
    broken = one(expected, above.astype(dtype))
    assert first_violation([broken]) is broken
    assert broken.tolerance == pytest.approx(bound)
    assert broken.relative == pytest.approx(2 * TOLERANCE[dtype], rel=0.5)


@pytest.mark.parametrize(
    ("expected", "found", "agrees"),
    [
        ([NAN, 1.0], [NAN, 1.0], True),
        ([INF, -INF, 1.0], [INF, -INF, 1.0], True),
        ([NAN, 1.0], [1.0, 1.0], False),
        ([1.0, 1.0], [NAN, 1.0], False),
        ([INF, 1.0], [-INF, 1.0], False),
        ([INF, 1.0], [1e30, 1.0], False),
        ([0.0], [0.0], True),
        ([0.0], [1e-6], False),
        ([], [], True),
        ([True, False], [True, False], True),
        ([True, False], [True, True], False),
        ([3, 4], [3, 5], False),
        ([1j], [1j], True),
        ([1j], [2j], False),
    ],
)
def test_what_is_equal(expected, found, agrees):
    assert (first_violation([one(expected, found)]) is None) == agrees


def test_bounds_by_hand():
    expected, found = np.float32([2.0]), np.float32([2.1])
    assert first_violation([one(expected, found, rtol=0.1)]) is None
    assert first_violation([one(expected, found, rtol=0.0, atol=0.11)]) is None
    assert one(expected, found, rtol=0.01, atol=0.5).tolerance == pytest.approx(0.52)
    assert one([3], [4], rtol=10).tolerance == 0


@pytest.mark.parametrize(
    ("expected", "found", "cosine"),
    [
        ([3.0, 4.0], [3.0, 4.0], 1.0),
        ([3.0, 4.0], [6.0, 8.0], 1.0),
        ([3.0, 4.0], [-3.0, -4.0], -1.0),
        ([3.0, 4.0], [4.0, -3.0], 0.0),
        ([3.0, 4.0], [3.0, 0.0], 0.6),
        ([0.0, 0.0], [0.0, 0.0], 1.0),
        ([0.0, 0.0], [1.0, 0.0], 0.0),
        ([1e300, 0.0], [1e300, 1e300], 0.5**0.5),
        ([np.inf, 3.0, 4.0], [np.inf, 3.0, 0.0], 0.6),
        ([np.inf, 1.0], [1.0, 1.0], np.nan),
        ([np.inf, 1.0], [-np.inf, 1.0], np.nan),
        ([np.nan, 1.0], [2.0, 1.0], np.nan),
        ([1j, 1.0], [1j, 0.0], 0.5**0.5),
    ],
)
def test_cosine_by_hand(expected, found, cosine):
    (error,) = compare(["y"], [np.array(expected)], [np.array(found)])
    assert error.cosine == pytest.approx(cosine, abs=1e-12, nan_ok=True)


def test_other_shapes_types_and_numbers_of_outputs():
    assert one(np.ones(2), np.ones(3)).detail == (
        "expected float64 of shape (2,), got float64 of shape (3,)"
    )
    assert one(np.ones(2), np.ones(2, "float32")).max_abs == INF
    (missing,) = compare(["y"], [np.ones(1)], [])
    assert missing.detail == "expected 1 outputs, got 0"
    assert str(failure(missing, "spoil")).startswith(
        "the optimized model disagrees after pass spoil: output 'y': expected 1 outputs, got 0. "
    )


def test_the_worst_batch_counts():
    good, bad = one([1.0], [1.0]), one([1.0], [2.0])
    assert worst_of([[good, bad], [bad, good]]) == [bad, bad]


@dataclass(frozen=True)
class Cut(Spoil):
    """Wrong in another way: the result has another shape."""

    name: ClassVar[str] = "cut"

    def rewrite(self, graph: Graph, site: Weighted) -> None:
        linear = site.op
        axis = 0 if linear.layout == "oi" else 1
        half = np.take(linear.weight.array(), [0, 1], axis)
        graph.set_input(linear, 1, graph.constant(half, "spoiled"))
        graph.set_input(linear, 2, graph.constant(np.ones(2, np.float32), "spoiled_bias"))


MESSAGE = r"disagrees after pass {} \(last edited: .*linear_1\): output 'linear_1': .*Nothing was"


def check(error: VerificationError, spec: str) -> None:
    assert error.guilty == spec
    assert error.output == "linear_1"
    assert error.error > error.tolerance


@pytest.mark.parametrize("wrong", [Spoil(), Cut()], ids=lambda wrong: wrong.name)
def test_a_wrong_pass_is_named_and_nothing_is_written(wrong, tmp_path):
    passes = ["canonicalize", wrong, "eliminate-dead-code"]
    (tmp_path / "old.onnx").write_bytes(b"old")
    before = files(tmp_path)
    calls = (
        lambda: quickly(net(), X, passes=passes),
        lambda: quickly(net(), X, passes=passes, backend="torch"),
        lambda: passel.optimize(net(), X, passes=passes),
        lambda: passel.export_onnx(net(), X, tmp_path / "new.onnx", passes=passes),
        lambda: passel.export_onnx(net(), X, tmp_path / "old.onnx", passes=passes),
    )
    for call in calls:
        with pytest.raises(VerificationError, match=MESSAGE.format(wrong.name)) as caught:
            call()
        check(caught.value, wrong.name)
    assert files(tmp_path) == before


def test_the_parameters_of_the_guilty_pass_are_named():
    with pytest.raises(VerificationError) as caught:
        passel.optimize(net(), X, passes=[Spoil(factor=2.0)])
    check(caught.value, "spoil(factor=2.0)")


def test_a_wrong_pass_on_onnx(tmp_path):
    passel.export_onnx(net(), X, tmp_path / "net.onnx")
    with pytest.raises(VerificationError, match=r"after pass spoil \(last") as caught:
        passel.optimize(tmp_path / "net.onnx", X, passes=["default", Spoil()])
    assert caught.value.guilty == "spoil"


def test_verification_can_be_left_out_or_loosened():
    for options in ({"verify": False}, {"rtol": 1.0}, {"atol": 100.0}):
        optimized = passel.optimize(net(), X, passes=[Spoil()], **options)
        assert not close(optimized.program.module()(X), net()(X))
    assert passel.optimize(net(), X, verify=False).report.verified == "not verified"
    assert optimized.report.verified.startswith("1 outputs on 3 input sets (examples, seed 1, seed")
    for name in ("rtol", "atol"):
        with pytest.raises(InvalidInput, match=f"{name}: expected a number that is not negative"):
            passel.optimize(net(), X, **{name: -1.0})


def test_nan_and_infinity_on_both_sides():
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return torch.log(x), 1 / torch.relu(x)

    found = quickly(Odd().eval(), X)(X)
    assert found[0].isnan().any()
    assert found[1].isinf().any()
