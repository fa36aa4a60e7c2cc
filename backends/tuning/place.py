"""Where the database is: a file in the user's cache folder, or what a URL says."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import sqlalchemy as sa
from sqlalchemy.engine import URL, make_url

from ...errors import BackendUnavailable, InvalidInput
from ..cache_folder import database_file

PACKAGES = {
    "psycopg2": "psycopg2-binary",
    "psycopg": "psycopg[binary]",
    "MySQLdb": "mysqlclient",
    "pymysql": "pymysql",
    "oracledb": "oracledb",
    "pyodbc": "pyodbc",
}
"""What to install for a driver's module; a module that is not listed is called as its package."""
OTHERS = {
    "postgresql": ["postgresql+psycopg2", "postgresql+psycopg"],
    "mysql": ["mysql+pymysql"],
    "mariadb": ["mariadb+pymysql"],
}
"""Drivers to look for where a URL names none, besides SQLAlchemy's default."""
HIDDEN = "***"


@dataclass(frozen=True)
class Place:
    """A database's address.

    Attributes:
        url: as SQLAlchemy takes it, password included.
        file: the SQLite file; None for a server.
    """

    url: URL
    file: Path | None = None

    @classmethod
    def of(cls, given: "str | os.PathLike[str] | None") -> Self:
        """The place that a caller names: a URL, a file, a folder, or None for the cache folder.

        Raises:
            InvalidInput: the URL cannot be read, or is of no kind that can be shared.
            BackendUnavailable: its driver is not installed.
        """
        if isinstance(given, str) and "://" in given:
            return cls._of_url(given)
        file = database_file(given)
        return cls(URL.create("sqlite", database=str(file)), file)

    @classmethod
    def _of_url(cls, text: str) -> Self:
        scheme = text.partition("://")[0]
        try:
            url = _parsed(text)
            dialect = url.get_dialect()
        except sa.exc.NoSuchModuleError as error:
            raise InvalidInput(f"database: SQLAlchemy knows no {scheme!r} databases") from error
        except (sa.exc.ArgumentError, ValueError):
            # What cannot be parsed may have its password anywhere, so it is not shown.
            raise InvalidInput(
                f"database: cannot read the URL {scheme}://{HIDDEN}; expected "
                "dialect://user:password@host/name, with any of @ : / in a password written as "
                "%40 %3A %2F"
            ) from None
        if dialect.is_async:
            raise InvalidInput(f"database: {scheme!r} is an asynchronous driver; name another one")
        if url.get_backend_name() == "sqlite":
            return cls._of_sqlite(url)
        return cls(_with_driver(url))

    @classmethod
    def _of_sqlite(cls, url: URL) -> Self:
        name = url.database
        if not name or name == ":memory:" or name.startswith("file:"):
            raise InvalidInput("database: expected a SQLite file (sqlite:///tuned.db)")
        file = Path(name).expanduser().absolute()
        return cls(url.set(database=str(file)), file)

    def __str__(self) -> str:
        """The path or the URL, its password hidden."""
        if self.file is not None:
            return repr(str(self.file))
        return self.hide(self.url.render_as_string(hide_password=True))

    def hide(self, message: str) -> str:
        """The message without the password."""
        query = self.url.query.get("password")
        for secret in (self.url.password, *([query] if isinstance(query, str) else query or ())):
            if secret:
                message = message.replace(str(secret), HIDDEN)
        return message


def _parsed(text: str) -> URL:
    url = make_url(text)
    if "@" in (url.host or ""):  # the end of a password, most likely
        raise ValueError
    return url


def _with_driver(url: URL) -> URL:
    """The URL of a server with a driver that is installed, SQLAlchemy's own choice first.

    Raises:
        BackendUnavailable: none is.
    """
    others = [] if "+" in url.drivername else OTHERS.get(url.drivername, [])
    missing = []
    for name in (url.drivername, *others):
        chosen = url.set(drivername=name)
        try:
            chosen.get_dialect().import_dbapi()
            return chosen
        except ImportError as error:
            missing.append(error.name or name)
    packages = [repr(PACKAGES.get(module, module)) for module in missing]
    raise BackendUnavailable(
        f"database {Place(url)}: its driver is not installed: pip install {' or '.join(packages)}"
    )
