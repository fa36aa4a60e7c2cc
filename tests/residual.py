"""What the tests of the residual-stream passes share: programs in both views, and comparisons."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from passel.capture import export_program, to_onnx
from passel.graph import Graph, fx, onnx
from passel.graph.fx_tensor import to_numpy
from passel.graph.ops import Norm
from passel.passes.driver import run_passes
from passel.passes.registry import resolve
from passel.passes.report import PassReport

VIEWS = ("fx", "onnx")
WIDTH, VOCABULARY = 8, 11


def lifted(
    model: nn.Module,
    inputs: Sequence[Tensor],
    view: str = "fx",
    opset: int = 20,
    dynamic: Any = None,
) -> Graph:
    """The graph of a module, through torch.export or through torch.onnx."""
    program = export_program(model.eval(), (tuple(inputs), {}), dynamic, type(model).__name__)
    return fx.lift(program) if view == "fx" else onnx.lift(to_onnx(program, opset))


def apply(graph: Graph, *specs: str) -> list[PassReport]:
    """Run passes by their specs."""
    return run_passes(graph, resolve(list(specs)))


def outputs(graph: Graph, inputs: Sequence[Tensor]) -> list[np.ndarray]:
    return graph.run([to_numpy(tensor) for tensor in inputs])


def expected(model: nn.Module, inputs: Sequence[Tensor]) -> list[np.ndarray]:
    with torch.no_grad():
        result = model(*inputs)
    results = result if isinstance(result, tuple) else (result,)
    return [to_numpy(tensor) for tensor in results]


def error(got: Sequence[np.ndarray], want: Sequence[np.ndarray]) -> float:
    """max |Δ| / max |y| over all outputs; nan counts as infinite."""
    worst = 0.0
    for mine, theirs in zip(got, want, strict=True):
        assert mine.shape == theirs.shape
        wide, target = mine.astype(np.float64), theirs.astype(np.float64)
        relative = float(np.abs(wide - target).max() / np.abs(target).max())
        worst = max(worst, relative if np.isfinite(relative) else np.inf)
    return worst


def norms(graph: Graph) -> dict[str, int]:
    """How many norms of each kind the graph has; kinds that it lacks are left out."""
    return dict(Counter(norm.norm for norm in graph.walk(Norm)))


def double(model: nn.Module, inputs: Sequence[Tensor]) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The module and its inputs in float64."""
    wide = tuple(tensor.double() if tensor.is_floating_point() else tensor for tensor in inputs)
    return model.double(), wide


def fingerprint(graph: Graph) -> list[tuple[Any, ...]]:
    """Everything that a pass could change: ops, attributes, operands, bytes of constants."""
    lines: list[tuple[Any, ...]] = []
    for op in graph.ops:
        hidden = ("inputs", "outputs", "prev", "next", "source", "lifted_inputs")
        attributes = sorted((k, str(v)) for k, v in vars(op).items() if k not in hidden)
        operands = [
            None if v is None else (v.name, v.shape, _bytes(v.constant and v.array()))
            for v in op.inputs
        ]
        lines.append((op.kind, attributes, operands, [(v.name, v.shape) for v in op.outputs]))
    return [*lines, tuple(value.name for value in graph.outputs)]


def _bytes(array: np.ndarray | None) -> bytes | None:
    return None if array is None else array.tobytes()


class Block(nn.Module):
    """A pre-norm decoder on embedded tokens, with what a test wants to be different.

    Attributes:
        layers: pairs of a norm and a branch.
        branch: from the norm's result to what is added; a Linear, ReLU, Linear by default.
        tied: the head shares the embedding's table.
        table: how the tokens get their vectors; an embedding by default.
    """

    def __init__(
        self,
        layers: int = 2,
        branch: Callable[[], nn.Module] | None = None,
        norm: Callable[[], nn.Module] | None = None,
        tied: bool = False,
        width: int = WIDTH,
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(VOCABULARY, width)
        make = branch or (lambda: mlp(width))
        make_norm = norm or (lambda: nn.LayerNorm(width))
        self.norms = nn.ModuleList(make_norm() for _ in range(layers + 1))
        self.branches = nn.ModuleList(make() for _ in range(layers))
        self.head = nn.Linear(width, VOCABULARY, bias=False)
        for module in self.norms:
            for parameter in module.parameters():
                nn.init.normal_(parameter, 1.0, 0.3)
        if tied:
            self.head.weight = self.table.weight

    def embed(self, ids: Tensor) -> Tensor:
        return self.table(ids)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for norm, branch in zip(self.norms, self.branches, strict=False):
            x = x + branch(norm(x))
        return self.finish(x)

    def finish(self, x: Tensor) -> Tensor:
        return self.head(self.norms[-1](x))


def mlp(width: int = WIDTH) -> nn.Module:
    return nn.Sequential(nn.Linear(width, 12), nn.ReLU(), nn.Linear(12, width))


class Causal(nn.Module):
    """Mixes the tokens, whatever their number."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).flatten(2))


def some_ids(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(VOCABULARY, shape or (2, 5), generator=generator)
