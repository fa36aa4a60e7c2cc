"""The model under search, in a folder that every candidate's process reads.

The model is written once, as ONNX and, where it came from torch, as an ExportedProgram too; beside
it what a candidate is compared with: inputs, and what the original made of them.
"""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch.export import ExportedProgram

from ...errors import InvalidInput, UnsupportedModel
from ...graph.fx_tensor import to_numpy, to_torch
from ...graph.onnx_io import read, write

ONNX, PROGRAM, ARRAYS, FACTS = "model.onnx", "model.pt2", "arrays.pt", "subject.json"

Arrays = list[np.ndarray]


@dataclass
class Subject:
    """What candidates are made of, and judged by.

    Attributes:
        onnx: the model as ONNX; None where it has no ONNX form.
        program: the model as torch exported it; None where it came as ONNX.
        target: "cpu" or "cuda".
        batches: inputs and what the original makes of them, those that are timed first.
        real: whether the first inputs are the user's own.
        max_error: relative error that a quantized candidate may have.
        imports: modules that define types of the program's arguments and results.
        stored: where the program waits to be read.
    """

    onnx: ir.Model | None
    program: ExportedProgram | None
    target: str
    batches: Sequence[tuple[Arrays, Arrays]]
    real: bool
    max_error: float | None = None
    imports: Sequence[str] = ()
    stored: Path | None = None

    @property
    def inputs(self) -> list[torch.Tensor]:
        """What candidates are timed on."""
        return [to_torch(array) for array in self.batches[0][0]]

    def write(self, folder: Path) -> str:
        """Write everything; says why where the exported program cannot be, and goes on without.

        Raises:
            InvalidInput: the disk is full, or the folder cannot be written.
        """
        lost = ""
        try:
            if self.onnx is not None:
                write(self.onnx, folder / ONNX)
            if self.program is not None:
                lost = self._write_program(folder / PROGRAM)
            torch.save(_each(self.batches, to_torch), folder / ARRAYS)
            homes = _homes(self.program)
            facts = {
                "imports": homes,
                "target": self.target,
                "real": self.real,
                "max_error": self.max_error,
            }
            (folder / FACTS).write_text(json.dumps(facts), encoding="utf-8")
        except OSError as error:
            raise InvalidInput(
                f"autotune: cannot write the model to {str(folder)!r} (TMPDIR): {error}"
            ) from error
        return lost

    def _write_program(self, path: Path) -> str:
        """torch.export.save refuses types of its own that it has no schema for."""
        assert self.program is not None
        try:
            torch.export.save(self.program, path)
        except OSError:
            raise
        except Exception as error:
            path.unlink(missing_ok=True)
            self.program = None
            return f"not tried on torch: torch.export.save fails: {error}".splitlines()[0]
        return ""

    @classmethod
    def read(cls, folder: Path) -> "Subject":
        """What `write` wrote; weights stay memory maps, the exported program waits in its file."""
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        onnx = read(folder / ONNX) if (folder / ONNX).exists() else None
        batches = _each(torch.load(folder / ARRAYS, weights_only=True), to_numpy)
        stored = folder / PROGRAM if (folder / PROGRAM).exists() else None
        return cls(onnx, None, batches=batches, stored=stored, **facts)

    def exported(self) -> ExportedProgram | None:
        """The exported program, read when it is first needed.

        Raises:
            UnsupportedModel: torch.export.load refuses it: a type of its results is unknown here.
        """
        if self.program is None and self.stored is not None:
            for name in self.imports:
                with suppress(ImportError):
                    import_module(name)
            try:
                self.program = torch.export.load(self.stored)
            except Exception as error:
                raise UnsupportedModel(f"torch.export.load fails: {error}") from error
        return self.program


def _homes(program: ExportedProgram | None) -> list[str]:
    """The modules of the types that a program's arguments and results are nested in."""
    if program is None:
        return []
    found: set[str] = set()
    waiting = [program.call_spec.in_spec, program.call_spec.out_spec]
    while waiting:
        spec = waiting.pop()
        if spec is not None and spec.type is not None:
            found.add(spec.type.__module__)
            waiting += spec.children()
    return sorted(found - {"builtins", "__main__"})


def _each(batches: Sequence[Any], turned: Callable[[Any], Any]) -> list[Any]:
    """Every array or tensor of every batch as the other."""
    return [tuple([turned(one) for one in side] for side in batch) for batch in batches]
