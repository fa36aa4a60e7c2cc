"""A compiled model is called like the original: nesting, keywords, values that are no tensors."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from passel.errors import InvalidInput
from tests.api import close, example, quickly

X, MASK, SCALE = example(), torch.rand(3, 8) > 0.5, torch.tensor(2.0)


class Nested(nn.Module):
    """Optional and keyword-only inputs; tensors, None and numbers in a nested output."""

    def forward(
        self, x: Tensor, mask: Tensor | None = None, *, scale: Tensor | float | None = None
    ) -> dict[str, Any]:
        y = x if mask is None else x * mask
        y = y if scale is None else y * scale
        return {"y": y, "none": None, "deep": (y + 1, [y > 0, {"sum": y.sum(-1)}]), "three": 3}


NESTED = Nested().eval()


@pytest.fixture(scope="module")
def full() -> Any:
    return quickly(NESTED, {"x": X, "mask": MASK, "scale": SCALE})


def same(found: Any, expected: Any) -> bool:
    found_leaves, found_spec = torch.utils._pytree.tree_flatten(found)
    leaves, spec = torch.utils._pytree.tree_flatten(expected)
    return found_spec == spec and all(
        (torch.allclose(a, b) and a.dtype == b.dtype)
        if isinstance(b, Tensor)
        else a == b and type(a) is type(b)
        for a, b in zip(found_leaves, leaves, strict=True)
    )


def test_outputs_keep_their_nesting_none_and_numbers(full):
    assert same(full(X, mask=MASK, scale=SCALE), NESTED(X, MASK, scale=SCALE))


def test_inputs_by_position_and_by_keyword_in_any_order(full):
    expected = NESTED(X, MASK, scale=SCALE)
    assert same(full(scale=SCALE, x=X, mask=MASK), expected)
    assert same(full(X, MASK, scale=2.0), expected)
    assert same(full(X, scale=SCALE, mask=MASK), expected)


def test_examples_by_position_calls_by_keyword():
    compiled = quickly(NESTED, (X, MASK))
    assert same(compiled(mask=MASK, x=X), NESTED(X, MASK))
    assert same(compiled(X, mask=MASK), NESTED(X, MASK))


def test_numpy_in_numpy_out_in_the_same_nesting(full):
    found = full(X.numpy(), mask=MASK.numpy(), scale=SCALE.numpy())
    assert isinstance(found["y"], np.ndarray)
    assert found["deep"][1][0].dtype == np.bool_
    assert (found["none"], found["three"]) == (None, 3)


def test_an_input_that_is_no_tensor_is_part_of_the_model():
    compiled = quickly(NESTED, {"x": X, "scale": 2.0})
    assert compiled.signature.inputs == ["x"]
    assert same(compiled(X, scale=2.0), NESTED(X, scale=2.0))
    assert same(compiled(X), NESTED(X, scale=2.0))
    with pytest.raises(InvalidInput, match=r"input 'scale': expected 2\.0, the value in example"):
        compiled(X, scale=3.0)
    with pytest.raises(InvalidInput, match=r"got Tensor: give a tensor there to keep it open"):
        compiled(X, scale=SCALE)


def test_none_in_the_examples_stays_none():
    compiled = quickly(NESTED, (X, None))
    assert same(compiled(X, None), NESTED(X))
    with pytest.raises(InvalidInput, match="input 'mask': expected None, the value in example"):
        compiled(X, MASK)


class Sides(nn.Module):
    """A list of inputs; outputs that are an input, one value twice, and a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(8.0))

    def forward(self, pair: list[Tensor]) -> tuple[Tensor, ...]:
        total = pair[0] + pair[1]
        return pair[0], total, total, total.t(), self.weight


def test_nested_inputs_and_outputs_that_are_one_value():
    model = Sides().eval()
    compiled = quickly(model, ([X, X + 1],))
    assert same(compiled([X, X + 1]), model([X, X + 1]))
    with pytest.raises(InvalidInput, match=r"expected the inputs of the example \(pair_0, pair_1"):
        compiled(X, X)


def test_one_tensor_given_for_two_inputs():
    class Minus(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x - 2 * y

    model, other = Minus().eval(), example(seed=1)
    assert close(quickly(model, (X, X))(X, other), model(X, other))


def test_huggingface_outputs(tmp_path):
    from transformers import BertConfig, BertModel

    config = BertConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        vocab_size=20, max_position_embeddings=8,
    )  # fmt: skip
    model = BertModel(config).eval()
    ids = torch.arange(6).reshape(1, 6)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    compiled = quickly(model, inputs)
    compiled.save(tmp_path / "bert")
    for found in (compiled(**inputs), compiled(ids, attention_mask=torch.ones_like(ids))):
        assert type(found) is type(model(**inputs))
        assert close(found.last_hidden_state, model(**inputs).last_hidden_state)
        assert found.hidden_states is None
