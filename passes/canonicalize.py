"""Rewrite every spelling of an operation to the one that the other passes know.

Rewrite:
    MatMul(x, B) + b          ->   Linear(x; B, b)
    (x − mean)/√(var + ε)     ->   LayerNorm(x),   x/√(mean x² + ε) -> RMSNorm(x)
    x·½·(1 + erf(x/√2))       ->   gelu(x),   also its tanh form and SiLU
    transpose∘transpose, reshape∘reshape, x·1, x + 0, dropout, casts to the same type   ->   less

Why: one identity a rule; each is in the rule's own docstring under `canonical/`.
Exactness: reassociates (a fused norm or activation may round differently).
Legality: local to the ops matched; a result that something else reads is kept alive, and one that a
control-flow body reads stays as it is.
Effect: fewer ops, and single ops where a runtime has single kernels.
References: Ba et al. 2016, arXiv:1607.06450; Zhang & Sennrich 2019, arXiv:1910.07467; Hendrycks &
Gimpel 2016, arXiv:1606.08415.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from ..graph import Graph, Op
from .base import Exactness, OpSite, Pass, Refusal
from .canonical import RULES, Rule
from .canonical.rule import Match


@dataclass(frozen=True)
class RuleSite(OpSite):
    """An op that a rule starts from."""

    rule: str
    apply: Match


@dataclass(frozen=True)
class Canonicalize(Pass[RuleSite]):
    """Apply the rules of `canonical/` until none matches."""

    name: ClassVar[str] = "canonicalize"
    exactness: ClassVar[Exactness] = Exactness.REASSOCIATES

    def match(self, graph: Graph) -> Iterator[RuleSite]:
        by_kind: dict[type[Op], list[Rule]] = {}
        for op in graph.ops:
            kind = type(op)
            if kind not in by_kind:
                by_kind[kind] = [rule for rule in RULES if issubclass(kind, rule.kinds)]
            for rule in by_kind[kind]:
                edit = None if op.erased else rule.match(graph, op)
                if edit is not None:
                    yield RuleSite(op, rule.name, edit)

    def refuse(self, graph: Graph, site: RuleSite) -> Refusal | None:
        if site.op.output in graph.pinned:
            return Refusal("a control-flow body reads the value", site.op.name, site.rule)
        return None

    def rewrite(self, graph: Graph, site: RuleSite) -> None:
        site.apply(graph)
