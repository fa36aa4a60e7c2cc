"""What earlier comparisons of kernels found, in a file in the user's cache folder."""

from pathlib import Path

from ..kept_lines import KeptLines
from .available import TVM

FILE = "tvm-kernels.jsonl"
FORMAT = 1
"""To be raised when the comparison becomes stricter."""


class Verdicts:
    """Verdicts by kernel: "" for one that agrees with its plain form, else how it differs."""

    def __init__(self, folder: Path | None) -> None:
        self._lines = KeptLines(None if folder is None else folder / FILE, str)

    def get(self, key: str) -> str | None:
        """The verdict, if there is one."""
        return self._lines.get(_full(key))

    def put(self, key: str, verdict: str) -> None:
        """Keep a verdict; a folder that cannot be written to only costs time later."""
        self._lines.keep(_full(key), verdict)


def _full(key: str) -> str:
    return f"{FORMAT}:{TVM}:{key}"
