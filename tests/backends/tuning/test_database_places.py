"""Where the database is put, and what is said of places that will not do."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from sqlalchemy.engine import URL

import passel
from passel.backends.cache_folder import cache_folder
from passel.backends.tuning import place
from passel.backends.tuning.database import Database
from passel.errors import BackendUnavailable, InvalidInput


def test_the_cache_folder(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("PASSEL_CACHE", str(tmp_path / "named"))
    assert cache_folder() == tmp_path / "named"
    assert Database.open().where == str(tmp_path / "named" / "tuned.db")
    monkeypatch.delenv("PASSEL_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    for platform, expected in {
        "linux": "xdg/passel",
        "darwin": "Library/Caches/passel",
        "win32": "local/passel/Cache",
    }.items():
        monkeypatch.setattr(sys, "platform", platform)
        assert cache_folder() == tmp_path / expected
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    assert cache_folder() == tmp_path / ".cache" / "passel"


def test_no_home(monkeypatch: Any) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("PASSEL_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", nowhere)
    with pytest.raises(InvalidInput, match="set PASSEL_CACHE"):
        cache_folder()
    linear, x = torch.nn.Linear(4, 4).eval(), torch.ones(1, 4)
    assert torch.allclose(passel.compile(linear, (x,))(x), linear(x))  # nothing was tuned: no error


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("PASSEL_CACHE", str(tmp_path / "file"))
    with pytest.raises(InvalidInput, match=r"is not a folder; set PASSEL_CACHE to a folder"):
        Database.open()
    monkeypatch.setenv("PASSEL_CACHE", str(tmp_path))
    monkeypatch.setattr("passel.backends.tuning.opening.os.access", lambda *_: False)
    with pytest.raises(InvalidInput, match=r"not writable; set PASSEL_CACHE to a folder"):
        Database.open()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc, which nobody can write")
def test_a_folder_that_cannot_be_made() -> None:
    with pytest.raises(InvalidInput, match=r"cannot write database '/proc/none/tuned\.db'"):
        Database.open("/proc/none/tuned.db")


def test_a_folder_in_the_place_of_the_file(tmp_path: Path) -> None:
    assert Database.open(tmp_path).where == str(tmp_path / "tuned.db")
    with pytest.raises(InvalidInput, match="cannot write database"):
        Database.open(f"sqlite:///{tmp_path}")


def test_a_server_that_does_not_answer() -> None:
    pytest.importorskip("psycopg2", reason="needs psycopg2")
    with pytest.raises(InvalidInput) as caught:
        Database.open("postgresql://me:tops3cret@127.0.0.1:1/tuned")
    assert "cannot reach database postgresql" in str(caught.value)
    assert "refused" in str(caught.value)
    assert "tops3cret" not in str(caught.value)


def test_a_password_in_the_query_is_hidden_too() -> None:
    url = URL.create("postgresql", query={"password": "tops3cret", "user": "me"})
    assert "tops3cret" not in str(place.Place(url))
    assert "user=me" in str(place.Place(url))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql://me:p@ss:w/rd@host:port/x", r"cannot read the URL postgresql://\*\*\*"),
        ("postgresql://me:p@ss@host/x", r"cannot read the URL postgresql://\*\*\*"),
        ("nonsense://me:pass@host/x", "SQLAlchemy knows no 'nonsense' databases"),
        ("sqlite://", "expected a SQLite file"),
        ("sqlite:///:memory:", "expected a SQLite file"),
        ("sqlite+aiosqlite:///x.db", "asynchronous"),
    ],
)
def test_urls_that_cannot_be_used(url: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        Database.open(url)
    assert not any(secret in str(caught.value) for secret in ("p@ss", "w/rd", "pass@"))


@pytest.mark.parametrize(
    ("url", "modules", "packages"),
    [
        ("postgresql+psycopg2://me:pass@h/x", ["psycopg2"], "'psycopg2-binary'"),
        ("postgresql://me:pass@h/x", ["psycopg", "psycopg2"], "psycopg2-binary"),
        ("mysql+pymysql://me:pass@h/x", ["pymysql"], "'pymysql'"),
    ],
)
def test_a_missing_driver(url: str, modules: list[str], packages: str, monkeypatch: Any) -> None:
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    with pytest.raises(BackendUnavailable, match=f"pip install .*{packages}") as caught:
        Database.open(url)
    assert "pass@" not in str(caught.value)
