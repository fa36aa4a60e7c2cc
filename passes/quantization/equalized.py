"""Equalize a model value after value, on statistics gathered for many values at once.

What was found is kept in the work folder, so that a run that was stopped, or is made again, takes
the same scales without looking at the data.
"""

import shutil
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...graph import Graph, Op, Value
from ...graph.ops import Linear
from ..base import Refusal
from ..edits import Edit
from .calibration.collect import collect
from .calibration.data import Samples
from .calibration.files import write_whole
from .calibration.fingerprint import combined, graph_fingerprint
from .calibration.moments import Moments
from .calibration.ticker import Ticker
from .candidates import matrix_of, matrix_shape
from .checkpoint import BROKEN
from .equalize.apply import equalize
from .equalize.awq import awq
from .equalize.smooth import smooth
from .rounded import Format
from .telling import tell
from .walk import moments_for

MOMENTS_BYTES = 1 << 30
"""Moments that are gathered in one pass over the data."""
EQUALIZERS = {"awq": awq, "smooth": smooth}
Readers = list[Linear]
WORTH_AN_OP = 0.7
"""Where nothing before a value can take 1/s, a product is inserted for it if the error that the
search predicts falls to this share."""


@dataclass(frozen=True)
class Scaling:
    """Scales [I] of one value, and the share of the error that they leave, as predicted."""

    scale: np.ndarray
    left: float


Scales = list[Scaling]


@dataclass(frozen=True, eq=False)
class EqualizeSite:
    """A value whose channels are scaled so that its readers' weights round better."""

    anchor: Op
    edits: tuple[Edit, ...]
    refusal: Refusal | None = None

    @property
    def touched(self) -> tuple[Op, ...]:
        return (self.anchor, *(edit.op for edit in self.edits))

    def apply(self, graph: Graph) -> None:
        """Write it."""
        for edit in self.edits:
            edit.apply(graph)


@dataclass(frozen=True)
class Equalizer:
    """How the values of one graph are equalized.

    Attributes:
        graph: it is being rewritten meanwhile.
        name: "awq" or "smooth".
        wanted, stages: how weights will be rounded.
        samples: the calibration data.
        folder: where to keep the state; None for nowhere.
        note: is told what the user should know.
    """

    graph: Graph
    name: str
    wanted: Format
    stages: tuple[str, ...]
    samples: Samples
    folder: Path | None = None
    note: Callable[[str], None] = lambda text: None

    def sites(self, ops: Sequence[Op]) -> Iterator[EqualizeSite]:
        """Scale the channels of every value that Linears read."""
        groups = linear_groups(ops)
        done = 0
        for number, chunk in enumerate(chunks(groups)):
            kept = self._kept(number, chunk)
            scales = kept.load() if kept is not None else []
            moments = self._moments(number, chunk) if len(scales) < len(chunk) else {}
            for place, readers in enumerate(chunk):
                done += 1
                if place == len(scales):
                    label = f"equalizing {readers[0].name} ({done} of {len(groups)})"
                    scales.append(self._found(readers, moments[readers[0].x], label))
                    if kept is not None:
                        kept.save(scales)
                yield from self._site(readers, scales[place])
            if self.folder is not None:
                shutil.rmtree(self._state(number), ignore_errors=True)

    def _found(self, readers: Readers, moments: Moments, label: str) -> Scaling:
        layers = [moments.layer(matrix_of(op), op.name) for op in readers]
        with Ticker(tell, 0) as ticker:
            ticker.step(0, label)
            found = EQUALIZERS[self.name](layers, self.wanted, self.stages)
        losses = found.losses
        plain = losses.get(None, 0.0)
        return Scaling(found.scale, min(losses.values()) / plain if plain > 0 else 1.0)

    def _site(self, readers: Readers, found: Scaling) -> Iterator[EqualizeSite]:
        value = readers[0].x
        plan = equalize(self.graph, value, found.scale)
        if isinstance(plan, Refusal) and found.left <= WORTH_AN_OP:
            inserted = equalize(self.graph, value, found.scale, insert=True)
            plan = plan if isinstance(inserted, Refusal) else inserted
        if isinstance(plan, Refusal):
            yield EqualizeSite(readers[0], (), plan)
        elif plan:
            yield EqualizeSite(readers[0], tuple(plan))

    def _moments(self, number: int, chunk: Sequence[Readers]) -> dict[Value, Moments]:
        """Of what the readers read, as the graph is before any value of the chunk is scaled."""
        wanted = {readers[0].x: [moments_for(readers[0], cross=False)] for readers in chunk}
        state = None if self.folder is None else self._state(number)
        for text in collect(self.graph, wanted, self.samples, progress=tell, state=state):
            if text not in self.samples.notes:
                self.note(text)
        return {value: moments for value, (moments,) in wanted.items()}

    def _state(self, number: int) -> Path:
        assert self.folder is not None
        return self.folder / f"equalize-{number}"

    def _kept(self, number: int, chunk: Sequence[Readers]) -> "_Kept | None":
        if self.folder is None:
            return None
        names = [f"{readers[0].x.name}: {[op.name for op in readers]}" for readers in chunk]
        asked = combined(self.name, repr(self.wanted), repr(self.stages), *names)
        parts = (graph_fingerprint(self.graph), self.samples.fingerprint(), asked)
        return _Kept(self.folder / f"equalize-{number}.npz", combined(*parts), self.note)


@dataclass(frozen=True)
class _Kept:
    """The scales found for one chunk, in a file."""

    path: Path
    seal: str
    note: Callable[[str], None]

    def load(self) -> Scales:
        """Those that were found for this model, data and algorithm."""
        if not self.path.is_file():
            return []
        try:
            with np.load(self.path, allow_pickle=False) as file:
                if str(file["seal"]) == self.seal:
                    count = len(file.files) // 2
                    return [
                        Scaling(file[f"scale{k}"], float(file[f"left{k}"])) for k in range(count)
                    ]
        except (*BROKEN, zipfile.BadZipFile):
            pass
        self.note(f"the scales in {self.path} are of something else: computed again")
        return []

    def save(self, scales: Scales) -> None:
        """Replace the file."""
        arrays = {f"scale{index}": one.scale for index, one in enumerate(scales)}
        arrays |= {f"left{index}": np.array(one.left) for index, one in enumerate(scales)}
        seal = np.array(self.seal)
        write_whole(self.path, lambda file: np.savez(file, seal=seal, **arrays))  # type: ignore[arg-type]


def linear_groups(ops: Sequence[Op]) -> list[Readers]:
    """The Linears by what they read, in order."""
    found: dict[Value, Readers] = {}
    for op in ops:
        if isinstance(op, Linear):
            found.setdefault(op.x, []).append(op)
    return list(found.values())


def chunks(groups: Sequence[Readers]) -> Iterator[list[Readers]]:
    """Groups whose moments fit in memory together."""
    chunk: list[Readers] = []
    held = 0
    for readers in groups:
        size = 8 * matrix_shape(readers[0])[1] ** 2
        if chunk and held + size > MOMENTS_BYTES:
            yield chunk
            chunk, held = [], 0
        chunk.append(readers)
        held += size
    if chunk:
        yield chunk
