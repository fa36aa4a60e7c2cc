"""Let processes take turns where two at once would spoil it: making tables, moving a file away.

Locks of the operating system and of PostgreSQL, which go when their holder is killed.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from ..file_turn import file_turn
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
