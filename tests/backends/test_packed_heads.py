"""Attention that splits its heads itself: same bits, fewer transposes, and what is left alone."""

from collections import Counter

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

from passel.backends.onnxruntime import Session
from passel.backends.packed_heads import packed_heads
from passel.capture import export_program, to_onnx


class Heads(nn.Module):
    """Attention over heads split by a reshape and a transpose; `merge` also merges them again."""

    def __init__(self, masked: bool = False, merge: bool = True) -> None:
        super().__init__()
        self.qkv = nn.ModuleList(nn.Linear(24, 24) for _ in range(3))
        self.masked, self.merge = masked, merge

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, _ = x.shape
        q, k, v = (f(x).reshape(batch, tokens, 3, 8).transpose(1, 2) for f in self.qkv)
        mask = torch.ones(tokens, tokens).tril().log() if self.masked else None
        y = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return y.transpose(1, 2).reshape(batch, tokens, 24) if self.merge else y


def exported(model: nn.Module, dynamic: bool = False) -> ir.Model:
    shapes = {"x": {0: "batch"}} if dynamic else None
    program = export_program(model.eval(), ((torch.randn(2, 5, 24),), {}), shapes, "heads")
    return to_onnx(program)


def kinds(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dynamic", [False, True])
def test_same_bits_without_transposes(masked: bool, dynamic: bool) -> None:
    model = exported(Heads(masked), dynamic)
    packed = packed_heads(model)
    assert kinds(model)["Transpose"] == 4
    assert kinds(packed)["Transpose"] == 0
    x = np.random.default_rng(0).normal(size=(2, 5, 24)).astype(np.float32)
    before, after = (Session(m).run_arrays([x])[0] for m in (model, packed))
    np.testing.assert_array_equal(before, after)


def test_the_given_model_stays_as_it_is() -> None:
    model = exported(Heads())
    before = kinds(model)
    packed_heads(model)
    assert kinds(model) == before


def test_heads_that_are_not_merged_stay_split() -> None:
    model = exported(Heads(merge=False))
    assert kinds(packed_heads(model)) == kinds(model)
