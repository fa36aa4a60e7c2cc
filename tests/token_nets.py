"""What the tests of push_tokens share: small nets with a rule for what is read, and extents."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from passel.graph import Graph
from passel.graph.ops import Attention as AttentionOp
from passel.graph.ops import Linear
from passel.models.mod import residual_update
from passel.models.transformer import MLP, Attention, Block, CausalAttention
from passel.passes import (
    Canonicalize,
    EliminateDeadCode,
    FoldConstants,
    PushTokens,
)

DIM, HEADS, HIDDEN, TOKENS, BATCH = 8, 2, 20, 12, 2
PREPARE = (FoldConstants(), Canonicalize())
PUSH = (*PREPARE, PushTokens(), FoldConstants(), Canonicalize(), EliminateDeadCode())
AT = len(PREPARE)
"""Where the report of push-tokens is among those of `PUSH`."""

Rule = Callable[..., Any]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def some_tokens(batch: int = BATCH, tokens: int = TOKENS) -> tuple[Tensor]:
    return (noise(batch, tokens, DIM),)


def block(causal: bool = False, fused: bool = True, **rest: Any) -> Block:
    kind = CausalAttention if causal else Attention
    return Block(DIM, kind(DIM, HEADS, fused=fused), MLP(DIM, HIDDEN), **rest)


class Net(nn.Module):
    """Blocks, a head, and a rule that says what is done with them."""

    def __init__(self, rule: Rule, *blocks: nn.Module, **modules: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rule = rule
        self.blocks = nn.ModuleList(blocks)
        self.norm, self.head = nn.LayerNorm(DIM), nn.Linear(DIM, 3)
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, *inputs: Tensor) -> Any:
        return self.rule(self, *inputs)

    def run(self, x: Tensor, *rest: Tensor) -> Tensor:
        """All blocks, then the norm."""
        for one in self.blocks:
            x = one(x, *rest)
        return self.norm(x)


class MaskedBlock(nn.Module):
    """A pre-norm block that attends where a mask allows."""

    def __init__(self) -> None:
        super().__init__()
        self.block = block()

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return x + residual_update(self.block, x, mask)


class CrossAttention(nn.Module):
    """Queries from one sequence, keys and values from another."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(DIM, DIM) for _ in range(4))

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        q, k, v = self.q(x), self.k(memory), self.v(memory)
        q, k, v = (t.unflatten(-1, (HEADS, -1)).transpose(1, 2) for t in (q, k, v))
        return self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class DecoderBlock(nn.Module):
    """Causal self-attention, attention to an encoder's result, MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.cross = block(causal=True), CrossAttention()
        self.norm = nn.LayerNorm(DIM)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        x = x + self.block.attention(self.block.norm1(x))
        x = x + self.cross(self.norm(x), memory)
        return x + self.block.mlp(self.block.norm2(x))


def hidden(graph: Graph, width: int = HIDDEN) -> list[tuple[Any, ...]]:
    """Leading extents of what the feed-forward's first Linear gives, of every block in order."""
    linears = [op for op in graph.walk(Linear) if op.output.shape[-1] == width]
    return [op.output.shape[:-1] for op in linears]


def attended(graph: Graph) -> list[tuple[Any, Any, bool]]:
    """Queries, keys, and whether it is causal, of every attention in order."""
    return [
        (op.output.shape[2], op.require(1).shape[2], op.causal) for op in graph.walk(AttentionOp)
    ]


def masks(graph: Graph) -> list[Sequence[Any] | None]:
    """Shape of the mask of every attention, None where there is none."""
    found = [op.operand(3) for op in graph.walk(AttentionOp)]
    return [None if mask is None else mask.shape for mask in found]
