"""A database that is damaged, of another version, full or locked; files that are no exports."""

import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from passel import __version__
from passel.backends.tuning import schema
from passel.backends.tuning.database import Database, Key, Record
from passel.errors import InvalidInput

KEY = Key("a" * 64, "b" * 16, "passel=0.1.0")


def record(cost: float, plan: str = "{}") -> Record:
    return Record(KEY, plan, cost, baseline=10.0)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A database file with one record."""
    path = tmp_path / "tuned.db"
    Database.open(path).store(record(5.0))
    return path


def asides(file: Path, reason: str) -> list[Path]:
    return sorted(file.parent.glob(f"{file.name}.{reason}-*"))


# -- damage ---------------------------------------------------------------------------------------


def test_text_in_the_place_of_the_database_is_set_aside(tmp_path: Path) -> None:
    file = tmp_path / "tuned.db"
    file.write_bytes(b"my notes, nothing to do with SQLite" * 100)
    database = Database.open(file)
    (aside,) = asides(file, "corrupt")
    assert aside.read_bytes().startswith(b"my notes")
    (note,) = database.notes
    assert "is damaged" in note
    assert str(aside) in note
    assert database.store(record(5.0))
    assert Database.open(file).notes == []


def test_a_damaged_page_is_found_and_everything_kept(file: Path) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole[:4096] + b"\xff" * 4096 + whole[8192:])
    before = file.read_bytes()
    database = Database.open(file)
    (aside,) = asides(file, "corrupt")
    assert aside.read_bytes() == before
    assert len(database.notes) == 1
    assert database.records() == []


def test_a_truncated_file_is_set_aside(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:5000])
    assert Database.open(file).records() == []
    assert len(asides(file, "corrupt")) == 1


def test_damage_while_the_database_is_open(file: Path) -> None:
    database = Database.open(file)
    file.write_bytes(b"garbage" * 3000)
    assert database.best(KEY) is None
    assert len(database.notes) == len(asides(file, "corrupt")) == 1
    assert database.store(record(5.0))
    file.write_bytes(b"garbage" * 3000)
    assert database.store(record(6.0))
    assert len(database.notes) == len(asides(file, "corrupt")) == 2


def test_what_lies_in_the_write_ahead_log_goes_along(file: Path) -> None:
    log = file.with_name(file.name + "-wal")
    log.write_bytes(b"log of the damaged file")
    file.write_bytes(b"garbage" * 3000)
    Database.open(file)
    main, beside = asides(file, "corrupt")
    assert beside.name == main.name + "-wal"
    assert beside.read_bytes() == b"log of the damaged file"


def test_an_empty_file_is_a_new_database(tmp_path: Path) -> None:
    file = tmp_path / "tuned.db"
    file.touch()
    database = Database.open(file)
    assert database.store(record(1.0))
    assert database.notes == []


def test_tables_of_others_are_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "shared.db"
    with sqlite3.connect(file) as connection:
        connection.execute("create table mine (x)")
        connection.execute("insert into mine values (42)")
    connection.close()
    Database.open(file).store(record(1.0))
    connection = sqlite3.connect(file)
    assert connection.execute("select x from mine").fetchall() == [(42,)]
    names = {name for (name,) in connection.execute("select name from sqlite_master")}
    connection.close()
    assert names >= {"mine", "passel_meta", "passel_models", "passel_results"}


# -- other versions -------------------------------------------------------------------------------


def say_schema(file: Path, text: str | None) -> None:
    connection = sqlite3.connect(file)
    if text is None:
        connection.execute("delete from passel_meta where name = 'schema'")
    else:
        connection.execute("update passel_meta set value = ? where name = 'schema'", [text])
    connection.execute("update passel_meta set value = '9.8.7' where name = 'passel'")
    connection.commit()
    connection.close()


def test_a_newer_schema_is_refused_and_left_as_it_is(file: Path) -> None:
    say_schema(file, str(schema.SCHEMA + 1))
    before = file.read_bytes()
    with pytest.raises(InvalidInput, match=r"passel 9\.8\.7 .* upgrade passel") as caught:
        Database.open(file)
    assert __version__ in str(caught.value)
    assert file.read_bytes() == before
    assert asides(file, "") == []


def test_an_older_schema_is_brought_up_to_date(file: Path, monkeypatch: Any) -> None:
    say_schema(file, "0")

    def step(connection: sa.Connection) -> None:
        connection.execute(sa.text("update passel_results set trials = 77"))

    monkeypatch.setattr(schema, "MIGRATIONS", {0: step})
    assert Database.open(file).best(KEY).trials == 77
    monkeypatch.setattr(schema, "MIGRATIONS", {})  # not needed a second time
    assert Database.open(file).best(KEY).trials == 77


def test_a_migration_that_fails_changes_nothing(file: Path, monkeypatch: Any) -> None:
    say_schema(file, "0")

    def step(connection: sa.Connection) -> None:
        connection.execute(sa.text("delete from passel_results"))
        connection.execute(sa.text("select nonsense from nowhere"))

    monkeypatch.setattr(schema, "MIGRATIONS", {0: step})
    with pytest.raises(InvalidInput, match="no such table: nowhere"):
        Database.open(file)
    connection = sqlite3.connect(file)
    assert connection.execute("select count(*) from passel_results").fetchone() == (1,)
    connection.close()


@pytest.mark.parametrize("text", ["0", "one", None])
def test_a_schema_that_nothing_can_read_is_set_aside(file: Path, text: str | None) -> None:
    say_schema(file, text)
    database = Database.open(file)
    assert len(asides(file, "old")) == len(database.notes) == 1
    assert database.records() == []
    assert Database.open(asides(file, "old")[0].with_name("copy.db")).notes == []


def test_on_a_server_nothing_is_set_aside(postgres_url: str) -> None:
    Database.open(postgres_url).store(record(1.0))
    engine = sa.create_engine(postgres_url)
    with engine.begin() as connection:
        connection.execute(sa.text("update passel_meta set value='0' where name='schema'"))
    engine.dispose()
    with pytest.raises(InvalidInput, match="has schema 0; this passel reads"):
        Database.open(postgres_url)


# -- room -----------------------------------------------------------------------------------------


def test_a_full_disk_loses_nothing(file: Path) -> None:
    database = Database.open(file)

    def small_disk(connection: Any, _: object) -> None:
        connection.execute("pragma max_page_count = 10")

    sa.event.listen(database._engine, "connect", small_disk)
    with pytest.raises(InvalidInput, match=r"the disk is full; what was stored before is kept"):
        database.store(record(1.0, plan='"' + "x" * 100_000 + '"'))
    assert database.best(KEY).cost == 5.0
    sa.event.remove(database._engine, "connect", small_disk)
    assert database.store(record(1.0, plan='"' + "x" * 100_000 + '"'))


def test_a_database_that_stays_locked(file: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("passel.backends.tuning.connection.BUSY_SECONDS", 0.1)
    database = Database.open(file)
    other = sqlite3.connect(file)
    other.execute("begin immediate")
    assert database.best(KEY).cost == 5.0  # readers do not wait
    with pytest.raises(InvalidInput, match="another process has kept it locked"):
        database.store(record(1.0))
    other.rollback()
    other.close()
    assert database.store(record(1.0))


# -- exchange -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "holds no tuned results"),
        ("[]", "expected what `passel db export` wrote"),
        ('{"format": "passel tuned results", "version": 99, "passel": "9.9"}', "by passel 9.9"),
        ('{"format": "passel tuned results", "version": 1}', "expected a list"),
        ('{"format": "passel tuned results", "version": 1, "records": [3]}', "record 0"),
        ('{"format": "passel tuned results", "version": 1, "records": [{}]}', "record 0: .*'key'"),
    ],
)
def test_a_file_that_holds_no_records(file: Path, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "in.json").write_text(text)
    with pytest.raises(InvalidInput, match=message):
        Database.open(file).merge(tmp_path / "in.json")


def test_exchange_with_files_that_are_not_there(file: Path, tmp_path: Path) -> None:
    database = Database.open(file)
    with pytest.raises(InvalidInput, match=r"cannot read .*none\.json': No such file"):
        database.merge(tmp_path / "none.json")
    with pytest.raises(InvalidInput, match="there is no folder"):
        database.export(tmp_path / "none" / "out.json")


def test_opening_again_keeps_the_locks_of_this_process(tmp_path: Path) -> None:
    """Else another process that is the last to close, as far as it can see, deletes the log."""
    file = tmp_path / "tuned.db"
    Database.open(file)
    held = sqlite3.connect(file)
    held.execute("SELECT count(*) FROM sqlite_master").fetchall()
    Database.open(file)
    other = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); "
    other += "c.execute('CREATE TABLE other (x)'); c.commit(); c.close()"
    subprocess.run([sys.executable, "-c", other, file], check=True)
    assert file.with_name("tuned.db-wal").exists()
    assert held.execute("SELECT count(*) FROM other").fetchall() == [(0,)]
    held.close()
