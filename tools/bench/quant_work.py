"""Where the quantization benchmark keeps what it built, and whether that is still current.

    ROOT/MODEL/float/model.onnx, judged.N.npz, expected.N.npz, built.json
    ROOT/MODEL/SIDE/..., built.json, error.json

A folder appears under its name only when it is complete. `built.json` holds a key made of the code,
the versions and the float model that it came from; another key means building anew.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
FLOAT = "float"
FLOAT_SOURCES = ("models.py", "quant_models.py", "quant_decode.py", "quant_build.py")


@dataclass(frozen=True)
class Place:
    """The folders of one model."""

    root: Path
    model: str

    def side(self, side: str) -> Path:
        """The folder of a side, or of the float model."""
        return self.root / self.model / side.replace(":", "-")

    def judged(self, index: int) -> Path:
        """A held-out input."""
        return self.side(FLOAT) / f"judged.{index}.npz"

    def expected(self, index: int) -> Path:
        """What the float model makes of it."""
        return self.side(FLOAT) / f"expected.{index}.npz"

    def error(self, side: str) -> Path:
        """The side's error on the held-out inputs."""
        return self.side(side) / "error.json"

    def built(self, side: str) -> "dict[str, Any]":
        """What is known about a folder; empty if it is not there."""
        path = self.side(side) / "built.json"
        found: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
        return found

    def float_model(self) -> "dict[str, Any]":
        """What is known about the float model."""
        return self.built(FLOAT)

    def bytes(self, side: str) -> int:
        """Size of the side's files."""
        files = (path for path in self.side(side).rglob("*") if path.is_file())
        return sum(p.stat().st_size for p in files if p.name not in ("built.json", "error.json"))

    @contextmanager
    def making(self, side: str, record: "dict[str, Any]") -> Iterator[Path]:
        """A folder to fill, which replaces the side's at the end, with `record` in it."""
        target = self.side(side)
        part = target.with_name(f".{target.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        yield part
        (part / "built.json").write_text(json.dumps(record, indent=2), encoding="utf-8")
        shutil.rmtree(target, ignore_errors=True)
        part.replace(target)


def key(sources: Iterable[Path], *facts: object) -> str:
    """A hash of files and facts."""
    digest = hashlib.sha256(json.dumps(facts, default=str).encode())
    for path in sorted(sources):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def write_arrays(path: Path, arrays: Iterable[np.ndarray]) -> None:
    """Arrays in order."""
    np.savez(path, *arrays)


def read_arrays(path: Path) -> "list[np.ndarray]":
    """What `write_arrays` wrote."""
    with np.load(path) as stored:
        return [stored[f"arr_{index}"] for index in range(len(stored.files))]
