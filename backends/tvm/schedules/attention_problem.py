"""What an attention kernel computes: its extents, and how it reads and writes each element."""

from dataclasses import dataclass
from typing import Any

from .expressions import simplified, substituted, with_loads
from .loops import as_index, index, store
from .stages import Stage

Expr = Any
Stmt = Any


@dataclass(frozen=True)
class Problem:
    """One attention: extents, and how each element is read and written.

    Attributes:
        batch, groups, shared, queries, keys, width, depth: extents; `shared` query heads to a key
            head.
        stages: by the name of what they make.
        causal: whether keys after the query are masked.
    """

    batch: Expr
    groups: int
    shared: int
    queries: Expr
    keys: Expr
    width: int
    depth: int
    stages: dict[str, Stage]
    causal: bool

    @classmethod
    def of(cls, stages: list[Stage], groups: int) -> "Problem":
        """From the stages that `emit/attention` gives the kernel."""
        named = dict(zip(("scores", "masked"), stages[:2], strict=True))
        named |= {"mixed": stages[-2], "result": stages[-1]}
        b, h, s, t, d = (loop.extent for loop in stages[0].loops)
        e = stages[-2].loops[3].extent
        return cls(
            as_index(b),
            groups,
            int(h) // groups,
            as_index(s),
            as_index(t),
            int(d),
            int(e),
            named,
            stages[1].buffer.name.startswith("causal"),
        )

    @property
    def rows(self) -> Expr:
        """Queries that share a head of keys."""
        return simplified(self.queries * index(self.shared))

    def place(self, group: Expr, row: Expr) -> tuple[Expr, Expr]:
        """Head and token of a row."""
        if self.shared == 1:
            return group, row
        return group * index(self.shared) + row // self.queries, row % self.queries

    def q(self, b: Expr, h: Expr, s: Expr, d: Expr) -> Expr:
        """An element of a query."""
        return self._factor("scores", 0, (b, h, s, index(0), d))

    def k(self, b: Expr, group: Expr, t: Expr, d: Expr) -> Expr:
        """An element of a key."""
        head = group * index(self.shared)
        return self._factor("scores", 1, (b, head, index(0), t, d))

    def v(self, b: Expr, group: Expr, t: Expr, e: Expr) -> Expr:
        """An element of a value."""
        head = group * index(self.shared)
        return self._factor("mixed", 1, (b, head, index(0), e, t))

    def _factor(self, name: str, side: int, at: tuple[Expr, ...]) -> Expr:
        stage = self.stages[name]
        factor = (stage.value.a, stage.value.b)[side]
        found = {loop.var: i for loop, i in zip(stage.loops, at, strict=True)}
        return substituted(factor, found)

    def masked(self, b: Expr, h: Expr, s: Expr, t: Expr, score: Expr) -> Expr:
        """A score scaled and masked."""
        stage, scores = self.stages["masked"], self.stages["scores"].buffer
        value = with_loads(stage.value, lambda x: score if x.source.same_as(scores) else x)
        at = {loop.var: i for loop, i in zip(stage.loops, (b, h, s, t), strict=True)}
        return substituted(value, at)

    def write(self, b: Expr, h: Expr, s: Expr, e: Expr, value: Expr) -> Stmt:
        """Store an element of the result: [B, H, S, E], or with the heads behind the tokens."""
        stage = self.stages["result"]
        if len(stage.loops) == 4:
            return store(stage.buffer, value, [b, h, s, e])
        column = h * index(self.depth) + e
        row = [b, s] if len(stage.loops) == 3 else [b * self.queries + s]
        return store(stage.buffer, value, [*row, column])
