"""A database that is opened when it is needed: a lookup in a file does without."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..cache_folder import database_file
from .memory import Remembered, glimpsed, recalled
from .records import Key

if TYPE_CHECKING:
    from .database import Database


class Late:
    """The database that a caller names: see `Database.open`; or one that is open already.

    One that is no file yet is opened at once, so that what is wrong with it is known early.

    Raises:
        InvalidInput, BackendUnavailable: as `Database.open`.
    """

    def __init__(self, given: "str | os.PathLike[str] | Database | None") -> None:
        self._given = given
        self._file = _file_of(given)
        self._open: Database | None = None
        if self._file is None or not self._file.is_file():
            _ = self.database

    @property
    def database(self) -> "Database":
        """The database, open."""
        from .database import Database

        if self._open is None:
            given = self._given
            self._open = given if isinstance(given, Database) else Database.open(given)
        return self._open

    def recalled(self, key: Key) -> Remembered | None:
        """The plan of a key."""
        if self._open is None and self._file is not None:
            found = glimpsed(self._file, key)
            if found is not None:
                return found
        return recalled(self.database, key)


def _file_of(given: object) -> Path | None:
    """The file that a caller names, None for what else it may be."""
    is_url = isinstance(given, str) and "://" in given
    if given is None or (isinstance(given, str | os.PathLike) and not is_url):
        return database_file(given)
    return None
