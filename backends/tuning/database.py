"""Tuned results, kept in a SQL database that Optuna's trials share."""

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Self, TypeVar

import sqlalchemy as sa

from ...errors import InvalidInput
from . import exchange, rows, studies
from .connection import Corrupt, pragma, transact
from .opening import opened
from .place import Place
from .records import Key, Record
from .schema import results

if TYPE_CHECKING:
    from optuna.storages import RDBStorage

__all__ = ["Database", "Key", "Record"]

RACES = 5
"""How often another process may store, or remove, the very record that is being stored."""
DAY = 86400.0
GIVE_BACK = ("VACUUM", "PRAGMA wal_checkpoint(TRUNCATE)")
"""What makes SQLite's files as small as they can be."""

T = TypeVar("T")


class Database:
    """Open it with `Database.open`. Every method is one transaction on a connection of its own.

    All methods raise `InvalidInput` where the database refuses: it is locked, unreachable, full.

    Attributes:
        notes: what a user should know, such as that a damaged file was set aside.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._engine, self.notes = opened(place)

    @classmethod
    def open(cls, url_or_path: "str | os.PathLike[str] | None" = None) -> Self:
        """Open or create: a SQLAlchemy URL, a SQLite file, or None for the user's cache folder.

        Raises:
            InvalidInput: it cannot be opened, or a newer passel wrote it.
            BackendUnavailable: the URL's driver is not installed.
        """
        return cls(Place.of(url_or_path))

    @property
    def where(self) -> str:
        """The path or URL for people, without a password."""
        return str(self._place).strip("'")

    def best(self, key: Key) -> Record | None:
        """The best record of exactly this key."""
        chosen = rows.select().where(results.c.digest == key.digest)
        row = self._do(lambda connection: connection.execute(chosen).first())
        return None if row is None else rows.record_of(row)

    def store(self, record: Record) -> bool:
        """Keep a record unless one at least as good (by `ratio`) is there; whether it was kept.

        If it was not, the record that stays still takes over the larger number of trials.
        """
        for _ in range(RACES):
            try:
                return self._do(lambda connection: rows.put(connection, record), writes=True)
            except sa.exc.IntegrityError:
                continue
        raise InvalidInput(f"database {self._place}: other processes keep storing this result")

    def forget(self, key: Key) -> bool:
        """Remove the record of a key, one whose plan no longer works, say; whether there was one.

        Its study stays: what was measured is still so.
        """
        return self._do(lambda connection: rows.remove(connection, [key.digest]), writes=True) > 0

    def records(self) -> list[Record]:
        """Every record, the last updated first."""
        every = rows.select().order_by(results.c.updated.desc(), results.c.digest)
        found = self._do(lambda connection: connection.execute(every).all())
        return [rows.record_of(row) for row in found]

    def export(self, path: "str | os.PathLike[str]") -> int:
        """Write every record to a JSON file; returns how many."""
        found = self.records()
        exchange.write(found, path)
        return len(found)

    def merge(self, path: "str | os.PathLike[str]") -> int:
        """Store the records of such a file, the better staying; returns how many were kept."""
        return sum([self.store(record) for record in exchange.read(path)])

    def prune(
        self,
        older_than_days: float | None = None,
        keep: int | None = None,
        other_versions: str | None = None,
    ) -> int:
        """Remove records, with their Optuna studies; returns how many.

        A record goes if any of these says so:

        Args:
            older_than_days: it was not updated for so long.
            keep: so many others were updated later.
            other_versions: it was found with other versions than these (`Hardware.versions`).

        Raises:
            InvalidInput: a negative number.
        """
        if (older_than_days or 0) < 0 or (keep or 0) < 0:
            raise InvalidInput("prune: expected days and a number of records of at least 0")
        oldest = -1.0 if older_than_days is None else time.time() - older_than_days * DAY
        gone = [
            record.key
            for place, record in enumerate(self.records())
            if record.updated < oldest
            or (keep is not None and place >= keep)
            or other_versions not in (None, record.key.versions)
        ]
        self._remove(gone)
        return len(gone)

    def _remove(self, keys: list[Key]) -> None:
        if not keys:
            return
        digests = [key.digest for key in keys]
        self._do(lambda connection: rows.remove(connection, digests), writes=True)
        studies.delete(self._engine, self._place, [key.study for key in keys])
        if self._place.file is not None:
            for statement in GIVE_BACK:
                pragma(self._engine, self._place, statement)

    @property
    def size_bytes(self) -> int | None:
        """What the database takes, Optuna's tables included; None where a server cannot say."""
        if self._place.file is not None:
            log = self._place.file.with_name(self._place.file.name + "-wal")
            return sum(file.stat().st_size for file in (self._place.file, log) if file.exists())
        if self._engine.dialect.name != "postgresql":
            return None
        asked = sa.select(sa.func.pg_database_size(sa.func.current_database()))
        return self._do(lambda connection: int(connection.execute(asked).scalar_one()))

    def storage(self) -> "RDBStorage":
        """Optuna's storage in the same database.

        Raises:
            InvalidInput: another version of Optuna made the tables.
        """
        return studies.storage(self._engine, self._place)

    def _do(self, work: Callable[[sa.Connection], T], *, writes: bool = False) -> T:
        """One transaction; if the file turns out to be damaged, once more on a new one."""
        try:
            return transact(self._engine, self._place, work, writes=writes)
        except Corrupt:
            self._engine, notes = opened(self._place)
            self.notes += notes
            return transact(self._engine, self._place, work, writes=writes)
