"""Views against numpy: an element of what was moved is the element that the index names."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from passel.backends.tvm.emit.emitter import Emitter
from passel.backends.tvm.emit.views import view_of
from passel.backends.tvm.machine import Machine
from tests.backends.tvm.emission import graph_of

MOVES = {
    "heads": lambda _, x: x.view(2, 6, 3, 4).transpose(1, 2),
    "third of three": lambda _, x: x.view(2, 6, 3, 2, 2).permute(2, 0, 3, 1, 4)[2],
    "last of three": lambda _, x: x.view(2, 6, 3, 4)[:, :, -1],
    "a part": lambda _, x: x.split(4, -1)[1].reshape(2, 3, 2, 4),
    "unbound": lambda _, x: x.view(2, 6, 3, 4).unbind(2)[1],
    "repeated": lambda _, x: x[:, :, None].expand(2, 6, 5, 12).reshape(2, 30, 12),
    "squeezed": lambda _, x: x.unsqueeze(1).permute(1, 3, 2, 0).squeeze(0),
    "joined": lambda _, x: x.permute(1, 0, 2).reshape(6, 24),
}


def moved(emitter: Emitter, value: Any, array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The value, element by element, by its view."""
    view = view_of(value)
    result = np.empty(shape, array.dtype)
    for place in np.ndindex(*shape):
        found = view.index(emitter, list(place))
        result[place] = array[tuple(int(i) for i in found)]
    return result


@pytest.mark.parametrize("case", MOVES)
def test_every_element(case: str, machine: Machine) -> None:
    x = torch.arange(2 * 6 * 12, dtype=torch.float32).reshape(2, 6, 12)
    graph = graph_of(MOVES[case], [x], "fx", passes=())
    (result,) = graph.outputs
    expected = MOVES[case](None, x).numpy()
    assert view_of(result).base is graph.inputs[0]
    got = moved(Emitter(graph, machine), result, x.numpy(), expected.shape)
    assert np.array_equal(got, expected)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.permutations(range(4)), st.sampled_from([(6, 20), (2, 60), (120,), (3, 2, 4, 5)]))
def test_turned_and_reshaped(order: list[int], shape: tuple[int, ...]) -> None:
    from passel.backends.tvm.machine import machine_of

    def move(_: Any, x: Tensor) -> Tensor:
        return x.permute(order).reshape(shape)

    x = torch.arange(120, dtype=torch.float32).reshape(2, 3, 4, 5)
    graph = graph_of(move, [x], "fx", passes=())
    (result,) = graph.outputs
    array = x.numpy()
    base = view_of(result).base
    if base is not graph.inputs[0]:  # a reshape across axes that do not line up
        array = x.permute(order).numpy()
    got = moved(Emitter(graph, machine_of("haswell", 1)), result, array, shape)
    assert np.array_equal(got, move(None, x).numpy())


def test_a_computed_value_is_its_own_view() -> None:
    graph = graph_of(lambda _, x: torch.relu(x), [torch.randn(2, 3)], "fx")
    (result,) = graph.outputs
    view = view_of(result)
    assert view.base is result
    assert view.steps == ()
