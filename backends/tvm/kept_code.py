"""Compiled code in the user's cache folder: what was compiled and checked once is loaded later.

Weights are parameters of `main`, so the code of a module serves all weights. It is named by the
module, the machine and the compiler, this package included. Schedules that measurement found later
make it stale, so what it was made with is kept beside it.
"""

import hashlib
import json
import platform
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import InvalidInput, InvalidModel
from ..artefacts import Artefacts, artefact_key
from .available import TVM
from .code import Code, files_of, library_at, read_files, write_files
from .machine import Machine
from .pipeline import build
from .tuned import Tuned, kernel_key, structural_key

if TYPE_CHECKING:
    import tvm

    from .schedules import Scheduled

CODE, DESCRIPTION = "code", "code.json"


def checked_code(module: "tvm.IRModule", machine: Machine, tuned: Tuned | None) -> Code:
    """The code of a module, kernels compared with their plain forms; the kept one if there is.

    Args:
        module: as `emit` makes it.
        machine: what it is for; it must be this one.
        tuned: schedules that were found by measurement.
    """
    kept = KeptCode(module, machine, tuned or Tuned())
    code = kept.load()
    if code is None:
        code, scheduled = compiled_code(module, machine, tuned, check=True)
        kept.keep(code, scheduled)
    return code


def compiled_code(
    module: "tvm.IRModule", machine: Machine, tuned: Tuned | None, *, check: bool = False
) -> "tuple[Code, Scheduled]":
    """The code of a module, compiled now; see `pipeline.build`."""
    executable, scheduled = build(module, machine, check=check, tuned=tuned)
    return Code(executable, scheduled.rules, scheduled.serial, _notes(scheduled)), scheduled


class KeptCode:
    """The code of one module in the cache folder."""

    def __init__(self, module: "tvm.IRModule", machine: Machine, tuned: Tuned) -> None:
        self._artefacts = Artefacts()
        self._tuned = tuned
        self._key = artefact_key(
            structural_key(module),
            json.dumps(asdict(machine)),
            platform.platform(),
            TVM,
            _sources(),
        )

    def load(self) -> Code | None:
        """The code, if it is there, whole, and made with the schedules that are known now."""
        folder = self._artefacts.find(self._key)
        if folder is None:
            return None
        try:
            described = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
            if any(self._schedule(key) != made for key, made in described["schedules"].items()):
                return None
            files = read_files(folder / CODE, described["files"])
            library = library_at(folder / CODE, files)
            return Code(library, described["rules"], described["serial"], described["notes"], files)
        except (OSError, InvalidModel, ValueError, KeyError, TypeError, AttributeError):
            return None  # it is damaged, or another process is replacing it

    def keep(self, code: Code, scheduled: "Scheduled") -> None:
        """Put the code there; a folder that cannot be written to only costs time later."""
        try:
            code.files = files_of(code.library)
            self._artefacts.put(self._key, lambda folder: self._write(folder, code, scheduled))
        except InvalidInput:
            return  # no room, or no linker: `save` says so where it matters

    def _write(self, folder: Path, code: Code, scheduled: "Scheduled") -> None:
        folder.mkdir()
        assert code.files is not None
        described = {
            "files": write_files(code.files, folder / CODE),
            "rules": code.rules,
            "serial": code.serial,
            "notes": code.notes,
            "schedules": {key: self._schedule(key) for key in _kernels(scheduled)},
        }
        (folder / DESCRIPTION).write_text(json.dumps(described), encoding="utf-8")

    def _schedule(self, key: str) -> str:
        """What measurement says of a kernel now, as a hash; "" if nothing."""
        winner = self._tuned.winners.get(key)
        if winner is None:
            return ""
        return artefact_key(json.dumps(dict(winner.decisions), sort_keys=True), winner.trace)


def _kernels(scheduled: "Scheduled") -> set[str]:
    """The keys of all kernels of a module before they were scheduled."""
    from tvm import tirx

    functions = ((var.name_hint, f) for var, f in scheduled.module.functions_items())
    return {
        kernel_key(scheduled.plain.get(name, function))
        for name, function in functions
        if isinstance(function, tirx.PrimFunc)
    }


@cache
def _sources() -> str:
    """A hash of all that decides how code is made: this package."""
    package = Path(__file__).parent
    found = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()


def _notes(scheduled: "Scheduled") -> list[str]:
    """What went wrong while the kernels were scheduled."""
    rejected = (
        f"kernel {name!r} runs unscheduled: its schedule computes something else ({why})"
        for name, why in sorted(scheduled.rejected.items())
    )
    failed = (
        f"TVM refused to schedule {at}: {why}" for at, why in sorted(scheduled.failed.items())
    )
    return [*rejected, *failed]
