"""Move a SQLite file that cannot be used out of the way. Nothing is ever deleted."""

import time
from pathlib import Path

SIDE_FILES = ("-wal", "-shm", "-journal")
"""What SQLite keeps beside its file; it would take them for the new file's."""


def set_aside(file: Path, reason: str) -> Path:
    """Rename `file` to `<name>.<reason>-<time>`, what lies beside it first; the new path."""
    aside = _free(file, f"{file.name}.{reason}-{time.strftime('%Y%m%d-%H%M%S')}")
    for suffix in SIDE_FILES:
        beside = file.with_name(file.name + suffix)
        if beside.exists():
            beside.rename(aside.with_name(aside.name + suffix))
    file.rename(aside)
    return aside


def _free(file: Path, name: str) -> Path:
    """A path of that name, numbered if it is taken."""
    path, number = file.with_name(name), 2
    while path.exists():
        path, number = file.with_name(f"{name}-{number}"), number + 1
    return path
