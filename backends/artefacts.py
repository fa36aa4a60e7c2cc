"""Built artefacts in the cache folder: compiled libraries, made once and found again.

An artefact is a file or a folder, named by a hash of all that went into it. It appears whole or not
at all: it is made under another name and renamed. The folder's size is bounded; what was not used
for longest goes first.
"""

import hashlib
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import InvalidInput
from .cache_folder import VARIABLE, cache_folder
from .file_turn import file_turn

FOLDER = "built"
LIMIT_BYTES = 1 << 30
NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,199}")
HIDDEN = "."
"""How names begin of what is being made or removed."""
STALE_SECONDS = 86400.0
"""Age at which such a thing is what a killed process left."""


def artefact_key(*parts: str) -> str:
    """A name for what was built from these: program, machine, versions, …"""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class Artefacts:
    """A folder of artefacts, `<cache folder>/built` by default; made when something is put there.

    Attributes:
        folder: where they are.
        limit_bytes: what they may take together; the newest stays even if it alone takes more.
    """

    def __init__(self, folder: Path | None = None, limit_bytes: int = LIMIT_BYTES) -> None:
        self.folder = cache_folder() / FOLDER if folder is None else Path(folder)
        self.limit_bytes = limit_bytes

    def find(self, key: str) -> Path | None:
        """The artefact of a key, or None; asking counts as a use.

        What is open or loaded stays readable, but a path may lead nowhere once other artefacts
        have been put.
        """
        path = self._path(key)
        try:
            os.utime(path)
        except FileNotFoundError:
            return None
        except OSError:  # a folder that may be read only
            return path if path.exists() else None
        return path

    def put(self, key: str, write: Callable[[Path], None]) -> Path:
        """Let `write` make a file or folder at a path of its own, then rename it into place.

        An artefact that is there already is replaced. What `write` raises goes through.

        Raises:
            InvalidInput: the folder cannot be written, or the disk is full.
        """
        final = self._path(key)
        beside = self.folder / f"{HIDDEN}new-{uuid.uuid4().hex}"
        with self._file_errors():
            self.folder.mkdir(parents=True, exist_ok=True)
        try:
            write(beside)
            with self._file_errors(), file_turn(self.folder / f"{HIDDEN}put"):
                self._discard(final)
                beside.rename(final)
                self._shrink(final)
        finally:
            _remove(beside)
        return final

    @property
    def size_bytes(self) -> int:
        """What all artefacts take together."""
        return sum(_size(path) for path in self._artefacts())

    def _path(self, key: str) -> Path:
        if not NAME.fullmatch(key):
            raise InvalidInput(f"cache: expected a key that can name a file, got {key!r}")
        return self.folder / key

    def _artefacts(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return [path for path in self.folder.iterdir() if not path.name.startswith(HIDDEN)]

    def _shrink(self, newest: Path) -> None:
        """Discard the longest unused artefacts until the rest fits, and what killed ones left."""
        sizes = {path: _size(path) for path in self._artefacts()}
        total = sum(sizes.values())
        for path in sorted(sizes, key=lambda path: path.stat().st_mtime):
            if total > self.limit_bytes and path != newest:
                self._discard(path)
                total -= sizes[path]
        for path in [*self.folder.glob(f"{HIDDEN}new-*"), *self.folder.glob(f"{HIDDEN}old-*")]:
            if time.time() - path.stat().st_mtime > STALE_SECONDS:
                _remove(path)

    def _discard(self, path: Path) -> None:
        """Remove an artefact; it is gone at once, though its files take a while."""
        if path.exists():
            aside = self.folder / f"{HIDDEN}old-{uuid.uuid4().hex}"
            path.rename(aside)
            _remove(aside)

    @contextmanager
    def _file_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InvalidInput(
                f"cannot write to the cache {str(self.folder)!r}: {error.strerror or error}; set "
                f"{VARIABLE} to a folder that can be written"
            ) from error


def _size(path: Path) -> int:
    """Bytes of a file, or of all files below a folder; what vanishes meanwhile counts nothing."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    total = 0
    for file in files:
        try:
            total += file.stat().st_size
        except FileNotFoundError:
            continue
    return total


def _remove(path: Path) -> None:
    """Delete a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
