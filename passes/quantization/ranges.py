"""Ranges of activations: from the calibration data, from the cache of an earlier run, or given."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...errors import InvalidInput
from ...graph import Graph, Value
from .calibration.cache import Calibration, CalibrationCache
from .calibration.collect import collect
from .calibration.data import Samples
from .calibration.fingerprint import combined, graph_fingerprint
from .calibration.observers import Observer, observer
from .grid import Grid
from .telling import tell

Ranges = dict[Value, tuple[float, float]]


@dataclass(frozen=True)
class RangeFinder:
    """Finds the ranges of values of one graph.

    Attributes:
        graph: what the values belong to.
        method: how ranges are chosen; see calibration/observers.py.
        samples: the data; None where there is none.
        cache: a file to take ranges from and to keep them in; "" for none.
        state: a folder for the state of a long collection; None for none.
        note: is told what the user should know.
    """

    graph: Graph
    method: str
    samples: Samples | None
    cache: str = ""
    state: Path | None = None
    note: Callable[[str], None] = lambda text: None

    def find(self, wanted: Mapping[Value, Grid]) -> Ranges:
        """The range of each value, for the grid that it will be rounded to.

        What the cache holds for this model, data and method is taken from it, else computed and
        written there. A file that a user wrote counts whatever the data, value by value; what it
        lacks is computed. Without data, a cache that holds for this model and method will do.

        Raises:
            InvalidInput: a range is not known, and there are no samples to compute it from.
        """
        if not self.cache:
            return self._collected(wanted)
        file, key = CalibrationCache(self.cache), self._key(wanted)
        held = file.read(key)
        for text in file.notes:
            self.note(text)
        found = {} if held is None else _taken(held, wanted)
        missing = {value: grid for value, grid in wanted.items() if value not in found}
        if not missing:
            return found
        if held is not None:
            self.note(f"{len(missing)} of {len(wanted)} ranges are not in {self.cache}: computed")
        found |= self._collected(missing)
        if held is None or not held.given:
            ranges = {v.name: (np.array(low), np.array(high)) for v, (low, high) in found.items()}
            file.write(key, Calibration(ranges))
        return {value: found[value] for value in wanted}

    def _collected(self, wanted: Mapping[Value, Grid]) -> Ranges:
        """Ranges of what the samples make of the values."""
        if self.samples is None:
            missing = ", ".join(repr(value.name) for value in list(wanted)[:3])
            where = f", and {self.cache} does not hold them" if self.cache else ""
            raise InvalidInput(
                f"calibration: expected data, for ranges of {len(wanted)} values ({missing}, ...) "
                f"are needed{where}; pass calibration= (an iterable of inputs, a DataLoader, an "
                ".npz file or a folder of them)"
            )
        statistics: dict[Value, list[Observer]] = {v: [observer(self.method)] for v in wanted}
        notes = collect(self.graph, statistics, self.samples, progress=tell, state=self.state)
        for text in notes:
            if text not in self.samples.notes:  # those are told once the data is opened
                self.note(text)
        return {value: _range(value, statistics[value][0], grid) for value, grid in wanted.items()}

    def _key(self, wanted: Mapping[Value, Grid]) -> dict[str, str]:
        """What the ranges depend on; without data, what is known of that."""
        asked = [f"{value.name}: {self.method} for {grid}" for value, grid in wanted.items()]
        key = {"model": graph_fingerprint(self.graph), "method": combined(*asked)}
        return key if self.samples is None else {**key, "data": self.samples.fingerprint()}


def _taken(held: Calibration, wanted: Mapping[Value, Grid]) -> Ranges:
    """The ranges of those values that are held by name; of channels, the widest."""
    pairs = {value: held.ranges[value.name] for value in wanted if value.name in held.ranges}
    return {value: (float(low.min()), float(high.max())) for value, (low, high) in pairs.items()}


def _range(value: Value, seen: Observer, grid: Grid) -> tuple[float, float]:
    try:
        low, high = seen.range(grid)
    except InvalidInput as error:
        raise InvalidInput(f"the model's value {value.name!r}: {error}") from error
    return float(low), float(high)
