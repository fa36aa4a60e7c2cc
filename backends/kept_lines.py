"""Values by key in a file: a line of JSON for each, appended in one write.

Several processes may share the file; a line that cannot be read is passed over, and the last one of
a key counts. A file that cannot be read holds nothing.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class KeptLines(Generic[T]):
    """What a file holds, and what is added to it.

    Attributes:
        path: the file; None for memory alone.
    """

    def __init__(self, path: Path | None, read: Callable[[Any], T]) -> None:
        """`read` makes a value of what JSON has; ValueError or TypeError if it cannot."""
        self.path = path
        self._known: dict[str, T] = {}
        for line in _lines(path):
            try:
                key, value = json.loads(line)
                self._known[str(key)] = read(value)
            except (ValueError, TypeError):
                continue

    def __len__(self) -> int:
        return len(self._known)

    def get(self, key: str) -> T | None:
        """The value of a key, if there is one."""
        return self._known.get(key)

    def keep(self, key: str, value: T) -> None:
        """The same as `put`, but a file that cannot be written only costs time later."""
        try:
            self.put(key, value)
        except OSError:
            self.path = None

    def put(self, key: str, value: T) -> None:
        """Keep a value.

        Raises:
            OSError: it cannot be written; it is known all the same.
        """
        self._known[key] = value
        if self.path is None:
            return
        line = json.dumps([key, value]) + "\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            os.write(file, line.encode())
        finally:
            os.close(file)


def _lines(path: Path | None) -> list[str]:
    """The lines of a file; none where it is missing or cannot be read."""
    try:
        return [] if path is None else path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return []
