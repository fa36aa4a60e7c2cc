"""Connections to the database, and what its errors mean.

Every piece of work is one transaction on a connection of its own, so that processes may be forked
or killed at any moment. On SQLite a write takes the lock when it begins: one that first reads and
then writes would be refused at once, not wait, if another had written in between.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from ...errors import InvalidInput
from ..cache_folder import VARIABLE
from .place import Place

BUSY_SECONDS = 60
"""How long SQLite waits for another process's transaction."""
CONNECT_SECONDS = 10
"""How long a server may take to answer, where its driver knows `connect_timeout`."""
BUSY, READONLY, IOERR, CORRUPT, FULL, CANTOPEN, NOTADB = 5, 8, 10, 11, 13, 14, 26
"""SQLite's result codes."""
NO_SPACE = ("disk is full", "No space left on device", "disk full")
TIMED = ("psycopg2", "psycopg", "pymysql", "mysqldb")
"""Drivers that take `connect_timeout`."""

READ, WRITE, ALONE = "BEGIN", "BEGIN IMMEDIATE", ""
"""How SQLite begins a transaction; some statements may not be in one."""

T = TypeVar("T")


class Corrupt(InvalidInput):
    """The SQLite file is damaged, or none of SQLite's."""


def connect_options(place: Place) -> dict[str, Any]:
    """What the driver's `connect` is given besides the URL."""
    if place.file is not None:
        return {"timeout": BUSY_SECONDS}
    if place.url.get_driver_name() in TIMED and "connect_timeout" not in place.url.query:
        return {"connect_timeout": CONNECT_SECONDS}
    return {}


def engine_of(place: Place) -> sa.Engine:
    """An engine that keeps no connection open."""
    options = connect_options(place)
    engine = sa.create_engine(place.url, poolclass=NullPool, connect_args=options)
    if place.file is not None:
        sa.event.listen(engine, "connect", _begin_ourselves)
        sa.event.listen(engine, "begin", _begin)
    return engine


def _begin_ourselves(connection: Any, _: object) -> None:
    connection.isolation_level = None


def _begin(connection: sa.Connection) -> None:
    if statement := connection.get_execution_options().get("begin", READ):
        connection.exec_driver_sql(statement)


def transact(
    engine: sa.Engine, place: Place, work: Callable[[sa.Connection], T], *, writes: bool = False
) -> T:
    """Do the work in one transaction.

    Raises:
        InvalidInput: the database refuses; says what to do. `Corrupt` if the file is damaged.
        sqlalchemy.exc.IntegrityError: another process stored the same key first.
    """
    with explained(place), engine.connect() as connection:
        with connection.execution_options(begin=WRITE if writes else READ).begin():
            return work(connection)


def pragma(engine: sa.Engine, place: Place, statement: str) -> None:
    """Run a statement of SQLite's that may not be within a transaction."""
    with explained(place), engine.connect() as connection:
        connection.execution_options(begin=ALONE).exec_driver_sql(statement)


@contextmanager
def explained(place: Place) -> Iterator[None]:
    """Turn the database's errors into ours, the password never shown."""
    try:
        yield
    except sa.exc.IntegrityError:
        raise
    except sa.exc.DBAPIError as error:
        raise _meaning(error, place) from error


def _meaning(error: sa.exc.DBAPIError, place: Place) -> InvalidInput:
    text = place.hide(" ".join(str(error.orig).split()))
    code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF
    if code in (CORRUPT, NOTADB):
        return Corrupt(f"database {place} is damaged: {text}")
    if code == FULL or any(phrase in text for phrase in NO_SPACE):
        return InvalidInput(
            f"database {place}: the disk is full; what was stored before is kept. Make room and "
            "start again"
        )
    if code == BUSY:
        return InvalidInput(
            f"database {place}: another process has kept it locked for {BUSY_SECONDS} s"
        )
    if code in (READONLY, CANTOPEN, IOERR):
        return unwritable(place, text)
    if place.file is None and isinstance(error, sa.exc.OperationalError):
        return InvalidInput(f"cannot reach database {place}: {text}")
    return InvalidInput(f"database {place} refuses: {text}")


def unwritable(place: Place, reason: object) -> InvalidInput:
    """What to say of a file that cannot be written."""
    return InvalidInput(
        f"cannot write database {place}: {reason}; set {VARIABLE} to a folder that can be written"
    )
