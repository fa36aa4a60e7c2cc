"""Run calibration samples through a graph and feed the statistics of its values.

Memory: one sample's wanted values at a time; where they would exceed the budget, the values are cut
into chunks, and the samples run through the graph once a chunk. With a state folder, what was
gathered is saved every few seconds (less often where a save is slow) and on Ctrl-C, and a later
call with the same graph, samples and statistics goes on from there to the same result, bit for bit.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ....errors import InvalidInput
from ....graph import Graph, Value
from .data import Samples
from .fingerprint import combined, graph_fingerprint
from .moments import Moments
from .observers import Observer
from .saved import SavedState
from .taps import MEMORY, Tapped, Twin, chunked
from .ticker import Progress, Ticker

SECONDS = 5.0
"""Between two saves."""
Statistic = Observer | Moments


Wanted = Mapping[Value, Sequence[Statistic]]


def collect(
    graph: Graph,
    wanted: Wanted,
    samples: Samples,
    *,
    progress: Progress | None = None,
    state: str | Path | None = None,
    twin: Twin | None = None,
    memory: int = MEMORY,
    seconds: float = SECONDS,
) -> tuple[str, ...]:
    """Feed every sample's values to their statistics, which must be fresh; returns notes.

    `progress(done, total, label)` is called at least twice a second. `state` is a folder to save
    to, and to go on from. After an exception the statistics are undefined: make new ones.

    Raises:
        InvalidInput: a value that holds NaN, or a state folder that cannot be written to.
    """
    _check_twin(wanted, twin)
    first = next(iter(samples))
    chunks = chunked(graph, list(wanted), first, memory)
    saved = None if state is None else SavedState(state, _key(graph, wanted, samples, twin, chunks))
    work = _Work(wanted, samples, chunks, saved, seconds)
    start = work.resume()
    with Ticker(progress, len(chunks) * samples.count) as ticker:
        try:
            for number in range(start // samples.count, len(chunks)):
                work.run(Tapped(graph, chunks[number], twin), number, ticker)
        except KeyboardInterrupt:
            work.save_if_whole()
            raise
    work.save()
    return (*samples.notes, *work.notes())


class _Work:
    """The statistics, where the work is, and when it was saved."""

    def __init__(
        self,
        wanted: Wanted,
        samples: Samples,
        chunks: Sequence[Sequence[Value]],
        saved: SavedState | None,
        seconds: float,
    ) -> None:
        self.wanted = wanted
        self.samples = samples
        self.total = len(chunks) * samples.count
        self._saved = saved
        self._seconds = seconds
        self._next = time.monotonic() + seconds
        self._position = 0
        self._whole = True
        self._resumed = 0

    def resume(self) -> int:
        """Take over what is saved; the position to go on from."""
        found = None if self._saved is None else self._saved.load()
        if found is not None:
            self._position, arrays = found
            self._resumed = self._position
            for prefix, statistic in self._named():
                start = len(prefix)
                fields = {k[start:]: v for k, v in arrays.items() if k.startswith(prefix)}
                statistic.restore(fields)
        elif self._saved is not None:
            self.save()  # so that a folder that cannot be written to fails before hours of work
        return self._position

    def run(self, probe: Tapped, chunk: int, ticker: Ticker) -> None:
        """Feed one chunk's values with the samples that it has not seen."""
        count = self.samples.count
        start = self._position - chunk * count
        for index, sample in enumerate(self.samples.since(start), start):
            ticker.step(self._position, f"calibrating: sample {index + 1} of {count}")
            taken = probe(sample)
            self._whole = False
            for value, array, twin in taken:
                self._feed(value, array, twin, index)
            self._position += 1
            self._whole = True
            if self._saved is not None and time.monotonic() >= self._next:
                self.save()
        ticker.step(self._position, f"calibrating: sample {count} of {count}")

    def save(self) -> None:
        """Save now, and put the next save off by at least ten times what this one took."""
        if self._saved is None:
            return
        began = time.monotonic()
        arrays = {f"{p}{k}": v for p, s in self._named() for k, v in s.state().items()}
        self._saved.save(self._position, arrays)
        now = time.monotonic()
        self._next = now + max(self._seconds, 10 * (now - began) if self._seconds else 0)

    def save_if_whole(self) -> None:
        """Save unless a sample has been fed to some statistics only."""
        if self._whole:
            self.save()

    def notes(self) -> list[str]:
        """What the user should know."""
        notes = list(self._saved.notes) if self._saved is not None else []
        if self._resumed:
            notes.append(f"calibration went on from step {self._resumed} of {self.total}")
        for value, statistics in self.wanted.items():
            skipped = max((s.skipped for s in statistics if isinstance(s, Observer)), default=0)
            if skipped:
                notes.append(f"{value.name!r}: {skipped} infinite numbers were left out")
        return notes

    def _named(self) -> list[tuple[str, Statistic]]:
        return [
            (f"{number}.{position}.", statistic)
            for number, statistics in enumerate(self.wanted.values())
            for position, statistic in enumerate(statistics)
        ]

    def _feed(self, value: Value, array: np.ndarray, twin: np.ndarray | None, index: int) -> None:
        try:
            for statistic in self.wanted[value]:
                if isinstance(statistic, Moments):
                    statistic.update(array, twin if statistic.crossed else None)
                else:
                    statistic.update(array)
        except InvalidInput as error:
            raise InvalidInput(
                f"the model's value {value.name!r} on calibration sample {index}: {error}; "
                "the model overflows on this sample: leave it out, or leave this value in float"
            ) from error


def _check_twin(wanted: Wanted, twin: Twin | None) -> None:
    for value, statistics in wanted.items():
        crossed = any(isinstance(s, Moments) and s.crossed for s in statistics)
        if crossed and (twin is None or value not in twin.values):
            raise ValueError(f"expected a twin of {value.name!r}, whose moments keep cross")


def _key(
    graph: Graph,
    wanted: Wanted,
    samples: Samples,
    twin: Twin | None,
    chunks: Sequence[Sequence[Value]],
) -> dict[str, str]:
    """What a saved state depends on."""
    asked = [
        f"{v.name}: {', '.join(s.spec for s in statistics)}" for v, statistics in wanted.items()
    ]
    key = {
        "model": graph_fingerprint(graph),
        "data": samples.fingerprint(),
        "method": combined(*asked, str([len(chunk) for chunk in chunks])),
    }
    if twin is not None:
        pairs = [f"{value.name}={other.name}" for value, other in twin.values.items()]
        key["float model"] = combined(graph_fingerprint(twin.graph), *pairs)
    return key
