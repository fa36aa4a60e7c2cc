"""Compress a zero-mean residual stream from d to d − 1 features: RMSNorm to CRMSNorm.

Rewrite (form="isometric"):
    x = Σ Linear(·; W, b)                   z = Σ Linear(·; Qᵀ·W, Qᵀ·b)
    y = Linear(RMSNorm(x; ε); V, c)    ->   y = Linear(RMSNorm(z; ε·d/(d−1)); √(d/(d−1))·V·Q, c)
Rewrite (form="paper"):
    the same with Qᵀ = [I 0], y = Linear(CRMSNorm(z; ε); V[:, :-1] − V[:, -1:], c)

Why: a zero-mean vector lives in d − 1 dimensions. The columns of Q (Helmert) are an orthonormal
basis of them, so ‖Qᵀx‖ = ‖x‖ and an ordinary RMS norm over d − 1 serves. The paper's form drops the
last coordinate, which is −Σ of the others, and needs CRMSNorm(z) = z/√((Σz² + (Σz)²)/d + ε).
Exactness: reassociates; bases are applied in float64 and rounded once per weight.
Legality: as for recenter, with RMSNorms that have no gain of their own left; and every writer is
zero-mean, which is checked on its weights. A norm that something else than a Linear reads is
expanded back to d by one Linear, as long as such norms are a minority.
Effect: d² → d(d−1) per projection; but d − 1 may suit the hardware's vectors worse: measure.
References: Jiang et al. 2023, arXiv:2305.14858, §3.3 (the paper's form);
Helmert 1876 for the basis.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from ..graph import Graph, Value
from ..graph.ops import Norm
from .base import Exactness, Pass, Refusal
from .basis import DropLast, Helmert, Tables, apply_basis, replace_constant
from .consumers import Consumer, consumer, expand
from .edits import weight_refusal
from .resize import resize_axis, resize_refusal
from .stream_site import StreamSite
from .streams import find_streams
from .weights import row_axis
from .zero_mean import is_nonzero, is_zero_mean

FORMS: dict[str, type[Helmert] | type[DropLast]] = {"isometric": Helmert, "paper": DropLast}


@dataclass(frozen=True)
class Compress(Pass[StreamSite]):
    """Drop one dimension of every zero-mean stream; see the module docstring.

    Attributes:
        form: "isometric" (an ordinary RMS norm over d − 1) or "paper" (CRMSNorm).
    """

    form: str = "isometric"
    name: ClassVar[str] = "compress"
    exactness: ClassVar[Exactness] = Exactness.REASSOCIATES

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise ValueError(f"compress: expected form in {sorted(FORMS)}, got {self.form!r}")

    def match(self, graph: Graph) -> Iterator[StreamSite]:
        tables: Tables = {}
        for stream in find_streams(graph, ("rms",)):
            consumers = tuple(followed(graph, norm) for norm in stream.readers)
            yield StreamSite(stream, consumers, tables)

    def refuse(self, graph: Graph, site: StreamSite) -> Refusal | None:
        stream = site.stream
        if stream.blockers:
            return stream.blockers[0]
        if stream.width < 2:
            return Refusal("the stream has one feature only", stream.name)
        for norm in stream.readers:
            if norm.scale is not None and norm.scale.constant is None:
                return Refusal("the norm's gain is computed at run time", norm.name)
        for value, axis in _resized(site):
            refusal = resize_refusal(value, axis)
            if refusal is not None:
                return refusal
        for op in stream.shape_readers:
            if stream.axes[op.require(0)] in op.axes:
                return Refusal("the feature width is read as a number", op.name)
        for writer in stream.writers:
            if not is_zero_mean(writer):
                name = writer.value.name
                return Refusal("the stream is not zero-mean", name, "run recenter first")
        if not any(map(is_nonzero, stream.writers)):
            return Refusal("nothing but zeros is written to the stream", stream.name)
        expanded = sum(reader.is_expanded for reader in site.consumers)
        if 2 * expanded >= len(site.consumers):
            counts = f"{expanded} of {len(site.consumers)} norms"
            return Refusal("too many norms would have to be expanded again", stream.name, counts)
        return None

    def rewrite(self, graph: Graph, site: StreamSite) -> None:
        basis = FORMS[self.form]()
        width = site.stream.width
        resized = _resized(site)
        apply_basis(graph, site.stream, basis, site.tables)
        for value, axis in resized:
            resize_axis(graph, value, axis, width - 1)
        for reader in site.consumers:
            for linear in reader.linears:
                axis = 1 - row_axis(linear)
                replace_constant(graph, linear, 1, axis, basis.read_columns)
            if reader.is_expanded:
                expand(graph, reader.norm, basis, width)
            if self.form == "paper":
                graph.update(reader.norm, norm="crms")
            else:
                graph.update(reader.norm, eps=reader.norm.eps * width / (width - 1))

    def space(self, graph: Graph) -> tuple[Self, ...]:
        return tuple(replace(self, form=form) for form in FORMS)


def followed(graph: Graph, norm: Norm) -> Consumer:
    """The Linears that read a norm; none of them takes the basis where the norm has a gain."""
    if norm.scale is not None or norm.shift is not None:
        return Consumer(norm)
    return consumer(graph, norm, lambda linear: weight_refusal(linear) is None)


def _resized(site: StreamSite) -> list[tuple[Value, int]]:
    """Every computed value that loses a feature, with its axis."""
    stream, paths = site.stream, [p for reader in site.consumers for p in reader.path]
    computed = {writer.value for writer in stream.writers if writer.is_computed}
    on_stream = [(v, a) for v, a in stream.axes.items() if v.constant is None and v not in computed]
    heads = [(r.norm.output, (r.norm.output.rank or 0) - 1) for r in site.consumers]
    return list(dict.fromkeys([*on_stream, *heads, *paths]))
