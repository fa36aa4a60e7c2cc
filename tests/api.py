"""What tests of the public functions share: tiny models, quick calls, a pass that is wrong."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn

import passel
from passel.graph import Graph, Op
from passel.graph.ops import Linear
from passel.passes.base import Pass

FLOAT = onnx.TensorProto.FLOAT


class Net(nn.Module):
    """Linear, RMS norm, Linear."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first, self.norm, self.last = nn.Linear(8, 8), nn.RMSNorm(8), nn.Linear(8, 4)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(torch.relu(self.first(x))))


def net() -> Net:
    return Net().eval()


def example(batch: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(batch, 8, generator=torch.Generator().manual_seed(seed))


def quickly(model: Any, inputs: Any = None, **options: Any) -> "passel.CompiledModel":
    """`passel.compile` on one thread, without measuring."""
    return passel.compile(model, inputs, **{"threads": 1, "measure": False, **options})


def close(found: Tensor, expected: Tensor, bound: float = 1e-5) -> bool:
    """Same type and shape, and values within a bound relative to the largest."""
    same = found.dtype == expected.dtype and found.shape == expected.shape
    if not same or not expected.is_floating_point():
        return same and torch.equal(found, expected)
    peak = expected.abs().max().clamp(min=1e-30)
    return bool((found - expected).abs().max() <= bound * peak)


def onnx_model(
    nodes: Sequence[onnx.NodeProto],
    inputs: dict[str, Sequence[Any] | None],
    outputs: dict[str, Sequence[Any] | None],
    weights: dict[str, np.ndarray] | None = None,
    opset: int = 20,
    **more: Any,
) -> onnx.ModelProto:
    """A model of float tensors."""
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, **{"opset_imports": opsets, "ir_version": 9, **more})


def files(folder: Path) -> dict[str, bytes]:
    """Everything in a folder, to compare with later."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
    }


@dataclass(frozen=True)
class Weighted:
    """A Linear."""

    op: Linear

    @property
    def anchor(self) -> Op:
        return self.op

    @property
    def touched(self) -> tuple[Op, ...]:
        return (self.op,)


@dataclass(frozen=True)
class Spoil(Pass[Weighted]):
    """Wrong on purpose: makes the weights of every Linear but the first larger."""

    name: ClassVar[str] = "spoil"
    factor: float = 1.5

    def match(self, graph: Graph) -> Iterator[Weighted]:
        for op in list(graph.walk(Linear))[1:]:
            if op.weight.name.find("spoiled") < 0:
                yield Weighted(op)

    def rewrite(self, graph: Graph, site: Weighted) -> None:
        array = (site.op.weight.array() * self.factor).astype(site.op.weight.dtype)
        graph.set_input(site.op, 1, graph.constant(array, "spoiled"))
