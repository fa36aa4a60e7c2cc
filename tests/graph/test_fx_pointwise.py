"""Every pointwise function that a pass may make, written into a program, against numpy or torch."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from passel.graph.fx import lift
from passel.graph.ops import Elementwise

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 3, 4))
POSITIVE, HALF, TRUTH = np.abs(X) + 0.5, np.array(0.5), X > 0


class Echo(torch.nn.Module):
    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return inputs[0] + 0


def t(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array)


def result_of(fn: str, *operands: np.ndarray) -> np.ndarray:
    """The function of the operands; scalars are constants, tensors are inputs."""
    given = [operand for operand in operands if operand.ndim]
    graph = lift(torch.export.export(Echo(), tuple(map(t, given))))
    inputs = iter(graph.inputs)
    values = [next(inputs) if operand.ndim else graph.constant(operand) for operand in operands]
    op = graph.add(Elementwise(inputs=values, fn=fn), (None, None))
    graph.replace(graph.outputs[0], op.output)
    (result,) = graph.run(given)
    np.testing.assert_array_equal(graph.binding.evaluate(op, operands)[0], result)
    return result


POINTWISE: dict[str, Callable[..., Any]] = {
    "neg": np.negative,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "reciprocal": lambda x: 1 / x,
    "exp": np.exp,
    "log": np.log,
    "erf": lambda x: torch.erf(t(x)).numpy(),
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "relu": lambda x: np.maximum(x, 0),
    "gelu": lambda x: F.gelu(t(x)).numpy(),
    "gelu_tanh": lambda x: F.gelu(t(x), approximate="tanh").numpy(),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "abs": np.abs,
    "sin": np.sin,
    "cos": np.cos,
    "not": np.logical_not,
    "isnan": np.isnan,
}
BINARY: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "pow": np.power,
    "equal": np.equal,
    "and": np.logical_and,
    "maximum": np.maximum,
    "minimum": np.minimum,
}


@pytest.mark.parametrize("fn", POINTWISE)
def test_one_operand(fn: str) -> None:
    np.testing.assert_allclose(result_of(fn, POSITIVE), POINTWISE[fn](POSITIVE), rtol=1e-12)


@pytest.mark.parametrize("fn", BINARY)
@pytest.mark.parametrize("number", [None, 0, 1], ids=["tensors", "number first", "number last"])
def test_two_operands(fn: str, number: int | None) -> None:
    operands = [POSITIVE, POSITIVE[::-1].copy()]
    if number is not None:
        operands[number] = HALF
    np.testing.assert_allclose(result_of(fn, *operands), BINARY[fn](*operands), rtol=1e-12)


@pytest.mark.parametrize("first", [POSITIVE, HALF], ids=["tensor", "number"])
@pytest.mark.parametrize("second", [X, HALF], ids=["tensor", "number"])
def test_where(first: np.ndarray, second: np.ndarray) -> None:
    expected = np.where(TRUTH, first, second)
    np.testing.assert_array_equal(result_of("where", TRUTH, first, second), expected)
