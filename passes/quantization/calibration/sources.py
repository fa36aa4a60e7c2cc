"""The forms in which users have calibration data, each as a stream of samples."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import numpy as np

from ....errors import InvalidInput
from .checks import Input, match_names, to_array
from .tables import ArrayRows, Rows, archive, read_file


@dataclass(frozen=True)
class Source:
    """Samples as given, not yet checked.

    Attributes:
        stream: starts a pass over them.
        lasting: a second pass is possible, and gives the same.
        label: what the source is, for messages.
    """

    stream: Callable[[], Iterator[object]]
    lasting: bool
    label: str


class Reader(Protocol):
    """ONNX Runtime's CalibrationDataReader."""

    def get_next(self) -> Mapping[str, object] | None:
        """The next sample by input name, or None at the end."""
        ...


def source_of(source: object, inputs: Sequence[Input]) -> Source:
    """Recognise a source.

    Raises:
        InvalidInput: it is none of the known forms, or a file cannot be read.
    """
    label = type(source).__name__
    if isinstance(source, str | Path):
        return _path(Path(source), inputs)
    if callable(getattr(source, "get_next", None)):
        return _reader(cast(Reader, source), label)
    if isinstance(source, Mapping):
        columns = {k: ArrayRows(to_array(v, f"array {k!r}")) for k, v in source.items()}
        return _table(columns, inputs, label)
    if hasattr(source, "shape") and hasattr(source, "dtype"):
        return _table({"arr_0": ArrayRows(to_array(source, label))}, inputs, label)
    if hasattr(source, "batch_sampler") and hasattr(source, "dataset"):
        # A DataLoader may shuffle and augment, so that no second pass would be the same.
        return Source(lambda: iter(cast(Iterable[object], source)), False, label)
    if isinstance(source, Iterable):
        return Source(lambda: iter(source), not isinstance(source, Iterator), label)
    if hasattr(source, "__getitem__") and hasattr(source, "__len__"):
        return Source(lambda: _items(cast(Sequence[object], source)), True, label)
    if callable(source):
        return _function(source, label)
    raise InvalidInput(
        "expected calibration data as a list of samples, an iterable, a DataLoader, a function, "
        f"a path of .npz or .npy files, or a CalibrationDataReader; got {label}"
    )


def _items(dataset: Sequence[object]) -> Iterator[object]:
    return (dataset[index] for index in range(len(dataset)))


def _function(source: Callable[..., object], label: str) -> Source:
    try:
        inspect.signature(source).bind()
    except TypeError as error:
        raise InvalidInput(
            f"expected a function of no arguments that gives samples, got {label}: {error}"
        ) from error

    def stream() -> Iterator[object]:
        made = source()
        if not isinstance(made, Iterable):
            raise InvalidInput(
                f"expected the calibration function to give an iterable, got {type(made).__name__}"
            )
        return iter(made)

    return Source(stream, True, label)


def _reader(reader: Reader, label: str) -> Source:
    rewind = getattr(reader, "rewind", None)

    def stream() -> Iterator[object]:
        if callable(rewind):
            rewind()
        while (sample := reader.get_next()) is not None:
            yield sample

    return Source(stream, callable(rewind), label)


def _path(path: Path, inputs: Sequence[Input]) -> Source:
    if path.is_dir():
        return _folder(path)
    if not path.is_file():
        raise InvalidInput(f"calibration data: no such file or folder: {path}")
    if path.suffix == ".npz":
        return _table(archive(path), inputs, str(path))
    if path.suffix == ".npy":
        return _table({"arr_0": ArrayRows(read_file(path)["arr_0"])}, inputs, str(path))
    raise InvalidInput(f"calibration data: expected an .npz or .npy file, or a folder, got {path}")


def _folder(folder: Path) -> Source:
    """One sample or batch a file, in the order of the names."""
    files = sorted(path for path in folder.iterdir() if path.suffix in (".npz", ".npy"))
    if not files:
        raise InvalidInput(f"calibration data: the folder {folder} holds no .npz or .npy file")
    return Source(lambda: (read_file(path) for path in files), True, str(folder))


def _table(columns: Mapping[str, Rows], inputs: Sequence[Input], label: str) -> Source:
    """Arrays with a leading sample axis: row i of each makes sample i.

    Where an array has as many axes as the input, that axis is also the input's own first one; a
    sample is then as many rows as a static extent asks for, else one.
    """
    keys = match_names(columns, [value.name for value in inputs], label)
    plans = [
        (columns[key], *_block(columns[key], value))
        for key, value in zip(keys, inputs, strict=True)
    ]
    counts = {key: rows.shape[0] // size for key, (rows, size, _) in zip(keys, plans, strict=True)}
    if len(set(counts.values())) > 1:
        raise InvalidInput(f"{label}: arrays have different numbers of samples: {counts}")

    def stream() -> Iterator[dict[str, np.ndarray]]:
        blocks = [rows.blocks(size) for rows, size, _ in plans]
        for parts in zip(*blocks, strict=True):
            yield {
                value.name: part[0] if stacked else part
                for value, part, (_, _, stacked) in zip(inputs, parts, plans, strict=True)
            }

    return Source(stream, True, label)


def _block(rows: Rows, value: Input) -> tuple[int, bool]:
    """How many rows make a sample, and whether the sample axis comes before the input's own."""
    if not rows.shape:
        raise InvalidInput(f"calibration data for {value.name!r}: expected a leading sample axis")
    if value.shape is None or len(rows.shape) == len(value.shape) + 1:
        return 1, value.shape is not None
    lead = value.shape[0] if value.shape and len(rows.shape) == len(value.shape) else 1
    return (lead if isinstance(lead, int) and lead > 0 else 1), False
