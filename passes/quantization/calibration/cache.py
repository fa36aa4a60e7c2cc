"""What a calibration found, in a file: ranges as readable JSON, moments in an .npz beside it.

The file carries what it depends on (`calibration_key`) and is used for exactly that. A user's own
file is taken as it is: {"tensor": [low, high]}, or what ONNX Runtime's calibrator saves.
"""

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ....errors import InvalidInput
from ....graph import Graph
from .data import Samples
from .files import write_whole
from .fingerprint import combined, graph_fingerprint
from .observers import State

MARK = "passel calibration"
VERSION = 1
Ranges = Mapping[str, tuple[np.ndarray, np.ndarray]]
"""(low, high) by value name, [] or [C] float64."""


@dataclass(frozen=True)
class Calibration:
    """The content of a cache.

    Attributes:
        ranges: by value name.
        moments: the state of the moments of a value, by its name.
        given: whether a user wrote the file, so that it holds whatever the model and data.
    """

    ranges: Ranges
    moments: Mapping[str, State] = field(default_factory=dict)
    given: bool = False


def calibration_key(graph: Graph, samples: Samples, methods: Sequence[str]) -> dict[str, str]:
    """What a calibration depends on; `methods` are specs of statistics, grids, names of values."""
    return {
        "model": graph_fingerprint(graph),
        "data": samples.fingerprint(),
        "method": combined(*methods),
    }


class CalibrationCache:
    """The file at `path` (`calibration_cache_path`).

    Attributes:
        notes: whether it was used, and why not.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.notes: list[str] = []

    @property
    def beside(self) -> Path:
        """The file of moments."""
        return self.path.with_name(f"{self.path.name}.npz")

    def read(self, key: Mapping[str, str]) -> Calibration | None:
        """What the file holds for this key; None where it is absent or stale, with a note.

        Raises:
            InvalidInput: it is not JSON, or an entry is not a range.
        """
        if not self.path.exists():
            return None
        content = _parsed(self.path)
        if MARK not in content:
            ranges = _ranges(content.get("data", content), self.path)
            self.notes.append(f"ranges of {len(ranges)} tensors are those given in {self.path}")
            return Calibration(ranges, given=True)
        stored = content.get("key")
        held: Mapping[str, object] = stored if isinstance(stored, dict) else {}
        changed = [part for part, hashed in key.items() if held.get(part) != hashed]
        if content[MARK] != VERSION or changed:
            what = " and ".join(changed) or "version"
            self.notes.append(
                f"the calibration cache {self.path} was made for another {what}: recomputed"
            )
            return None
        moments = self._moments(content.get("moments", []), key)
        if moments is None:
            self.notes.append(
                f"the calibration cache {self.path} has lost {self.beside.name}: recomputed"
            )
            return None
        self.notes.append(f"calibration taken from the cache {self.path}")
        return Calibration(_ranges(content.get("ranges"), self.path), moments)

    def write(self, key: Mapping[str, str], found: Calibration) -> None:
        """Replace the file, the moments first.

        Raises:
            InvalidInput: the file is a user's own, or cannot be written.
        """
        if self.path.exists() and MARK not in _parsed(self.path):
            raise InvalidInput(f"{self.path} holds ranges that passel did not write: not replaced")
        if found.moments:
            arrays = {
                f"{number}.{name}": array
                for number, state in enumerate(found.moments.values())
                for name, array in state.items()
            }
            seal = np.array(_seal(key))
            write_whole(self.beside, lambda file: np.savez(file, seal=seal, **arrays))  # type: ignore[arg-type]
        content = {
            MARK: VERSION,
            "key": dict(key),
            "ranges": {
                name: [low.tolist(), high.tolist()] for name, (low, high) in found.ranges.items()
            },
            "moments": list(found.moments),
        }
        text = json.dumps(content, indent=1) + "\n"
        write_whole(self.path, lambda file: file.write(text.encode()))

    def _moments(self, names: object, key: Mapping[str, str]) -> dict[str, State] | None:
        """The states by name, or None when the file beside is not of this key."""
        if not isinstance(names, list) or not names:
            return {}
        try:
            with np.load(self.beside, allow_pickle=False) as file:
                if str(file["seal"]) != _seal(key):
                    return None
                arrays = {name: file[name] for name in file.files if name != "seal"}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
        found: dict[str, State] = {str(name): {} for name in names}
        for name, array in arrays.items():
            number, field_name = name.split(".", 1)
            found[str(names[int(number)])][field_name] = array
        return found


def _seal(key: Mapping[str, str]) -> str:
    return combined(*(f"{name}={value}" for name, value in sorted(key.items())))


def _parsed(path: Path) -> dict[str, object]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidInput(f"the calibration cache {path} cannot be read as JSON: {error}") from (
            error
        )
    if not isinstance(content, dict):
        raise InvalidInput(
            f'the calibration cache {path}: expected {{"tensor": [low, high]}}, got a '
            f"{type(content).__name__}"
        )
    return content


def _ranges(entries: object, path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    if not isinstance(entries, dict):
        raise InvalidInput(f"the calibration cache {path}: expected ranges by tensor name")
    return {name: _range(entry, f"{path}, tensor {name!r}") for name, entry in entries.items()}


def _range(entry: object, where: str) -> tuple[np.ndarray, np.ndarray]:
    """[low, high], {"low": .., "high": ..}, or ORT's {"lowest": .., "highest": ..}."""
    pair = entry
    if isinstance(entry, dict):
        pair = [entry.get("low", entry.get("lowest")), entry.get("high", entry.get("highest"))]
    if not isinstance(pair, list) or len(pair) != 2:
        raise InvalidInput(f"{where}: expected [low, high], got {entry!r}")
    low, high = (_numbers(end, where) for end in pair)
    if low.shape != high.shape or not np.isfinite(low).all() or not np.isfinite(high).all():
        raise InvalidInput(f"{where}: expected two finite ends of one shape, got {entry!r}")
    if (low > high).any():
        raise InvalidInput(f"{where}: the low end is above the high end in {entry!r}")
    return low, high


def _numbers(end: object, where: str) -> np.ndarray:
    data = end.get("data") if isinstance(end, dict) else end
    try:
        found = np.asarray(data, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{where}: expected numbers, got {data!r}") from error
    if found.ndim > 1:
        raise InvalidInput(f"{where}: expected one number or one a channel, got {data!r}")
    return found.reshape(()) if found.size == 1 and isinstance(end, dict) else found
