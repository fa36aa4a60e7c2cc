"""Let processes take turns where two at once would spoil it: making tables, moving a file away.

Locks of the operating system and of PostgreSQL, which go when their holder is killed.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from .place import Place

ADVISORY = 0x70617373656C
"""Number of PostgreSQL's advisory lock: "passel" in ASCII."""


@contextmanager
def turn(engine: sa.Engine, place: Place) -> Iterator[None]:
    """Wait until no other process is within; a server other than PostgreSQL has no such lock."""
    if place.file is not None:
        with file_turn(place.file):
            yield
    elif engine.dialect.name == "postgresql":
        with engine.connect() as connection:
            connection.execute(sa.select(sa.func.pg_advisory_lock(ADVISORY)))
            yield  # closing the connection gives the lock back
    else:
        yield


@contextmanager
def file_turn(file: Path) -> Iterator[None]:
    """The same for a file, by an empty one beside it, which stays."""
    descriptor = os.open(file.with_name(f"{file.name}.lock"), os.O_CREAT | os.O_RDWR, 0o666)
    try:
        _lock(descriptor)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_LOCK, 1)
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX)
