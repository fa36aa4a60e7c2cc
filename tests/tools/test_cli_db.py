"""`passel db` and `passel target`, in process."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from passel import Target
from passel.backends.hardware import Hardware, fingerprint
from passel.backends.tuning.database import Database, Key, Record
from passel.tools.cli import main

Capture = pytest.CaptureFixture[str]
HOURS = 3600.0


@pytest.fixture
def filled(tmp_path: Path, monkeypatch: Any) -> Database:
    """The default database, with a result of this machine and one of another, an old one."""
    monkeypatch.setenv("PASSEL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "160")
    hardware = Hardware.detect()
    here = Key("a" * 64, fingerprint(hardware, Target()), hardware.versions)
    there = Key("b" * 64, "elsewhere", "passel=0.0.1", "memory", 0.01)
    database = Database.open()
    database.store(Record(here, '{"form": "matrices"}', 4.0, 10.0, trials=7, model="vit"))
    database.store(Record(there, '{"form": "other"}', 5.0, 20.0, created=1.0, updated=1.0))
    return database


def test_list(filled: Database, capsys: Capture) -> None:
    assert main(["db", "list"]) == 0
    out = capsys.readouterr().out
    lines = {line.split()[1]: line for line in out.splitlines() if line.startswith(("*", " *"))}
    (mine,) = lines.values()
    for text in ("vit", "latency", "exact", "4 ms", "10 ms", "2.50×", "7"):
        assert text in mine
    (other,) = (line for line in out.splitlines() if "b" * 12 in line)
    for text in ("memory", "0.01", "5 MB", "20 MB", "4.00×"):
        assert text in other
    assert f"{filled.where}: 2 results" in out.replace("\n", "")


def test_list_as_json(filled: Database, capsys: Capture) -> None:
    assert main(["db", "list", "--json", "-q"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [entry.pop("id") for entry in found] == [r.key.digest for r in filled.records()]
    assert [Record.from_dict(entry) for entry in found] == filled.records()


def test_show(filled: Database, capsys: Capture) -> None:
    record = filled.records()[0]
    assert main(["db", "show", record.key.digest[:12]]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["plan"] == {"form": "matrices"}
    assert found["key"]["graph"] == "a" * 64
    assert main(["db", "show", "no such id"]) == 2
    assert "with which none begin" in capsys.readouterr().err
    assert main(["db", "show", ""]) == 2
    assert "with which 2 begin" in capsys.readouterr().err


def test_export_import(filled: Database, tmp_path: Path, capsys: Capture) -> None:
    file, other = str(tmp_path / "out.json"), str(tmp_path / "other.db")
    assert main(["db", "export", file]) == 0
    assert main(["db", "import", file, "--database", other]) == 0
    assert main(["db", "import", file, "--storage", f"sqlite:///{other}"]) == 0
    out = capsys.readouterr().out
    assert "2 results written to" in out
    assert "2 results of" in out
    assert "0 results of" in out
    assert Database.open(other).records() == filled.records()
    assert main(["db", "import", str(tmp_path / "none.json")]) == 2
    assert "cannot read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "left"),
    [
        (["--older-than", "30"], "a"),
        (["--other-versions"], "a"),
        (["--keep", "1"], "a"),
        (["--keep", "0"], ""),
        (["--older-than", "1000000"], "ab"),
    ],
)
def test_prune(filled: Database, options: list[str], left: str, capsys: Capture) -> None:
    assert main(["db", "prune", *options]) == 0
    assert f"{2 - len(left)} results removed" in capsys.readouterr().out
    assert "".join(record.key.graph[0] for record in filled.records()) == left


def test_prune_wants_to_be_told_what(filled: Database, capsys: Capture) -> None:
    assert main(["db", "prune"]) == 2
    assert "expected --older-than, --keep or --other-versions" in capsys.readouterr().err
    assert len(filled.records()) == 2


def test_a_damaged_database_is_spoken_of(filled: Database, capsys: Capture) -> None:
    Path(filled.where).write_bytes(b"garbage" * 1000)
    assert main(["db", "list"]) == 0
    found = capsys.readouterr()
    assert "passel: note: database" in found.err
    assert "corrupt-" in found.err
    assert "0 results" in found.out


def test_a_password_is_not_shown(capsys: Capture) -> None:
    pytest.importorskip("psycopg2", reason="needs psycopg2")
    assert main(["db", "list", "--database", "postgresql://me:tops3cret@127.0.0.1:1/x"]) == 2
    err = capsys.readouterr().err
    assert "cannot reach database postgresql" in err
    assert "tops3cret" not in err


def test_target(monkeypatch: Any, tmp_path: Path, capsys: Capture) -> None:
    monkeypatch.setenv("PASSEL_CACHE", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    hardware = Hardware.detect()
    assert main(["target"]) == 0
    out = capsys.readouterr().out
    for text in (
        hardware.cpu,
        *hardware.features,
        f"usable by this process: {hardware.usable_cores}",
        f"onnxruntime {dict(hardware.runtimes)['onnxruntime']}",
        "CPUExecutionProvider",
        f"threads={hardware.usable_cores}",
        fingerprint(hardware, Target()),
        str(tmp_path),
    ):
        assert text in out


def test_target_as_json(capsys: Capture) -> None:
    assert main(["target", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    hardware = Hardware.detect()
    assert found["hardware"]["features"] == list(hardware.features)
    assert found["hardware"]["runtimes"] == dict(hardware.runtimes)
    assert Target.parse(found["target"]).threads == hardware.usable_cores
    assert found["absent"] == ""


def test_a_target_that_is_not_there(monkeypatch: Any, capsys: Capture) -> None:
    monkeypatch.setattr("passel.backends.hardware.gpus", lambda: ())
    assert main(["target", "cuda:arch=sm_90"]) == 0
    assert "no: the machine has no NVIDIA GPU" in capsys.readouterr().out
    assert main(["target", "cuda"]) == 2
    assert "no NVIDIA GPU" in capsys.readouterr().err
    assert main(["target", "tpu"]) == 2
    assert "expected one of cpu, cuda, got 'tpu'" in capsys.readouterr().err


def test_limits_and_gpus_are_told(monkeypatch: Any, capsys: Capture) -> None:
    from passel.backends.hardware import Gpu

    monkeypatch.setenv("COLUMNS", "200")
    hidden = {"cgroup.cpu_limit": lambda: 1.5, "cgroup.memory_limit": lambda: 10**9}
    for name, found in hidden.items():
        monkeypatch.setattr(f"passel.backends.{name}", found)
    gpu = Gpu("NVIDIA H100", "sm_90", 80 * 10**9)
    monkeypatch.setattr("passel.backends.hardware.gpus", lambda: (gpu,))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert main(["target", "cuda"]) == 0
    out = capsys.readouterr().out
    for text in (
        "cuda:arch=sm_90,threads=1",
        "control groups allow 1.5 CPUs, usable by this process: 1",
        "control groups allow 1 GB",
        "NVIDIA H100, sm_90, 80 GB",
    ):
        assert text in out
