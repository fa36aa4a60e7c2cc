"""Evaluate every expression of parameters alone, once.

Rewrite:
    y = f(W₁, W₂, …)   ->   y = constant

Why: at inference a weight is a number, and so is what is computed from weights: weight
standardisation, reparametrisations, adapters added at run time (W + B·A), gates, template mixtures.
Exactness: reassociates; the original ops are run, in float64 where they allow, and rounded once.
Legality: every operand is a constant and the op is neither random nor stateful. A result larger
than its operands together by more than 64 KiB (an expanded table) stays computed, unless a weight
needs it.
Effect: removes the work from every call; a merged adapter also drops its own matrices.
References: Aho et al., Compilers, 2nd ed., §8.5.4 (constant folding).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..graph import Graph, Op, Value
from ..graph.ops import Conv, Linear, MatMul
from .base import Exactness, Pass, Refusal

SLACK_BYTES = 1 << 16


@dataclass(frozen=True)
class ConstantSite:
    """An op whose operands are all constants."""

    op: Op

    @property
    def anchor(self) -> Op:
        return self.op

    @property
    def touched(self) -> tuple[Op, ...]:
        return (self.op,)


@dataclass(frozen=True)
class FoldConstants(Pass[ConstantSite]):
    """Replace ops on constants by their results; see the module docstring."""

    name: ClassVar[str] = "fold-constants"
    exactness: ClassVar[Exactness] = Exactness.REASSOCIATES

    def match(self, graph: Graph) -> Iterator[ConstantSite]:
        for op in graph.ops:
            operands = [value for value in op.inputs if value is not None]
            if operands and all(value.constant is not None for value in operands):
                yield ConstantSite(op)

    def refuse(self, graph: Graph, site: ConstantSite) -> Refusal | None:
        op = site.op
        if op.effectful:
            return Refusal("the op is random or has an effect", op.name, op.kind)
        if any(graph.is_output(output) for output in op.outputs):
            return Refusal("the value is a graph output", op.name, op.kind)
        grown = sum(map(_bytes, op.outputs)) - sum(_bytes(v) for v in op.inputs if v is not None)
        if grown > SLACK_BYTES and not _makes_weight(op):
            return Refusal("the result is larger than what it is made from", op.name, op.kind)
        return None

    def rewrite(self, graph: Graph, site: ConstantSite) -> None:
        op = site.op
        arrays = [None if value is None else value.array() for value in op.inputs]
        results = graph.binding.evaluate(op, arrays)
        for output, result in zip(op.outputs, results, strict=True):
            dtype = result.dtype if output.dtype is None else output.dtype
            exact = np.asarray(result)
            constant = graph.constant(exact.astype(dtype, copy=False), output.name)
            graph.replace(output, constant)
        graph.prune(op)


def _bytes(value: Value) -> int:
    shape, dtype = value.shape, value.dtype
    if shape is None or dtype is None or any(isinstance(dim, str) for dim in shape):
        return 0
    return int(np.prod(np.array(shape, dtype=np.int64))) * dtype.itemsize


def _makes_weight(op: Op) -> bool:
    """Whether a Linear, Conv or matrix product reads what is computed here, directly or later."""
    worklist, seen = list(op.outputs), set(op.outputs)
    while worklist:
        for reader in worklist.pop().readers:
            if isinstance(reader, Linear | Conv | MatMul):
                return True
            fresh = [output for output in reader.outputs if output not in seen]
            if all(v is None or v.constant is not None or v in seen for v in reader.inputs):
                seen.update(fresh)
                worklist += fresh
    return False
