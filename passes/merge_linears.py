"""Compute Linears that read one value as a single, wider Linear.

Rewrite:
    q = Linear(x; W₁, b₁)                 q, k, v = split(Linear(x; [W₁; W₂; W₃], [b₁; b₂; b₃]))
    k = Linear(x; W₂, b₂)            ->
    v = Linear(x; W₃, b₃)

Why: the rows of a matrix product do not know of each other.
Exactness: reassociates (a wider product may be blocked differently).
Legality: the weights are constants that nothing else reads, of one type; a missing bias is zero.
Effect: x is read and packed once, and one product of width 3d fills the cores better than three of
width d; the split costs one copy of the result where the runtime cannot view it.
References: Shoeybi et al. 2019 (fused QKV projection), arXiv:1909.08053, §3.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..graph import Graph, Op, Value
from ..graph.ops import Linear, Split
from .base import Exactness, Pass, Refusal
from .edits import weight_refusal
from .weights import result_width


@dataclass(frozen=True)
class Siblings:
    """Linears that read one value."""

    linears: tuple[Linear, ...]

    @property
    def anchor(self) -> Op:
        return self.linears[0]

    @property
    def touched(self) -> tuple[Op, ...]:
        return self.linears


@dataclass(frozen=True)
class MergeLinears(Pass[Siblings]):
    """Merge sibling Linears; see the module docstring."""

    name: ClassVar[str] = "merge-linears"
    exactness: ClassVar[Exactness] = Exactness.REASSOCIATES

    def match(self, graph: Graph) -> Iterator[Siblings]:
        for first in graph.walk(Linear):
            readers = [op for op in first.x.readers if isinstance(op, Linear) and op.x is first.x]
            if len(readers) > 1 and readers[0] is first:
                yield Siblings(tuple(readers))

    def refuse(self, graph: Graph, site: Siblings) -> Refusal | None:
        for linear in site.linears:
            refusal = weight_refusal(linear)
            if refusal is not None:
                return refusal
            if linear.output in graph.pinned:
                return Refusal("a control-flow body reads the value", linear.name)
            if linear.output.shape is None:
                return Refusal("a shape is unknown", linear.name)
        types = {part.dtype for linear in site.linears for part in parts(linear)}
        if len(types) > 1:
            return Refusal("the weights have different types", site.anchor.name)
        return None

    def rewrite(self, graph: Graph, site: Siblings) -> None:
        first = site.linears[0]
        weight = graph.constant(joined_weights(site.linears), f"{first.name}_merged_weight")
        bias = graph.constant(joined_biases(site.linears), f"{first.name}_merged_bias")
        operands = [first.x, weight, bias] if bias.array().any() else [first.x, weight]
        sizes = tuple(result_width(linear) for linear in site.linears)
        assert first.output.shape is not None
        lead, dtype = first.output.shape[:-1], first.output.dtype
        merged = Linear(inputs=list(operands), layout="io", scope=first.scope)
        name, result = f"{first.name}_merged", ((*lead, sum(sizes)), dtype)
        graph.add_behind(first.x, merged, result, name=name)
        split = Split(inputs=[merged.output], axis=len(lead), sizes=sizes, scope=first.scope)
        graph.add(split, *(((*lead, size), dtype) for size in sizes), after=merged)
        for linear, piece in zip(site.linears, split.outputs, strict=True):
            graph.replace(linear.output, piece)
            graph.erase(linear)


def parts(linear: Linear) -> tuple[Value, ...]:
    """The constants of a Linear."""
    return (linear.weight,) if linear.bias is None else (linear.weight, linear.bias)


def joined_weights(linears: "tuple[Linear, ...]") -> np.ndarray:
    """The weights side by side, [I, ΣO]."""
    stored = [(linear.weight.array(), linear.layout) for linear in linears]
    return np.concatenate([w if layout == "io" else w.T for w, layout in stored], axis=1)


def joined_biases(linears: "tuple[Linear, ...]") -> np.ndarray:
    """The biases end to end, [ΣO]; zeros where there is none."""
    parts = []
    for linear in linears:
        missing = np.zeros(result_width(linear), dtype=linear.weight.dtype)
        parts.append(missing if linear.bias is None else linear.bias.array())
    return np.concatenate(parts)
