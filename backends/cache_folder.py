"""Where what can be computed again is kept between processes."""

import os
import sys
from pathlib import Path

from ..errors import InvalidInput

VARIABLE = "PASSEL_CACHE"
"""Environment variable that names the cache folder."""
FILE = "tuned.db"
"""The database of tuned results in it."""


def cache_folder() -> Path:
    """PASSEL_CACHE, or where this platform keeps what can be computed again. Need not exist.

    Raises:
        InvalidInput: the variable is unset and the user has no home folder.
    """
    if named := os.environ.get(VARIABLE):
        return Path(named).expanduser().absolute()
    try:
        return _platform_cache()
    except RuntimeError as error:  # of Path.home
        raise InvalidInput(f"no home folder for the cache: set {VARIABLE} to a folder") from error


def database_file(given: "str | os.PathLike[str] | None" = None) -> Path:
    """The database of tuned results that a caller names: a file, a folder, or None for the user's.

    Raises:
        InvalidInput: as `cache_folder`.
    """
    if given is None:
        return cache_folder() / FILE
    path = Path(given).expanduser().absolute()
    return path / FILE if path.is_dir() else path


def has_database() -> bool:
    """Whether the user has a database of tuned results; without a home folder there is none."""
    try:
        return database_file().exists()
    except InvalidInput:
        return False


def _platform_cache() -> Path:
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return (Path(local) if local else Path.home() / "AppData" / "Local") / "passel" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "passel"
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))  # to be ignored unless absolute
    return (base if base.is_absolute() else Path.home() / ".cache") / "passel"
