"""What earlier comparisons of kernels found, in a file in the user's cache folder.

One line per verdict, appended in one write, so that several processes may share the file; a line
that cannot be read is passed over.
"""

import json
import os
from pathlib import Path

from .available import TVM

FILE = "tvm-kernels.jsonl"
FORMAT = 1
"""To be raised when the comparison becomes stricter."""


class Verdicts:
    """Verdicts by kernel: "" for one that agrees with its plain form, else how it differs."""

    def __init__(self, folder: Path | None) -> None:
        self._path = None if folder is None else folder / FILE
        self._known: dict[str, str] = {}
        if self._path is not None and self._path.is_file():
            for line in self._path.read_text(encoding="utf-8", errors="replace").splitlines():
                self._read(line)

    def get(self, key: str) -> str | None:
        """The verdict, if there is one."""
        return self._known.get(_full(key))

    def put(self, key: str, verdict: str) -> None:
        """Keep a verdict; a folder that cannot be written to only costs time later."""
        self._known[_full(key)] = verdict
        if self._path is None:
            return
        line = json.dumps([_full(key), verdict]) + "\n"
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                os.write(file, line.encode())
            finally:
                os.close(file)
        except OSError:
            self._path = None

    def _read(self, line: str) -> None:
        try:
            key, verdict = json.loads(line)
            self._known[str(key)] = str(verdict)
        except (ValueError, TypeError):
            pass


def _full(key: str) -> str:
    return f"{FORMAT}:{TVM}:{key}"
