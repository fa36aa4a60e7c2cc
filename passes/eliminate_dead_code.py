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

from ..graph import Graph, Op
from .base import Exactness, Pass


@dataclass(frozen=True)
class DeadSite:
    """An op that nothing reads."""

    op: Op

    @property
    def anchor(self) -> Op:
        return self.op

    @property
    def touched(self) -> tuple[Op, ...]:
        return (self.op,)


@dataclass(frozen=True)
class EliminateDeadCode(Pass[DeadSite]):
    """Erase dead ops, and then what only they kept alive."""

    name: ClassVar[str] = "eliminate-dead-code"
    exactness: ClassVar[Exactness] = Exactness.BITWISE

    def match(self, graph: Graph) -> Iterator[DeadSite]:
        for op in graph.ops:
            unread = not any(out.uses or graph.is_output(out) for out in op.outputs)
            if unread and not op.effectful:
                yield DeadSite(op)

    def rewrite(self, graph: Graph, site: DeadSite) -> None:
        graph.prune(site.op)
