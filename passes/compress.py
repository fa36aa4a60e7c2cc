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
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

import numpy as np

from ..graph import Graph, Op, Value
from ..graph.ops import Linear, Norm, ShapeOf
from .base import Exactness, Pass, Refusal
from .basis import DropLast, Helmert, Tables, apply_basis, replace_constant
from .commuting import moved_axis
from .edits import weight_refusal
from .resize import resize_axis, resize_refusal
from .streams import Stream, find_streams
from .weights import row_axis
from .zero_mean import is_nonzero, is_zero_mean

FORMS: dict[str, type[Helmert] | type[DropLast]] = {"isometric": Helmert, "paper": DropLast}


@dataclass(frozen=True)
class Consumer:
    """What reads one norm of the stream.

    Attributes:
        norm: the norm.
        linears: the Linears whose columns take the new basis; empty when the norm is expanded.
        path: values between the norm and them, which shrink too, with their feature axis.
    """

    norm: Norm
    linears: tuple[Linear, ...]
    path: tuple[tuple[Value, int], ...]

    @property
    def is_expanded(self) -> bool:
        return not self.linears


@dataclass(frozen=True)
class CompressSite:
    """One zero-mean residual stream, what reads it, and the tables compressed before it."""

    stream: Stream
    consumers: tuple[Consumer, ...]
    tables: Tables = field(default_factory=dict)

    @property
    def anchor(self) -> Op:
        return self.stream.readers[0]

    @property
    def touched(self) -> tuple[Op, ...]:
        linears = [linear for consumer in self.consumers for linear in consumer.linears]
        return (*self.stream.readers, *self.stream.edited, *linears)


@dataclass(frozen=True)
class Compress(Pass[CompressSite]):
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

    def match(self, graph: Graph) -> Iterator[CompressSite]:
        tables: Tables = {}
        for stream in find_streams(graph, ("rms",)):
            consumers = tuple(consumer(graph, norm) for norm in stream.readers)
            yield CompressSite(stream, consumers, tables)

    def refuse(self, graph: Graph, site: CompressSite) -> Refusal | None:
        stream = site.stream
        if stream.blockers:
            return stream.blockers[0]
        if stream.width < 2:
            return Refusal("the stream has one feature only", stream.name)
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

    def rewrite(self, graph: Graph, site: CompressSite) -> None:
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


def consumer(graph: Graph, norm: Norm) -> Consumer:
    """Follow a norm's result to the Linears that read it, if nothing else does."""
    expanded = Consumer(norm, (), ())
    if norm.scale is not None or norm.shift is not None:
        return expanded
    linears: list[Linear] = []
    path: list[tuple[Value, int]] = []
    worklist = [(norm.output, (norm.output.rank or 0) - 1)]
    while worklist:
        value, axis = worklist.pop()
        if graph.is_output(value):
            return expanded
        path.append((value, axis))
        for op, index in value.uses:
            if isinstance(op, ShapeOf) and axis not in op.axes:
                continue
            if isinstance(op, Linear) and index == 0 and axis == (value.rank or 0) - 1:
                if weight_refusal(op) is not None:
                    return expanded
                linears.append(op)
                continue
            moved = [] if index else _moved_results(op, axis)
            if not moved:
                return expanded
            worklist += moved
    return Consumer(norm, tuple(dict.fromkeys(linears)), tuple(path))


def _moved_results(op: Op, axis: int) -> list[tuple[Value, int]]:
    """The results that hold the features of the first operand whole, with their axes."""
    found = []
    for output in op.outputs:
        axes = [k for k in range(output.rank or 0) if moved_axis(op, k) == axis]
        if len(axes) != 1:
            return []
        found.append((output, axes[0]))
    return found


def _resized(site: CompressSite) -> list[tuple[Value, int]]:
    """Every computed value that loses a feature, with its axis."""
    stream, paths = site.stream, [p for reader in site.consumers for p in reader.path]
    computed = {writer.value for writer in stream.writers if writer.is_computed}
    on_stream = [(v, a) for v, a in stream.axes.items() if v.constant is None and v not in computed]
    heads = [(r.norm.output, (r.norm.output.rank or 0) - 1) for r in site.consumers]
    return list(dict.fromkeys([*on_stream, *heads, *paths]))


def expand(graph: Graph, norm: Norm, basis: "Helmert | DropLast", width: int) -> None:
    """Bring a compressed norm's result back to `width` features, gain and shift included."""
    dtype = norm.output.dtype
    matrix = basis.read_columns(np.eye(width))  # [d, d − 1]
    if norm.scale is not None:
        matrix = norm.scale.array().astype(np.float64)[:, None] * matrix
    bias = norm.shift
    readers = list(norm.output.uses)
    graph.set_input(norm, 1, None)
    graph.set_input(norm, 2, None)
    weight = graph.constant(matrix.astype(dtype), f"{norm.name}_expand")
    shape = (*(norm.output.shape or ())[:-1], width)
    operands = [norm.output, weight] if bias is None else [norm.output, weight, bias]
    linear = Linear(inputs=list(operands))
    graph.add(linear, (shape, dtype), after=norm, name=f"{norm.name}_expanded")
    graph.redirect(norm.output, linear.output, readers)
