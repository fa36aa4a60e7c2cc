"""Erase ops whose results nobody reads.

Rewrite:
    y = f(x), y unread   ->   (nothing)

Why: a value that reaches no output changes no output.
Exactness: bitwise.
Legality: the op has no effect besides its results (no assertion, no random state).
Effect: none at run time on runtimes that do it themselves; smaller files, clearer reports.
References: Aho et al., Compilers, 2nd ed., §8.5.3.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from ..graph import Graph
from .base import Exactness, OpSite, Pass


@dataclass(frozen=True)
class EliminateDeadCode(Pass[OpSite]):
    """Erase dead ops, and then what only they kept alive."""

    name: ClassVar[str] = "eliminate-dead-code"
    exactness: ClassVar[Exactness] = Exactness.BITWISE

    def match(self, graph: Graph) -> Iterator[OpSite]:
        for op in graph.ops:
            unread = not any(out.uses or graph.is_output(out) for out in op.outputs)
            if unread and not op.effectful:
                yield OpSite(op)

    def rewrite(self, graph: Graph, site: OpSite) -> None:
        graph.prune(site.op)
