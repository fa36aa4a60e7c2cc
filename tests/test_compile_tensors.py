"""Tensors of every kind go through a compiled model, and are copied nowhere on the way."""

import gc
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

from passel.errors import InvalidInput
from tests.api import close, example, net, quickly

X = example()


@pytest.fixture(scope="module")
def compiled():
    return quickly(net(), X)


@pytest.fixture(scope="module")
def original():
    return net()


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(X.clone(), id="contiguous"),
        pytest.param(example(8)[:, :3].t(), id="transposed"),
        pytest.param(example(6)[::2], id="strided"),
        pytest.param(X[:1].expand(3, 8), id="expanded"),
        pytest.param(X.clone().requires_grad_(), id="requires grad"),
        pytest.param(nn.Parameter(X.clone()), id="parameter"),
    ],
)
def test_any_memory_layout(compiled, original, given):
    found = compiled(given)
    assert close(found, original(given).detach())
    assert not found.requires_grad
    assert np.allclose(compiled(given.detach().numpy()), found.numpy(), rtol=1e-6)


def test_inference_tensors(compiled, original):
    with torch.inference_mode():
        assert close(compiled(X * 1), original(X))


def test_neither_inputs_nor_outputs_are_copied(monkeypatch):
    """The runtime reads the tensor's own memory, and the result is the runtime's own memory."""

    class Grow(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + 1

    compiled = quickly(Grow().eval(), X)
    given, results = [], []
    make, take = ort.OrtValue.from_dlpack, torch.from_dlpack

    def spy(tensor: Tensor) -> Any:
        given.append(make(tensor))
        return given[-1]

    monkeypatch.setattr(ort.OrtValue, "from_dlpack", staticmethod(spy))
    monkeypatch.setattr(torch, "from_dlpack", lambda v: take(results.append(v) or v))
    found = compiled(X)
    assert [value.data_ptr() for value in given] == [X.data_ptr()]
    assert [value.data_ptr() for value in results] == [found.data_ptr()]


def test_outputs_outlive_the_model(original):
    local = quickly(original, X)
    found = local(X)
    kept = found.clone()
    del local
    gc.collect()
    _ = [torch.full((64, 64), 7.0) for _ in range(64)]
    assert torch.equal(found, kept)


def test_results_of_two_calls_are_not_one_memory(compiled):
    first = compiled(X)
    kept = first.clone()
    compiled(X + 1)
    assert torch.equal(first, kept)


class Mixed(nn.Module):
    """Bool, int64, int32 and 0-d inputs and outputs."""

    def forward(
        self, mask: Tensor, ids: Tensor, small: Tensor, scale: Tensor
    ) -> tuple[Tensor, ...]:
        return mask.logical_not(), ids + 1, small * 2, scale + 1, torch.where(mask, ids, 0).sum()


MIXED = (
    torch.tensor([True, False, True]),
    torch.tensor([5, 6, 7]),
    torch.tensor([1, 2, 3], dtype=torch.int32),
    torch.tensor(1.5),
)


def test_bool_int_and_scalar_tensors():
    model = Mixed().eval()
    compiled = quickly(model, MIXED)
    for found, expected in zip(compiled(*MIXED), model(*MIXED), strict=True):
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)
    arrays = compiled(*(tensor.numpy() for tensor in MIXED))
    assert [array.dtype.name for array in arrays] == ["bool", "int64", "int32", "float32", "int64"]
    assert all(isinstance(array, np.ndarray | np.generic) for array in arrays)


def test_torch_and_numpy_together_give_torch(compiled):
    found = quickly(Mixed().eval(), MIXED)(MIXED[0].numpy(), *MIXED[1:])
    assert all(isinstance(tensor, Tensor) for tensor in found)


def test_a_tensor_on_another_device(compiled):
    with pytest.raises(InvalidInput, match="input 'x': expected a tensor on cpu, got one on meta"):
        compiled(X.to("meta"))


def test_a_model_that_writes_to_its_input_leaves_it_alone():
    class InPlace(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.add_(1) * 2

    given = X.clone()
    found = quickly(InPlace().eval(), given.clone())(given)
    assert torch.equal(given, X)
    assert close(found, (X + 1) * 2)
