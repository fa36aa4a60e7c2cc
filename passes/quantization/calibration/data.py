"""Calibration samples: any source as a checked, re-iterable, fingerprinted stream of graph inputs.

Why: ranges are only as good as the data, and a run of hours must not end at its last sample. So
every sample is read and checked once before anything is calibrated: names, ranks, extents, dtypes,
NaN and Inf. That pass also gives the count and the fingerprint. Later passes are compared with it,
sample by sample (32 bytes each are kept), so a source that shuffles is caught and never mixed up.
Memory: one sample at a time. What can be read once only, or at random, goes to a temporary file.
"""

import hashlib
import itertools
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Self

import numpy as np

from ....errors import InvalidInput
from .checks import Arrays, Checker, Input
from .sources import source_of
from .spool import Spool

Stream = Callable[[int], Iterator[Arrays]]
"""The samples from a given index on."""


class Samples:
    """Samples of a graph's inputs; iterating gives, per sample, one array an input, in order.

    Attributes:
        notes: what the user should know: surplus entries left out, constant data, ...
    """

    def __init__(self, names: Sequence[str], stream: Stream, digests: Sequence[bytes]) -> None:
        self.names = tuple(names)
        self.notes: tuple[str, ...] = ()
        self._stream = stream
        self._digests = tuple(digests)

    @classmethod
    def of(cls, source: object, inputs: Sequence[Input], *, limit: int | None = None) -> "Samples":
        """Read and check a source once; `limit` takes the first so many samples.

        A source is a list of samples, any iterable, a DataLoader, a function that gives an
        iterable, an .npz or .npy file with a leading sample axis, a folder of such files with one
        sample each, a dict of arrays, or an ONNX Runtime CalibrationDataReader. A sample is an
        array, a tuple or a dict by input name; what a tuple has beyond the inputs is left out.

        Raises:
            InvalidInput: no samples, or one that does not fit the inputs.
        """
        if limit is not None and limit < 1:
            raise InvalidInput(f"expected at least 1 calibration sample, got a limit of {limit}")
        if isinstance(source, Samples):
            return source if limit is None else source.take(range(min(limit, source.count)))
        found = source_of(source, inputs)
        checker = Checker(inputs)

        def fresh() -> Iterator[Arrays]:
            return itertools.islice(checker.checked(found.stream()), limit)

        spool = None if found.lasting else Spool()
        survey = _Survey()
        for sample in fresh():
            survey.add(sample)
            if spool is not None:
                spool.append(sample)
        if not survey.digests:
            raise InvalidInput(f"the calibration data ({found.label}) is empty: give some samples")
        again: Stream = lambda start: itertools.islice(fresh(), start, None)  # noqa: E731
        samples = cls(checker.names, spool.since if spool else again, survey.digests)
        samples.notes = (*checker.notes, *survey.notes())
        return samples

    @property
    def count(self) -> int:
        return len(self._digests)

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Arrays]:
        return self.since(0)

    def since(self, start: int) -> Iterator[Arrays]:
        """The samples from index `start` on.

        Raises:
            InvalidInput: the source no longer gives what it gave at first.
        """
        stream = self._stream(start)
        for index in range(start, self.count):
            sample = next(stream, None)
            if sample is None or digest(sample) != self._digests[index]:
                what = "is missing" if sample is None else "differs"
                raise InvalidInput(
                    f"calibration sample {index} {what} on a later pass over the data: a source "
                    "must give the same samples each time (seed it, or give a list or a generator)"
                )
            yield sample

    def take(self, indices: Collection[int]) -> Self:
        """Only the samples of these indices, in the order of the data."""
        chosen = sorted(set(indices))
        if not chosen or chosen[0] < 0 or chosen[-1] >= self.count:
            raise ValueError(f"expected indices of {self.count} samples, got {chosen}")
        wanted = frozenset(chosen)

        def stream(start: int) -> Iterator[Arrays]:
            first = chosen[start] if start < len(chosen) else self.count
            for index, sample in enumerate(self.since(first), first):
                if index in wanted:
                    yield sample

        taken = type(self)(self.names, stream, [self._digests[index] for index in chosen])
        taken.notes = self.notes
        return taken

    def fingerprint(self) -> str:
        """A hash of the names, shapes, dtypes and bytes of all samples in their order."""
        total = hashlib.sha256("\n".join(self.names).encode())
        for each in self._digests:
            total.update(each)
        return total.hexdigest()


def digest(sample: Arrays) -> bytes:
    """The hash of one sample."""
    found = hashlib.sha256()
    for array in sample:
        found.update(f"{array.dtype.name}{array.shape}".encode())
        found.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return found.digest()


class _Survey:
    """What one pass over all samples tells of them."""

    def __init__(self) -> None:
        self.digests: list[bytes] = []
        self._flat = True

    def add(self, sample: Arrays) -> None:
        self.digests.append(digest(sample))
        self._flat = self._flat and all(bool((a == a.flat[0]).all()) for a in sample)

    def notes(self) -> list[str]:
        same = len(set(self.digests)) == 1
        if same and self._flat:
            return [
                "the calibration data is constant: every value of every sample is the same, so "
                "ranges say nothing about real inputs"
            ]
        if same and len(self.digests) > 1:
            return [f"all {len(self.digests)} calibration samples are identical"]
        return []
