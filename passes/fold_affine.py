"""Fold every per-channel affine into its neighbours: Unified Norm, BatchNorm, LayerScale, gates.

Rewrite:
    y = a⊙x + c;  z = Linear(y; W, b)   ->   z = Linear(x; W·diag(a), b + W·c)
    x = Linear(u; W, b);  y = a⊙x + c   ->   y = Linear(u; diag(a)·W, a⊙b + c)

Why: a map that varies along one channel axis only is diagonal in that axis, and a Linear or Conv
next to it is free to hold it. It is found by dataflow (constants multiplied, divided, added or
subtracted along one axis, and inference-mode BatchNorm) and followed through ops that only move
elements. On a residual stream a⊙x + c + f = a⊙(x + (f + c)/a): the branch takes the inverse, the
scale goes on, and the next affine takes it in; so post-norm Unified Norm telescopes away entirely.
Exactness: reassociates; computed in float64 and rounded once per weight.
Legality: all readers, or the only producer, can absorb it; no shift crosses the zero padding of a
convolution; no scale is inverted outside [1e-3, 1e3]; no weight has another reader.
Effect: saves one or two pointwise ops per site, and the transposes around them. Falling back, a
scale is folded and its shift kept, which saves one of two.
References: Yang et al. 2022 (Unified Normalization), arXiv:2208.01313; Jacob et al. 2018,
arXiv:1712.05877, §3.2 (batch-norm folding); Shen et al. 2020 (PowerNorm), arXiv:2003.07845.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from ..graph import Graph, Op, Value
from .absorb import Planner, bypass
from .affine import Diagonal, as_affine
from .base import Exactness, Pass, Refusal
from .edits import Edit, Plan, ill_conditioned, write_affine


@dataclass(frozen=True)
class AffineSite:
    """One affine map, and how its neighbours can absorb it.

    Attributes:
        op: the op that computes the map.
        x: its operand.
        plan: edits that make the map redundant, or why there are none.
        rest: what of the map stays (a shift that could not be folded), or None.
    """

    op: Op
    x: Value
    plan: Plan
    rest: Diagonal | None = None

    @property
    def anchor(self) -> Op:
        return self.op

    @property
    def touched(self) -> tuple[Op, ...]:
        edits = [] if isinstance(self.plan, Refusal) else self.plan
        return (self.op, *dict.fromkeys(edit.op for edit in edits))


@dataclass(frozen=True)
class FoldAffine(Pass[AffineSite]):
    """Fold per-channel affines into neighbouring weights; see the module docstring."""

    name: ClassVar[str] = "fold-affine"
    exactness: ClassVar[Exactness] = Exactness.REASSOCIATES

    def match(self, graph: Graph) -> Iterator[AffineSite]:
        for op in graph.ops:
            found = as_affine(op)
            if found is not None:
                yield planned(graph, op, *found)

    def refuse(self, graph: Graph, site: AffineSite) -> Refusal | None:
        return site.plan if isinstance(site.plan, Refusal) else None

    def rewrite(self, graph: Graph, site: AffineSite) -> None:
        edits: list[Edit] = [] if isinstance(site.plan, Refusal) else site.plan
        for edit in edits:
            edit.apply(graph)
        if site.rest is None:
            bypass(graph, site.op, site.x)
        else:
            write_affine(graph, site.op, site.x, site.rest)


def planned(graph: Graph, op: Op, x: Value, diagonal: Diagonal) -> AffineSite:
    """The cheapest way to absorb the map: backwards, forwards, into a gain, or in part."""
    if op.output in graph.pinned:
        return AffineSite(op, x, Refusal("a control-flow body reads the value", op.name))
    if graph.is_output(op.output) and (x.producer is None or graph.is_output(x)):
        return AffineSite(op, x, Refusal("the value is a graph output", op.name))
    if diagonal.cost == 0:
        return AffineSite(op, x, [])
    backwards = Planner(graph).pull(x, diagonal, op)
    if not isinstance(backwards, Refusal):
        return AffineSite(op, x, backwards)
    forwards = Planner(graph).push(op.output, diagonal)
    if not isinstance(forwards, Refusal):
        return AffineSite(op, x, forwards)
    gain = Planner(graph, gains=True).pull(x, diagonal, op)
    if not isinstance(gain, Refusal):
        return AffineSite(op, x, gain)
    if diagonal.cost == 2 and not ill_conditioned(diagonal.scale):
        scale_only = Planner(graph).push(op.output, diagonal.without_shift())
        if not isinstance(scale_only, Refusal):
            shift = diagonal.shift / diagonal.scale
            return AffineSite(op, x, scale_only, Diagonal.of(diagonal.rank, None, shift))
    both = f"forwards: {forwards}; backwards: {gain}"
    return AffineSite(op, x, Refusal("no neighbour can absorb the affine", op.name, both))
