"""Turn LayerNorm into RMSNorm by taking the mean out of the residual stream.

Rewrite:
    x = Σ Linear_k(·; W_k, b_k) + …      x = Σ Linear_k(·; P·W_k, P·b_k) + …
    y = LayerNorm(x; γ, β)          ->   y = RMSNorm(x; γ) + β,      P = I − 11ᵀ/d

Why: LayerNorm(x) = RMSNorm(P·x), and P passes through everything that a residual stream is made of
(adds, casts, moves on other axes, factors that are constant along the features), so it can be
applied once to each writer's weights. If only LayerNorms read the stream, nobody sees its mean.
γ and β then go into the Linears that read the norm; where they cannot, γ stays and β is added.
Exactness: reassociates; weights are centred in float64 and rounded once.
Legality: every reader of the stream is a LayerNorm over exactly the feature axis, and the stream is
no graph output. A computed writer (an activation, a graph input, another norm) is recentred by an
explicit op; that, and every β that must be added, has to be outnumbered by the norms converted. A
table that is also the LM head is split, or with split_tied=False recentred by an explicit op.
Effect: an RMSNorm reads its input once and needs no mean: one reduction and one subtraction less.
References: Jiang et al. 2023, arXiv:2305.14858, §3.2; Zhang & Sennrich 2019, arXiv:1910.07467.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np

from ..graph import Graph, Value
from ..graph.ops import Gather, Norm
from .absorb import Planner
from .affine import Diagonal
from .base import Exactness, Pass, Refusal
from .basis import Recentred, Tables, apply_basis
from .edits import Plan, write_affine
from .stream_site import StreamSite
from .streams import Stream, Writer, find_streams


@dataclass(frozen=True)
class Recenter(Pass[StreamSite]):
    """Convert every LayerNorm over a stream whose mean nobody observes.

    Attributes:
        split_tied: give an embedding that is also the LM head a table of its own (more bytes);
            otherwise the looked-up rows are recentred at run time (one more op).
    """

    split_tied: bool = True
    name: ClassVar[str] = "recenter"
    exactness: ClassVar[Exactness] = Exactness.REASSOCIATES

    def match(self, graph: Graph) -> Iterator[StreamSite]:
        tables: Tables = {}
        for stream in find_streams(graph, ("layer",)):
            yield StreamSite(stream if self.split_tied else without_tied(stream), tables=tables)

    def refuse(self, graph: Graph, site: StreamSite) -> Refusal | None:
        stream = site.stream
        if stream.blockers:
            return stream.blockers[0]
        for norm in stream.readers:
            if any(p is not None and p.constant is None for p in (norm.scale, norm.shift)):
                return Refusal("the norm's gain is computed at run time", norm.name)
        added = sum(_needs_add(graph, norm, stream) for norm in stream.readers)
        explicit = len(stream.computed)
        if explicit + added >= len(stream.readers):
            counts = f"{explicit} recentrings and {added} adds for {len(stream.readers)} norms"
            return Refusal("it would add as many ops as it saves", stream.name, counts)
        return None

    def rewrite(self, graph: Graph, site: StreamSite) -> None:
        apply_basis(graph, site.stream, Recentred(), site.tables)
        for norm in site.stream.readers:
            convert(graph, norm)

    def space(self, graph: Graph) -> tuple[Self, ...]:
        tied = any(_is_tied(w) for s in find_streams(graph, ("layer",)) for w in s.writers)
        return (self, replace(self, split_tied=not self.split_tied)) if tied else (self,)


def convert(graph: Graph, norm: Norm) -> None:
    """Let a LayerNorm of a zero-mean value be an RMSNorm, its gain and shift in its readers."""
    plan = absorb_gain(graph, norm)
    if not isinstance(plan, Refusal):
        for edit in plan:
            edit.apply(graph)
        graph.set_input(norm, 1, None)
        graph.set_input(norm, 2, None)
    shift = norm.shift
    graph.update(norm, norm="rms")
    if shift is None:
        return
    graph.set_input(norm, 2, None)
    after = norm.output
    readers = list(after.uses)
    offset = Diagonal.of(after.rank or 0, None, shift.array())
    if offset.shifts:
        write_affine(graph, norm, after, offset, readers)


def absorb_gain(graph: Graph, norm: Norm) -> Plan:
    """Edits that fold a norm's gain and shift into all its readers, or why they cannot."""
    arrays = [None if p is None else p.array().astype(np.float64) for p in (norm.scale, norm.shift)]
    diagonal = Diagonal.of(norm.x.rank or 0, *arrays)
    return [] if diagonal.cost == 0 else Planner(graph).push(norm.output, diagonal)


def _needs_add(graph: Graph, norm: Norm, stream: Stream) -> bool:
    """Whether the norm's shift would stay as an add of its own."""
    if norm.shift is None or not norm.shift.array().any():
        return False
    plan = absorb_gain(graph, norm)
    if not isinstance(plan, Refusal):
        return False
    freed = {writer.op.x for writer in stream.writers if isinstance(writer.op, Gather)}
    return not (plan.reason == "the weight has another reader" and _only_tied(graph, norm, freed))


def _only_tied(graph: Graph, norm: Norm, freed: set[Value]) -> bool:
    """Whether the head's weight is a table that the recentring will split from it."""
    return any(
        value in freed
        for reader in norm.output.readers
        for value in reader.inputs
        if value is not None
    )


def _is_tied(writer: Writer) -> bool:
    return isinstance(writer.op, Gather) and len(writer.op.x.uses) > 1


def without_tied(stream: Stream) -> Stream:
    """The stream with its tied embeddings as computed writers."""
    loose = [Writer(w.value, w.axis) if _is_tied(w) else w for w in stream.writers]
    return replace(stream, writers=loose)
