"""Whether a file is one of SQLite's, found out without losing the locks that are held on it."""

import os
from pathlib import Path

HEADER = b"SQLite format 3\0"
_held: dict[tuple[int, int], int] = {}
"""Open descriptors of the files that this process has looked into, by device and inode. They are
never closed: that would drop every lock that the process has on the file, those of SQLite included.
"""


def is_sqlite(file: Path) -> bool:
    """Whether a file begins as SQLite's do; one that is empty, or not there, will."""
    head = _beginning(file) if file.is_file() else b""
    return head in (b"", HEADER)


def _beginning(file: Path) -> bytes:
    """As many bytes as a header has."""
    if os.name != "posix":  # whose locks are the descriptor's own; an open file cannot be renamed
        with file.open("rb") as stream:
            return stream.read(len(HEADER))
    found = file.stat()
    key = found.st_dev, found.st_ino
    if key not in _held:
        _held[key] = os.open(file, os.O_RDONLY)
    os.lseek(_held[key], 0, os.SEEK_SET)
    return os.read(_held[key], len(HEADER))
