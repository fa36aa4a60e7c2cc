"""Evaluate every expression of parameters alone, once.

Rewrite:
    y = f(W₁, W₂, …)   ->   y = constant

Why: at inference a weight is a number, and so is what is computed from weights: weight
standardisation, reparametrisations, adapters added at run time (W + B·A), gates, template mixtures.
Exactness: reassociates; the original ops are run. What ends in a weight is computed in float64
where the ops allow, and rounded once, however many ops made it. Other tables (rotary angles, masks)
are computed in the types that the program names, as it would at run time.
Legality: every operand is a constant and the op is neither random nor stateful. A result larger
than the operands that it sets free by more than 64 KiB (an expanded table) stays computed, unless a
weight needs it; an op that unpacks a quantized weight always does.
Effect: removes the work from every call; a merged adapter also drops its own matrices.
References: Aho et al., Compilers, 2nd ed., §8.5.4 (constant folding).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import ClassVar

import numpy as np

from ..graph import Graph, Op, Value, bits_of
from ..graph.ops import Conv, Dequantize, Linear, MatMul, Transpose
from .base import Exactness, OpSite, Pass, Refusal

SLACK_BYTES = 1 << 16
QUANTIZED = ("int8", "uint8", "int4", "uint4", "int2", "uint2")
"""Element types that hold a weight in few bits, besides those named float8 and float4."""


@dataclass(frozen=True)
class ConstantSite(OpSite):
    """An op whose operands are all constants.

    Attributes:
        op: the op.
        graph: what can evaluate it.
        wide: by constant, its value before rounding, while an op of this walk will ask for it.
        derived: the values that are computed from constants alone.
        weights: those of them that end in a weight.
    """

    graph: Graph
    wide: dict[Value, np.ndarray]
    derived: set[Value]
    weights: set[Value]

    @property
    def makes_weight(self) -> bool:
        """Whether the result ends in a weight: a product or convolution reads it, then or later."""
        return any(output in self.weights for output in self.op.outputs)

    @cached_property
    def results(self) -> list[np.ndarray] | Exception:
        """What the op makes, or why it cannot be run here; computed once, when asked for."""
        arrays = [None if value is None else self.array(value) for value in self.op.inputs]
        try:
            return self.graph.binding.evaluate(self.op, arrays, wide=self.makes_weight)
        except Exception as error:  # an IR has operators that its reference lacks or gets wrong
            return error

    def array(self, value: Value) -> np.ndarray:
        """A constant operand, as exactly as it is known."""
        return self.wide[value] if value in self.wide else value.array()


@dataclass(frozen=True)
class FoldConstants(Pass[ConstantSite]):
    """Replace ops on constants by their results; see the module docstring."""

    name: ClassVar[str] = "fold-constants"
    exactness: ClassVar[Exactness] = Exactness.REASSOCIATES

    def match(self, graph: Graph) -> Iterator[ConstantSite]:
        wide: dict[Value, np.ndarray] = {}
        derived = derived_values(graph)
        weights = weight_values(graph, derived)
        for op in graph.ops:
            if all(value is None or value.constant is not None for value in op.inputs):
                yield ConstantSite(op, graph, wide, derived, weights)

    def refuse(self, graph: Graph, site: ConstantSite) -> Refusal | None:
        op = site.op
        if op.effectful:
            return Refusal("the op is random or has an effect", op.name, op.kind)
        if any(graph.is_output(output) for output in op.outputs):
            return Refusal("the value is a graph output", op.name, op.kind)
        if _unpacks(op):
            return Refusal("the op unpacks a quantized weight", op.name, op.kind)
        if _is_shared_transpose(op):
            return Refusal("a product can read the shared weight as it is", op.name, op.kind)
        freed = {value for value in op.inputs if value is not None and value.readers == [op]}
        grown = sum(map(_bytes, op.outputs)) - sum(map(_bytes, freed))
        if grown > SLACK_BYTES and not site.makes_weight:
            return Refusal("the result is larger than what it is made from", op.name, op.kind)
        if isinstance(site.results, Exception):
            return Refusal("the op cannot be evaluated", op.name, f"{op.kind}: {site.results}")
        return None

    def rewrite(self, graph: Graph, site: ConstantSite) -> None:
        op, results, operands = site.op, site.results, list(site.op.inputs)
        assert not isinstance(results, Exception)
        for output, result in zip(op.outputs, results, strict=True):
            dtype = result.dtype if output.dtype is None else output.dtype
            needed = any(site.derived.intersection(reader.outputs) for reader in output.readers)
            exact = np.asarray(result)
            constant = graph.constant(exact.astype(dtype, copy=False), output.name)
            graph.replace(output, constant)
            if needed and site.makes_weight and exact.dtype != dtype:
                site.wide[constant] = exact
        graph.prune(op)
        for value in operands:
            if value is not None and not value.uses:
                site.wide.pop(value, None)


def derived_values(graph: Graph) -> set[Value]:
    """The values that are computed from constants alone, by ops that may be folded."""
    found: set[Value] = set()
    for op in graph.ops:
        if op.effectful or not op.outputs or _unpacks(op):
            continue
        if all(v is None or v.constant is not None or v in found for v in op.inputs):
            found.update(op.outputs)
    return found


def weight_values(graph: Graph, derived: set[Value]) -> set[Value]:
    """The derived values that a Linear, Conv or matrix product reads, directly or later."""
    found: set[Value] = set()
    for op in reversed(list(graph.ops)):
        for output in op.outputs:
            if output in derived and any(
                _ends_in_weight(r, derived, found) for r in output.readers
            ):
                found.add(output)
    return found


def _ends_in_weight(reader: Op, derived: set[Value], found: set[Value]) -> bool:
    if any(output in derived for output in reader.outputs):
        return any(output in found for output in reader.outputs)
    return isinstance(reader, Linear | Conv | MatMul)


def _is_shared_transpose(op: Op) -> bool:
    """Whether products alone read the transpose of a weight that is read elsewhere (a tied table).

    A copy would double it; `canonicalize` makes each product a Linear of the other layout.
    """
    if not isinstance(op, Transpose) or op.perm != (1, 0) or op.require(0).readers == [op]:
        return False
    return all(isinstance(op, Linear | MatMul) and index == 1 for op, index in op.output.uses)


def _unpacks(op: Op) -> bool:
    """Whether a float result spells out an operand of few bits, which is what saves the memory."""
    if isinstance(op, Dequantize):
        return True
    made = op.output
    return made.is_float and any(
        value is not None and value.shape == made.shape and _is_unpacked(value.dtype, made.dtype)
        for value in op.inputs
    )


def _is_unpacked(before: np.dtype | None, after: np.dtype | None) -> bool:
    if before is None or after is None or not _is_packed(before):
        return False
    return bits_of(before) < bits_of(after)


def _is_packed(dtype: np.dtype) -> bool:
    return dtype.name in QUANTIZED or dtype.name.startswith(("float8", "float4"))


def _bytes(value: Value) -> int:
    shape, dtype = value.shape, value.dtype
    if shape is None or dtype is None:
        return 0
    return -(-prod(dim for dim in shape if isinstance(dim, int)) * bits_of(dtype) // 8)
