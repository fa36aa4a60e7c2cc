"""Keys of models as they are captured, through both views."""

from collections.abc import Callable
from typing import Any

import onnx
import torch
from torch import nn

from passel.backends.tuning.graph_key import graph_key


class Block(nn.Module):
    """A pre-norm block with an operator (cumsum) that the vocabulary has no word for."""

    def __init__(self, width: int = 8, seed: int = 0, dim: int = 1, eps: float = 1e-5) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.norm = nn.LayerNorm(width, eps=eps)
        self.up, self.down = nn.Linear(width, 16), nn.Linear(16, width)
        self.dim = dim

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.nn.functional.gelu(self.up(self.norm(x)))
        return x + self.down(hidden).cumsum(self.dim)


def key_of(view: Any, module: nn.Module, *shape: int, **how: Any) -> str:
    graph, _ = view.lift(module, [torch.randn(*shape)], **how)
    return graph_key(graph)


def test_a_model_captured_twice(view: Any) -> None:
    first = key_of(view, Block(), 2, 5, 8)
    assert first == key_of(view, Block(seed=1), 2, 5, 8)
    assert first != key_of(view, Block(), 3, 5, 8)
    assert first != key_of(view, Block(dim=2), 2, 5, 8)  # a literal of an opaque op
    assert first != key_of(view, Block(eps=1e-6), 2, 5, 8)
    batch, rows = torch.export.Dim("batch"), torch.export.Dim("rows")
    dynamic = key_of(view, Block(), 2, 5, 8, dynamic_shapes=({0: batch},))
    assert dynamic != first
    assert dynamic == key_of(view, Block(seed=2), 2, 5, 8, dynamic_shapes=({0: rows},))
    assert dynamic != key_of(view, Block(), 2, 5, 8, dynamic_shapes=({0: batch, 1: rows},))


BRANCH = """<ir_version: 10, opset_import: ["" : 18]>
agraph (float[2, 3] a, bool c) => (float[2, 3] y) {
    y = If (c) <
        then_branch = yes () => (float[2, 3] p) { p = %s (a) },
        else_branch = no () => (float[2, 3] q) { q = Identity (a) }
    >
}"""


def test_the_body_of_a_branch_counts() -> None:
    from onnx_ir import from_proto

    from passel.graph import onnx as onnx_view

    def key(text: str) -> str:
        return graph_key(onnx_view.lift(from_proto(onnx.parser.parse_model(text))))

    first = key(BRANCH % "Exp")
    assert first == key((BRANCH % "Exp").replace("(float[2, 3] p) { p =", "(float[2, 3] z) { z ="))
    assert first != key(BRANCH % "Log")
    assert first != key((BRANCH % "Exp").replace("Exp (a)", "Cast <to = 1> (a)"))


def test_the_body_of_a_torch_branch_counts(fx_view: Any) -> None:
    class Branch(nn.Module):
        def __init__(self, fn: Callable[[torch.Tensor], torch.Tensor]) -> None:
            super().__init__()
            self.fn = fn

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cond(x.sum() > 0, lambda x: self.fn(x), lambda x: x.clone(), (x,))

    keys = [key_of(fx_view, Branch(fn), 2, 3) for fn in (torch.exp, torch.exp, torch.log)]
    assert keys[0] == keys[1] != keys[2]
