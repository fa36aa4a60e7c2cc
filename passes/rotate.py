"""Rotate a residual stream by an orthogonal matrix, so that outliers spread over all features.

Rewrite:
    x = Σ Linear(·; W, b)                z = Σ Linear(·; Qᵀ·W, Qᵀ·b)
    y = Linear(RMSNorm(x; γ); V, c)  ->  y = Linear(RMSNorm(z); V·diag(γ)·Q, c)

Why: with z = Qᵀx and Q orthogonal ‖z‖ = ‖x‖, so RMSNorm(z) = Qᵀ·RMSNorm(x). Q = diag(±1)·H/√d with
H a Hadamard matrix: every feature of z is a sum of all features of x with random signs, so a range
that one outlier would set (of a weight's row, of a token) comes near that of normal numbers.
Exactness: reassociates; rotations are applied in float64 and rounded once per weight.
Legality: every reader of the stream is an RMSNorm over exactly the feature axis, so LayerNorms go
through recenter first; no nonzero number is added to all features alike. A norm that something else
than a Linear reads is rotated back by one Linear, a computed writer is rotated by one, as long as
these are a minority. An embedding that is also the head is split where a gain goes into the head.
Nothing in a graph tells that a stream is rotated, so a rotation has to pay, which also ends it: the
squared crest factor d·max v²/‖v‖² of the vectors v along the features, in writers and readers, must
fall by a tenth. Normal numbers, as a rotation leaves them, are left alone. Outliers that only
activations have are not seen by this: always=True rotates whatever the weights are, once a run.
Effect: none in floating point: the ops stay the same. Rounding to few bits loses less.
References: Ashkboos et al. 2024, arXiv:2404.00456 (QuaRot); Ashkboos et al. 2024, arXiv:2401.15024
(SliceGPT: the invariance); Panferov et al. 2025, arXiv:2502.05003 (QuEST: blocks of 128).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np

from ..graph import Graph, Op
from ..graph.ops import Norm
from .base import Exactness, Pass, Refusal
from .basis import Tables, apply_basis, map_shared
from .consumers import Consumer, consumer, expand, scaling_of
from .crest import crests, read, written
from .orthogonal import Rotation, hadamard, random_rotation, rotation
from .stream_site import StreamSite
from .streams import Stream, find_streams
from .weights import row_axis
from .zero_mean import is_nonzero

FORMS = ("hadamard", "block", "random")
LEAST = 0.1
"""Share by which a rotation has to lower the squared crest factor."""


@dataclass(frozen=True)
class Rotate(Pass[StreamSite]):
    """Rotate every stream whose weights it spreads more evenly; see the module docstring.

    Attributes:
        form: "hadamard" (where none of order d is known, mixed with a DCT: see orthogonal.py),
            "block" (Hadamard within blocks of neighbouring features) or "random" (dense).
        block: order of the blocks of form "block".
        seed: of the signs, or of the dense matrix.
        always: also rotate what is spread evenly already, one time more whenever the pass runs.
    """

    form: str = "hadamard"
    block: int = 128
    seed: int = 0
    always: bool = False
    name: ClassVar[str] = "rotate"
    exactness: ClassVar[Exactness] = Exactness.REASSOCIATES

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise ValueError(f"rotate: expected form in {sorted(FORMS)}, got {self.form!r}")
        if self.block < 2 or hadamard(self.block) is None:
            raise ValueError(f"rotate: expected a Hadamard order as block, got {self.block}")
        if self.seed < 0:
            raise ValueError(f"rotate: expected a seed of at least 0, got {self.seed}")

    @property
    def once(self) -> bool:  # type: ignore[override]
        """Whether one walk has to do, since every walk would find all streams again."""
        return self.always

    def match(self, graph: Graph) -> Iterator[StreamSite]:
        tables: Tables = {}
        for stream in find_streams(graph, ("rms",)):
            yield StreamSite(stream, consumers_of(graph, stream), tables)

    def refuse(self, graph: Graph, site: StreamSite) -> Refusal | None:
        stream = site.stream
        if stream.blockers:
            return stream.blockers[0]
        if stream.width < 2:
            return Refusal("the stream has one feature only", stream.name)
        if self.form == "block" and stream.width % self.block:
            sizes = f"{stream.width} features, blocks of {self.block}"
            return Refusal("the width is no multiple of the block", stream.name, sizes)
        return _operand_refusal(site) or _explicit_refusal(site) or self._gain_refusal(site)

    def _gain_refusal(self, site: StreamSite) -> Refusal | None:
        if self.always:
            return None
        before, after = (
            crests(site.stream, site.consumers, function)
            for function in (np.asarray, self._rotation_of(site.stream.width).project)
        )
        if after < (1 - LEAST) * before:
            return None
        reason = "a rotation would not spread the weights more evenly"
        crest = f"squared crest {before:.3g}, rotated {after:.3g}"
        return Refusal(reason, site.stream.name, crest)

    def rewrite(self, graph: Graph, site: StreamSite) -> None:
        basis = self._rotation_of(site.stream.width)
        apply_basis(graph, site.stream, basis, site.tables)
        for reader in site.consumers:
            if reader.is_expanded:
                expand(graph, reader.norm, basis, basis.width)
                continue
            columns, label = partial(rotated_columns, reader.gain, basis), _label(reader)
            for linear in reader.linears:
                map_shared(graph, linear, 1, 1 - row_axis(linear), columns, label, site.tables)
            graph.set_input(reader.norm, 1, None)
            if reader.scaling is not None:
                graph.replace(reader.scaling.output, reader.norm.output)
                graph.prune(reader.scaling)

    def _rotation_of(self, width: int) -> Rotation:
        if self.form == "random":
            return random_rotation(width, self.seed)
        return rotation(width, self.block if self.form == "block" else width, self.seed)


def consumers_of(graph: Graph, stream: Stream) -> tuple[Consumer, ...]:
    """What reads each norm; a weight that stays in use as it is would be doubled by an edit."""
    found = [_followed(graph, norm) for norm in stream.readers]
    while True:
        edited = {op for reader in found for op in reader.linears}.union(stream.edited)
        kept = [c if _stay_together(c, edited) else Consumer(c.norm) for c in found]
        if kept == found:
            return tuple(found)
        found = kept


def _followed(graph: Graph, norm: Norm) -> Consumer:
    if norm.shift is not None:
        return Consumer(norm)
    scaling = scaling_of(graph, norm)
    return consumer(graph, norm, lambda linear: linear.weight.constant is not None, scaling)


def _stay_together(reader: Consumer, edited: set[Op]) -> bool:
    """Whether all ops that share a weight with these Linears are edited too."""
    return all(op in edited for linear in reader.linears for op in linear.weight.readers)


def _operand_refusal(site: StreamSite) -> Refusal | None:
    for norm in site.stream.readers:
        if any(p is not None and p.constant is None for p in (norm.scale, norm.shift)):
            return Refusal("the norm's gain is computed at run time", norm.name)
    for writer in site.stream.writers:
        if writer.axis < 0 and is_nonzero(writer):
            reason = "a number is added to all features of the stream"
            return Refusal(reason, writer.value.name)
    for array, axis, gain in (*written(site.stream), *read(site.consumers)):
        if array.dtype != np.float16:
            continue
        peak = float(np.abs(array).max(initial=0)) * float(np.abs(gain).max(initial=0))
        if peak * array.shape[axis] ** 0.5 > float(np.finfo(np.float16).max):  # bounds ‖v‖
            return Refusal("the rotated weight might overflow float16", site.stream.name)
    return None


def _explicit_refusal(site: StreamSite) -> Refusal | None:
    explicit = len(site.stream.computed) + sum(c.is_expanded for c in site.consumers)
    if 2 * explicit < len(site.consumers):
        return None
    counts = f"{explicit} rotations for {len(site.consumers)} norms"
    return Refusal("too many rotations would have to be computed", site.stream.name, counts)


def _label(reader: Consumer) -> str:
    """What tells the map of a reader's columns from those of other norms' readers."""
    label = "Rotation" if reader.norm.scale is None else f"Rotation of {reader.norm.scale.name}"
    return label if reader.scaling is None else f"{label} by {reader.scaling.name}"


def rotated_columns(gain: np.ndarray, basis: Rotation, rows: np.ndarray) -> np.ndarray:
    """V·diag(γ)·Q for V [..., d] and γ [d] or [1], float64."""
    return basis.project(rows * gain)
