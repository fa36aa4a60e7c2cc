"""Read one record of a SQLite file by the standard library alone.

A lookup is to be fast, and importing SQLAlchemy takes longer than all else that it does.
"""

import sqlite3
from contextlib import closing
from dataclasses import fields
from pathlib import Path

from ...errors import InvalidInput
from .header import is_sqlite
from .records import Key, Record

PATIENCE = 5.0
"""Seconds to wait for a process that writes."""
OWN = tuple(field.name for field in fields(Record) if field.name not in ("key", "model"))
"""Columns of the table of results that are a record's own."""
VERSION = "SELECT value FROM passel_meta WHERE name = 'schema'"
RECORD = (
    f"SELECT {', '.join(f'passel_results.{name}' for name in OWN)}, passel_models.name "
    "FROM passel_results JOIN passel_models ON passel_models.graph = passel_results.graph "
    "WHERE passel_results.digest = ?"
)
SCHEMA = 1
"""The version of the tables that these statements are for."""


def glimpse(file: Path, key: Key) -> Record | None:
    """The record of exactly this key.

    None too where the file is missing, damaged, locked or of another version: `Database` has more
    to say of it then.
    """
    try:
        if not file.is_file() or not is_sqlite(file):
            return None
        with closing(sqlite3.connect(file, timeout=PATIENCE)) as connection:
            if connection.execute(VERSION).fetchone() != (str(SCHEMA),):
                return None
            row = connection.execute(RECORD, (key.digest,)).fetchone()
        if row is None:
            return None
        *own, model = row
        return Record(key=key, model=model, **dict(zip(OWN, own, strict=True)))
    except (OSError, sqlite3.Error, InvalidInput, TypeError):
        return None
