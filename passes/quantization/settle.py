"""Fill in what a `quantize` leaves to its caller: data, and a placement by measurement."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...graph import Graph
from ..base import Context, Timings
from ..patterns import Pattern
from .calibration.data import Samples
from .calibration.files import write_whole
from .calibration.fingerprint import combined, graph_fingerprint
from .calibration.select import Selection
from .candidates import Needs, is_quantized
from .checkpoint import BROKEN
from .measured import measured_placement, shapes_of
from .place import Placement, pairs
from .schemes import U8

if TYPE_CHECKING:
    from ..quantize import Quantize

EXAMPLES_ONLY = (
    "quantize: calibrated on the example inputs only; pass calibration= with data like the model's"
)


def settle(asked: "Quantize", graph: Graph, context: Context) -> "Quantize":
    """The pass with the caller's examples where data is needed, and with measured forms."""
    if is_quantized(graph):
        return asked
    one = _telling(replace(asked, calibration=_data(asked, graph, context)), context)
    measures = context.time_products is not None and one.resolved.activation == U8
    if not measures or one.placement == "all" or one.resolved.weight.block > 0:
        return one
    return _telling(replace(one, placement=_measured(one, graph, context)), context)


def _telling(one: "Quantize", context: Context) -> "Quantize":
    """The pass, its notes being the caller's."""
    object.__setattr__(one, "_notes", context.notes)
    return one


def _data(asked: "Quantize", graph: Graph, context: Context) -> "Samples | None":
    """The calibration data, opened once whatever it is: some sources can be read only once."""
    source = asked.calibration
    if source is None and asked.needs_data and context.examples and not _ranges_will_do(asked):
        source = context.examples
        context.notes.append(EXAMPLES_ONLY)
    if source is None:
        return None
    held = context.data.get(id(source))
    if isinstance(held, Samples):
        return held
    wanted = Selection.of(asked.calibration_samples or None)
    found = wanted.applied(graph, Samples.of(source, graph.inputs))
    context.data[id(source)] = found
    context.notes += found.notes
    return found


def _ranges_will_do(asked: "Quantize") -> bool:
    """Whether a file holds all that data would be needed for."""
    held = asked.calibration_cache_path
    return bool(held) and Path(held).is_file() and not asked.gathers


def _measured(asked: "Quantize", graph: Graph, context: Context) -> Placement:
    """The fastest form of each product, after the caller's own pairs."""
    assert context.time_products is not None
    scheme, given = asked.resolved, pairs(asked.placement)
    needs = Needs(asked.op_types_to_quantize, tuple(map(Pattern, asked.nodes_to_exclude)))
    shapes = shapes_of(graph, scheme, needs, given or "auto")
    distinct = list(dict.fromkeys(shapes.values()))
    kept = _Times(asked.work_dir, graph, f"{scheme} {distinct}")
    times = kept.load(len(distinct))
    if times is None:
        times = context.time_products(distinct)
        kept.save(times)
    timed = list(zip(distinct, times, strict=True))
    return (*given, *measured_placement(shapes, scheme, timed))


class _Times:
    """What products took, in the work folder: a run that goes on must place them as before."""

    def __init__(self, folder: str, graph: Graph, asked: str) -> None:
        self.path = Path(folder) / "placement.json" if folder else None
        self.key = combined(graph_fingerprint(graph), asked) if folder else ""

    def load(self, count: int) -> list[Timings] | None:
        """The times of `count` products; None where they are not known."""
        if self.path is None or not self.path.is_file():
            return None
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
            times = [{str(k): float(v) for k, v in one.items()} for one in found["times"]]
            return times if found["key"] == self.key and len(times) == count else None
        except BROKEN:
            return None

    def save(self, times: Sequence[Timings]) -> None:
        """Replace the file."""
        if self.path is not None:
            text = json.dumps({"key": self.key, "times": list(times)}) + "\n"
            write_whole(self.path, lambda file: file.write(text.encode()))
