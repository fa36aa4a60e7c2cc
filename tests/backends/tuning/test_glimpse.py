"""A lookup by the standard library finds what the database holds, and gives up where it is odd."""

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from passel.backends.tuning import glimpse as module
from passel.backends.tuning import schema
from passel.backends.tuning.database import Database
from passel.backends.tuning.glimpse import glimpse
from passel.backends.tuning.late import Late
from passel.backends.tuning.plan import Plan
from passel.backends.tuning.records import Key, Record

KEY = Key("g" * 64, "h", "passel=1")
RECORD = Record(KEY, Plan().to_json(), 1.5, 2.0, 0.01, 7, "a model")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tuned.db"
    Database.open(path).store(RECORD)
    return path


def test_it_finds_what_the_database_does(file):
    assert glimpse(file, KEY) == Database.open(file).best(KEY) == RECORD
    assert glimpse(file, Key("g" * 64, "h", "passel=2")) is None
    assert glimpse(file.with_name("none.db"), KEY) is None


def test_the_tables_are_those_of_the_schema():
    assert module.SCHEMA == schema.SCHEMA
    assert set(module.OWN) <= set(schema.results.columns.keys())


def test_it_gives_up_where_the_database_has_more_to_say(file):
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE passel_meta SET value = '99' WHERE name = 'schema'")
    assert glimpse(file, KEY) is None
    for content in (b"", b"no database at all", file.read_bytes()[:200] + b"\0" * 4000):
        file.write_bytes(content)
        assert glimpse(file, KEY) is None
        assert file.read_bytes() == content


def test_a_writer_at_work_does_not_disturb_it(file):
    engine = sa.create_engine(f"sqlite:///{file}")
    with engine.connect() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        connection.exec_driver_sql("UPDATE passel_results SET trials = 99")
        assert glimpse(file, KEY) == RECORD


def test_a_lookup_imports_no_sqlalchemy(file):
    code = f"""
import sys
from passel.backends.tuning.late import Late
from passel.backends.tuning.records import Key
assert Late({str(file)!r}).recalled(Key("g" * 64, "h", "passel=1")).record.trials == 7
assert "sqlalchemy" not in sys.modules and "optuna" not in sys.modules
"""
    subprocess.run([sys.executable, "-W", "ignore", "-P", "-c", code], check=True)


def test_a_database_is_opened_at_once_where_there_is_no_file_yet(tmp_path):
    Late(tmp_path / "new.db")
    assert (tmp_path / "new.db").is_file()


def test_what_cannot_be_understood_is_left_to_the_database(file):
    """It forgets a plan that no version reads."""
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE passel_results SET plan = '{}'")
    assert Late(file).recalled(KEY) is None
    assert Database.open(file).best(KEY) is None
