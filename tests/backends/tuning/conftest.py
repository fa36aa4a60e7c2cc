"""A private PostgreSQL server: started for the tests that need one, stopped and removed after."""

import ctypes
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

OWNER = "passel"
"""The server's superuser; anyone who reaches its socket is let in."""
DATABASES = itertools.count()
PATIENCE = 60.0
"""Seconds that initdb or the start may take."""


@pytest.fixture
def postgres_url(postgres_server: Path) -> str:
    """SQLAlchemy URL of a new, empty database on the private server."""
    import psycopg2

    name = f"passel_{next(DATABASES)}"
    connection = psycopg2.connect(host=str(postgres_server), user=OWNER, dbname="postgres")
    connection.autocommit = True
    connection.cursor().execute(f"create database {name}")
    connection.close()
    return f"postgresql+psycopg2://{OWNER}@/{name}?host={postgres_server}"


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Path]:
    """Folder of the socket of a running PostgreSQL server; no TCP port is opened."""
    pytest.importorskip("psycopg2", reason="needs psycopg2: pip install psycopg2-binary")
    missing = [name for name in ("initdb", "postgres") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"needs {' and '.join(missing)} (Debian: apt install postgresql)")
    # Not below tmp_path: its parents are closed to the user that the server runs as.
    with tempfile.TemporaryDirectory(prefix="passel-pg-", ignore_cleanup_errors=True) as text:
        folder = Path(text)
        identity = _unprivileged(folder)
        _initialise(folder, identity)
        with _server(folder, identity):
            yield folder


def _unprivileged(folder: Path) -> dict[str, Any]:
    """Whom to run the server as: root may not, so then it is postgres, or nobody."""
    if os.getuid() != 0:
        return {}
    names = {entry.pw_name for entry in pwd.getpwall()}
    user = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
    os.chown(folder, user.pw_uid, user.pw_gid)
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _initialise(folder: Path, identity: dict[str, Any]) -> None:
    command = ["initdb", "-D", str(folder / "data"), "-A", "trust", "-U", OWNER, "-N"]
    done = subprocess.run(
        [*command, "-E", "UTF8", "--locale=C"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        **identity,
    )
    if done.returncode:
        pytest.skip(f"initdb failed: {done.stderr.strip()[-300:]}")


class _server:
    """The server process, from ready to stopped."""

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        settings = ["fsync=off", "listen_addresses=", "shared_buffers=8MB"]
        options = [word for setting in settings for word in ("-c", setting)]
        self.folder, self.log = folder, folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                ["postgres", "-D", str(folder / "data"), "-k", str(folder), *options],
                cwd=folder,
                stdout=log,
                stderr=log,
                preexec_fn=_end_with_parent,
                **identity,
            )

    def __enter__(self) -> None:
        import psycopg2

        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                psycopg2.connect(host=str(self.folder), user=OWNER, dbname="postgres").close()
                return
            except psycopg2.OperationalError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    self.__exit__()
                    pytest.skip(f"postgres does not start: {self.log.read_text()[-300:]}")
                time.sleep(0.05)

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGINT)  # close every connection, then stop
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _end_with_parent() -> None:
    """Let the server stop when the tests are killed."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGINT)
