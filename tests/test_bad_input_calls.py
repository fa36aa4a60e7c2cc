"""Calls that do not fit the compiled model: which input, what was expected, what was given."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from passel.errors import InvalidInput
from tests.api import example, quickly

X = example()


class Pair(nn.Module):
    """Two inputs and one that is an integer tensor."""

    def forward(self, x: Tensor, y: Tensor, index: Tensor) -> Tensor:
        return (x + y)[:, index]


GIVEN = {"x": X, "y": X, "index": torch.tensor([0, 2])}


@pytest.fixture(scope="module", params=["onnxruntime", "torch"])
def compiled(request: pytest.FixtureRequest) -> Any:
    return quickly(Pair().eval(), GIVEN, backend=request.param)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": torch.ones(3, 9)}, r"input 'x': expected shape \(3, 8\), got \(3, 9\)"),
        ({"y": torch.ones(8)}, r"input 'y': expected shape \(3, 8\), got \(8,\)"),
        ({"index": torch.tensor([1])}, r"input 'index': expected shape \(2,\), got \(1,\)"),
        ({"x": X.double()}, "input 'x': expected float32, got float64"),
        ({"x": X > 0}, "input 'x': expected float32, got bool"),
        ({"index": torch.tensor([0.0, 1.0])}, "input 'index': expected int64, got float32"),
        ({"x": "text"}, "input 'x': expected a tensor or an array, got str"),
        ({"y": None}, "input 'y': expected a tensor or an array, got NoneType"),
        ({"z": X}, r"expected the inputs of the example \(x, y, index\), got x, y, index, z"),
    ],
)
def test_inputs_that_do_not_fit(compiled, changes, message):
    with pytest.raises(InvalidInput, match=message):
        compiled(**{**GIVEN, **changes})


@pytest.mark.parametrize(
    ("args", "names", "got"),
    [
        ((), [], "nothing"),
        ((X,), [], "1 positional"),
        ((X, X, GIVEN["index"], X), [], "4 positional"),
        ((X,), ["x", "index"], "1 positional, x, index"),
        ((), ["x", "y"], "x, y"),
        (([X, X, GIVEN["index"]],), [], "1 positional"),
    ],
)
def test_inputs_too_few_too_many_or_twice(compiled, args, names, got):
    message = rf"expected the inputs of the example \(x, y, index\), got {got}$"
    with pytest.raises(InvalidInput, match=message):
        compiled(*args, **{name: GIVEN[name] for name in names})


def test_numpy_inputs_are_told_apart_in_the_same_words(compiled):
    arrays = {name: tensor.numpy() for name, tensor in GIVEN.items()}
    with pytest.raises(InvalidInput, match=r"input 'x': expected shape \(3, 8\), got \(2, 8\)"):
        compiled(**{**arrays, "x": arrays["x"][:2]})
    with pytest.raises(InvalidInput, match="input 'y': expected float32, got float64"):
        compiled(**{**arrays, "y": arrays["y"].astype("float64")})
    assert compiled(**arrays).shape == (3, 2)


def test_a_bad_call_does_no_harm(compiled):
    expected = Pair()(**GIVEN)
    with pytest.raises(InvalidInput):
        compiled(X)
    assert torch.equal(compiled(**GIVEN), expected)
