"""Compute only the tokens that are read: push selections along an axis towards the inputs.

Rewrite:
    select(f(x), i)                    ->   f(select(x, i))
    y = where(m, f(x), x), m a top-k   ->   y = put(x, i, f(take(x, i)))
    softmax(q·kᵀ + mask)·v             ->   the same over the keys that the mask leaves

Why: a token-wise f commutes with a selection of tokens, and so do the rows of attention. Keys that
are masked out have probability 0, so they need not exist. Where the mask m is off, y is x itself.
The walk goes from readers to producers and asks of each op which positions of each axis it reads:
a class token, the last position, the keys before it, the pieces of a fused projection.
Exactness: reassociates (products of other shapes round differently). Values at dropped tokens are
taken to be finite, and an additive mask of −10⁴ or less to be −∞.
Legality: dropped tokens are no keys of a kept one, and the router does not read what the block
makes of them. Where scores are equal the top-k's own answer stands; but a mask that compares with
the k-th score keeps more than k where they tie, the rewritten graph just k (`ties="refuse"` leaves
such masks alone). A NaN score ranks highest, as in the top-k operator.
Effect: saves the products of dropped tokens, their norms and activations, and their part of the
KV cache; costs a copy of the rows kept.
References: Raposo et al. 2024, arXiv:2404.02258; Zhang et al. 2024, arXiv:2412.04449 (p-MoD).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from ..graph import Graph, Op
from ..graph.ops import Attention, Elementwise, MatMul, TopK
from .axis_roles import AxisClasses
from .base import Exactness, Pass, Refusal
from .tokens.demand import Context
from .tokens.execute import execute
from .tokens.masks import find_masks
from .tokens.off import Masks
from .tokens.plan import SELECTING, Plan, plan, positions
from .tokens.refusals import of_choice, takes_nearly_all
from .tokens.selection import Choice

TIES = ("first", "refuse")
NEARLY_ALL = "nearly every position is read, and cutting costs a copy"


@dataclass(frozen=True)
class TokenSite:
    """What one selection, or one choice made at run time, lets the graph leave out.

    Attributes:
        anchor: the op that selects, or the top-k.
        plan: what to compute instead.
        classes: which axes hold the same positions.
        choice: the choice; None for fixed positions, or where a top-k makes no mask.
    """

    anchor: Op
    plan: Plan
    classes: AxisClasses
    choice: Choice | None = None

    @property
    def touched(self) -> tuple[Op, ...]:
        return (self.anchor, *self.plan.spared)


@dataclass(frozen=True)
class PushTokens(Pass[TokenSite]):
    """Leave out tokens that nothing reads; see the module docstring.

    Attributes:
        ties: "first" to keep the first of equal scores where a mask would keep all that tie with
            the k-th, "refuse" to leave such masks alone.
    """

    ties: str = "first"
    name: ClassVar[str] = "push-tokens"
    exactness: ClassVar[Exactness] = Exactness.REASSOCIATES

    def __post_init__(self) -> None:
        """Check the parameter."""
        if self.ties not in TIES:
            raise ValueError(f"expected ties to be one of {TIES}, got {self.ties!r}")

    def match(self, graph: Graph) -> Iterator[TokenSite]:
        yield from _fixed(graph)
        yield from _chosen(graph)

    def refuse(self, graph: Graph, site: TokenSite) -> Refusal | None:
        if site.choice is not None and site.choice.ties and self.ties == "refuse":
            return Refusal("the mask keeps more tokens where scores tie", site.anchor.name)
        if isinstance(site.anchor, TopK):
            return of_choice(site.anchor, site.choice, site.plan, site.classes)
        if not site.plan.spared:
            nearly = isinstance(site.anchor, SELECTING)
            reason = NEARLY_ALL if nearly else "every position of its result is read"
            return Refusal(reason, site.anchor.name)
        return None

    def rewrite(self, graph: Graph, site: TokenSite) -> None:
        execute(graph, site.plan)


def _fixed(graph: Graph) -> Iterator[TokenSite]:
    """Selections of fixed positions, all in one plan."""
    order, classes = positions(graph), AxisClasses(graph)
    seeds = [op for op in order if isinstance(op, SELECTING)]
    found = plan(graph, order, seeds, Context())
    if found.spared:
        yield TokenSite(max(filter(found.begins, found.ops), key=order.__getitem__), found, classes)
        return
    for value in graph.outputs:
        if value.producer is not None and "tokens" in classes.roles(value):
            yield TokenSite(value.producer, found, classes)
    for op in seeds:
        if takes_nearly_all(op, classes):
            yield TokenSite(op, found, classes)


def _chosen(graph: Graph) -> Iterator[TokenSite]:
    """Choices made at run time, one by one, each on the graph as it then stands."""
    order = positions(graph)
    found_by: dict[Op, list[Choice]] = {op: [] for op in order if isinstance(op, TopK)}
    if not found_by:
        return
    masks, classes = find_masks(graph), AxisClasses(graph)
    seeds = _seeds(order, masks)
    for choice in seeds:
        for top in dict.fromkeys(choice.tops):
            found_by[top].append(choice)
    for top, choices in found_by.items():
        for choice in choices:
            alive = [op for op in seeds[choice] if not op.erased]
            found = plan(graph, order, alive, Context(masks, choice))
            yield TokenSite(top, found, classes, choice)
        if not choices:
            yield TokenSite(top, Plan(graph, Context(), order), classes)


def _seeds(order: dict[Op, int], masks: Masks) -> dict[Choice, list[Op]]:
    """The ops that read a mask of each choice."""
    found: dict[Choice, list[Op]] = {}
    for op in order:
        if isinstance(op, Elementwise | Attention | MatMul):
            offs = [off for v in op.inputs if v in masks for off in masks[v].values()]
            for choice in {off.choice: None for off in offs}:
                found.setdefault(choice, []).append(op)
    return found
