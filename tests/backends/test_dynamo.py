"""torch.compile(model, backend="passel")."""

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from passel.backends import dynamo
from tests.api import Net, close, example, net

OPTIONS = {"threads": 1}


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    torch._dynamo.reset()
    with torch.no_grad():
        yield
    torch._dynamo.reset()


def compiled(model: nn.Module, **more: Any) -> Any:
    return torch.compile(model, backend="passel", options=OPTIONS, **more)


@pytest.fixture
def variants(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was compiled so far."""
    found: list[Any] = []
    original = dynamo.Graph._compiled

    def record(self: dynamo.Graph, inputs: Any) -> Any:
        found.append(original(self, inputs))
        return found[-1]

    monkeypatch.setattr(dynamo.Graph, "_compiled", record)
    return found


def test_a_model(variants):
    model = net()
    fast = compiled(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert close(fast(example()), model(example()))
        assert close(fast(example(seed=1)), model(example(seed=1)))
    assert [one is not None for one in variants] == [True]


def test_the_entry_point_and_inference_mode():
    assert "passel" in torch._dynamo.list_backends()
    model = net()
    with torch.inference_mode():
        assert close(torch.compile(model, backend="passel")(example()), model(example()))


def test_other_sizes_are_compiled_too(variants):
    model = net()
    fast = compiled(model)
    for batch in (3, 5, 2, 5):
        assert close(fast(example(batch)), model(example(batch)))
    assert len(variants) == 3
    assert all(one is not None for one in variants)


class Broken(nn.Module):
    """Two parts of one kind with a graph break between them: dynamo sees one graph twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Net(), Net()
        self.second.last.weight.data *= 2

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        torch._dynamo.graph_break()
        return self.second(torch.cat([y, y], -1))


def test_graph_breaks_and_parts_that_share_code(variants):
    model = Broken().eval()
    assert close(compiled(model)(example()), model(example()))
    assert all(one is not None for one in variants)


def test_weights_changed_in_place(variants):
    model = net()
    fast = compiled(model)
    fast(example())
    model.last.weight.mul_(3)
    assert close(fast(example()), model(example()))
    assert len(variants) == 2


def test_gradients_stay_on_eager_torch():
    model = net()
    fast = compiled(model)
    with torch.enable_grad(), pytest.warns(UserWarning, match="it may need gradients: call it"):
        fast(example()).sum().backward()
    assert model.last.weight.grad is not None
    assert not fast(example()).requires_grad


def test_what_cannot_be_compiled_stays_on_eager_torch():
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.special.bessel_j0(x)

    with pytest.warns(UserWarning, match=r"leaves a graph to eager torch: torch\.onnx cannot"):
        found = compiled(Odd().eval())(example())
    assert close(found, Odd()(example()))


def test_too_many_variants_stay_on_eager_torch(monkeypatch, variants):
    monkeypatch.setattr(dynamo, "MAX_VARIANTS", 1)
    model = net()
    fast = compiled(model, dynamic=True)
    assert close(fast(example(3)), model(example(3)))
    with pytest.warns(UserWarning, match="more than 1 sets of weights and shapes"):
        assert close(fast(example(4)), model(example(4)))


def test_a_model_without_inputs():
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

        def forward(self) -> Tensor:
            return self.weight * 2

    with pytest.warns(UserWarning, match="it takes no tensor"):
        assert torch.equal(compiled(Constant().eval())(), torch.full((3,), 2.0))
