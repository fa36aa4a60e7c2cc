"""Open a database so that it can be used: reachable, sound, with the tables of this version.

A SQLite file that is damaged, or older than any migration, is set aside and a new one begun.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from . import schema
from .connection import Corrupt, engine_of, explained, pragma, transact, unwritable
from .header import is_sqlite
from .place import Place
from .set_aside import set_aside
from .turns import turn


def opened(place: Place) -> tuple[sa.Engine, list[str]]:
    """An engine, and notes on what was done to the database.

    Raises:
        InvalidInput: it cannot be written or reached, or is newer than this passel.
    """
    engine = engine_of(place)
    with file_errors(place):
        if place.file is not None:
            make_folder(place)
        if is_ready(engine, place):
            return engine, []
        with explained(place), turn(engine, place):
            return engine, made_ready(engine, place)


def make_folder(place: Place) -> None:
    """Create the folder of a SQLite file, and see that it can be written."""
    assert place.file is not None
    try:
        place.file.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(f"{str(place.file.parent)!r} is not a folder") from error
    if not os.access(place.file.parent, os.W_OK):
        raise PermissionError("the folder is not writable")


def is_ready(engine: sa.Engine, place: Place) -> bool:
    """Whether the database can be used as it is."""
    try:
        check_header(place)
        return transact(engine, place, lambda c: _state(c, str(place))) == schema.SCHEMA
    except (Corrupt, schema.TooOld):
        return False


def check_header(place: Place) -> None:
    """Raise `Corrupt` if a file is none of SQLite's, before SQLite deletes the log beside it."""
    if place.file is not None and not is_sqlite(place.file):
        raise Corrupt(f"database {place} is damaged: it does not begin as SQLite's files do")


def _state(connection: sa.Connection, where: str) -> int | None:
    """The schema's version, once the file is known to be sound."""
    if connection.dialect.name == "sqlite":
        verdict = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
        if verdict != "ok":
            raise Corrupt(f"database {where} is damaged: {verdict}")
    return schema.version(connection, where)


def made_ready(engine: sa.Engine, place: Place) -> list[str]:
    """Make the tables, moving an unusable file away; notes on that. To be called in one's turn."""
    try:
        _prepare(engine, place)
        return []
    except (Corrupt, schema.TooOld) as error:
        if place.file is None:
            raise
        reason = "corrupt" if isinstance(error, Corrupt) else "old"
        aside = set_aside(place.file, reason)
        _prepare(engine, place)
        return [f"{error}; it was kept as {str(aside)!r}, and a new one begun"]


def _prepare(engine: sa.Engine, place: Place) -> None:
    check_header(place)
    if place.file is not None:
        # Readers and a writer do not wait for each other. Where the file system cannot do it,
        # SQLite stays in its former mode, which is as safe.
        pragma(engine, place, "PRAGMA journal_mode=WAL")

    def work(connection: sa.Connection) -> None:
        _state(connection, str(place))
        schema.prepare(connection, str(place))

    transact(engine, place, work, writes=True)


@contextmanager
def file_errors(place: Place) -> Iterator[None]:
    """Turn the system's refusals into ours.

    Raises:
        InvalidInput: a folder or file cannot be made, written or renamed.
    """
    try:
        yield
    except OSError as error:
        raise unwritable(place, error.strerror or error) from error
