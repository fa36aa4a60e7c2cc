"""How much memory and disk a `quantize` will need, before it starts.

Counted, besides the model itself, is the largest of its steps, which follow one another:
    ranges      a probe of the model, and one sample's values
    equalize    the same, and the moments gathered in one pass
    round       a probe of one stretch, the moments of one group of products with what the
                algorithms derive from them, and the activations kept at the widest cut
A probe may copy the weights it reads, once to pack them. Activations are a float and a quantized
copy of every value at the cut before and after a stretch, and what its products read. Sizes are
those of the first sample: an estimate.
"""

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import InvalidInput
from ...graph import Graph, Op, Value
from ...graph.cost_extents import Extents
from ...graph.probe import part_between
from .calibration.data import Samples
from .calibration.moments import LIMIT as WIDEST
from .calibration.moments import bytes_for
from .calibration.taps import MEMORY
from .candidates import matrix_shape
from .equalized import MOMENTS_BYTES, linear_groups
from .segments import Segment, segments, sizes_of
from .store import LIMIT

RESERVE = 256 << 20
"""Bytes of the disk that are left free."""
COPIES = 8
"""Matrices [I, I] in float64 that algorithms derive from moments, and [O, I] from a weight."""
PACKED = 2
"""Copies of a weight in a probe."""


@dataclass(frozen=True)
class Needed:
    """What to gather for.

    Attributes:
        ranges: the values whose ranges are wanted.
        equalized: the ops whose inputs are equalized.
        walked: the products that are rounded with moments.
    """

    ranges: tuple[Value, ...] = ()
    equalized: tuple[Op, ...] = ()
    walked: tuple[Op, ...] = ()


@dataclass(frozen=True)
class Estimate:
    """Bytes that will be needed.

    Attributes:
        memory: besides the model.
        disk: in the folder; 0 if memory will do.
        folder: where; None for the system's temporary folder.
    """

    memory: int
    disk: int = 0
    folder: Path | None = None

    def __str__(self) -> str:
        text = f"needs about {readable(self.memory)} of memory besides the model"
        if not self.disk:
            return text
        return f"{text} and {readable(self.disk)} on disk in {self.folder or 'a temporary folder'}"

    def check(self) -> None:
        """Look whether the disk has room.

        Raises:
            InvalidInput: it has not.
        """
        if not self.disk:
            return
        folder = Path(tempfile.gettempdir()) if self.folder is None else self.folder.absolute()
        while not folder.exists():
            folder = folder.parent
        held = sum(path.stat().st_size for path in _files(self.folder))
        free = shutil.disk_usage(folder).free + held
        if free < self.disk + RESERVE:
            raise InvalidInput(
                f"quantize: {self}, which has {readable(free)} free: give fewer or shorter "
                "calibration samples, or a work_dir on a larger disk"
            )


def estimate(
    graph: Graph, needed: Needed, samples: Samples, *, folder: Path | None = None
) -> Estimate:
    """What the steps of a quantization will take; `folder` is the one that state is kept in."""
    sample = next(iter(samples))
    sizes = sizes_of(graph, sample)
    extents = Extents(sizes)
    for op in graph.ops:
        extents.learn(op)
    steps = [
        _gathering(graph, needed.ranges, extents, 0),
        _gathering(graph, _read(needed.equalized), extents, _gathered(needed.equalized)),
    ]
    if not needed.walked:
        return Estimate(max(steps))
    groups = [_group(op) for op in needed.walked]
    stretches = [_Stretch(graph, one, extents) for one in segments(graph, needed.walked, sizes)]
    kept = max(one.kept for one in stretches) * samples.count
    lasting = max(one.lasting for one in stretches) * samples.count
    disk = lasting if folder is not None else kept if kept > LIMIT else 0
    inside = min(kept - lasting if folder is not None else kept, LIMIT)
    steps.append(max(groups) + max(one.probe for one in stretches) + inside)
    return Estimate(max(steps), disk, folder)


def readable(count: float) -> str:
    """Bytes as people read them, e.g. "1.2 GB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.0f} {unit}" if count >= 10 or unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


class _Stretch:
    """Bytes of one stretch.

    Attributes:
        kept: activations of one sample: at both cuts, float and quantized, and what products read.
        lasting: those of them that are at the cuts.
        probe: of running one sample.
    """

    def __init__(self, graph: Graph, segment: Segment, extents: Extents) -> None:
        cuts = sum(map(extents.nbytes, (*segment.inputs, *segment.outputs)))
        taps = _read(segment.anchors)
        self.lasting = 2 * cuts
        self.kept = 2 * cuts + sum(map(extents.nbytes, taps))
        inputs = [*graph.inputs, *segment.inputs]
        self.probe = _probe(graph, [*taps, *segment.outputs], inputs, extents)


def _probe(
    graph: Graph, outputs: Sequence[Value], inputs: Sequence[Value], extents: Extents
) -> int:
    """Bytes of a probe: its weights, what it returns, and the largest operands of one op."""
    ops = part_between(graph, inputs, outputs).ops
    read = dict.fromkeys(v for op in ops for v in op.inputs if v is not None)
    weights = sum(extents.nbytes(value) for value in read if value.constant is not None)
    live = max((sum(map(extents.nbytes, _operands(op))) for op in ops), default=0)
    return PACKED * weights + live + sum(map(extents.nbytes, outputs))


def _operands(op: Op) -> list[Value]:
    return [v for v in (*op.inputs, *op.outputs) if v is not None and v.constant is None]


def _gathering(graph: Graph, values: Sequence[Value], extents: Extents, statistics: int) -> int:
    """Bytes of gathering statistics of values in one pass over the model."""
    if not values:
        return 0
    whole = _probe(graph, list(values), graph.inputs, extents)
    results = sum(map(extents.nbytes, values))
    return whole - max(0, results - MEMORY) + statistics


def _gathered(ops: Sequence[Op]) -> int:
    """Bytes of the moments of all groups, or of as many as are gathered at once."""
    each = [bytes_for(matrix_shape(readers[0])[1]) for readers in linear_groups(ops)]
    return max(max(each), min(sum(each), MOMENTS_BYTES)) if each else 0


def _group(op: Op) -> int:
    """Bytes of one product's moments, and of what rounding derives from them and the weight."""
    rows, width = matrix_shape(op)
    squares = width * width if width <= WIDEST else 0
    return bytes_for(width, cross=True) + COPIES * 8 * (squares + rows * width)


def _read(ops: Sequence[Op]) -> list[Value]:
    return list(dict.fromkeys(op.require(0) for op in ops))


def _files(folder: Path | None) -> list[Path]:
    found = [] if folder is None else folder.rglob("*.npy")
    return [path for path in found if path.is_file()]
