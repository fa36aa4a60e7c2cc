"""The folder of built artefacts: whole or absent, found again, bounded in size."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from passel.backends.artefacts import Artefacts, artefact_key
from passel.errors import InvalidInput


def writing(text: str, count: int = 1) -> Any:
    """What writes an artefact: a file, or a folder of `count` files."""

    def write(path: Path) -> None:
        if count == 1:
            path.write_text(text)
            return
        path.mkdir()
        for number in range(count):
            (path / f"part{number}").write_text(text)

    return write


@pytest.fixture
def cache(tmp_path: Path) -> Artefacts:
    return Artefacts(tmp_path / "built", limit_bytes=1000)


def names(cache: Artefacts) -> set[str]:
    return {path.name for path in cache.folder.iterdir() if path.name != ".put.lock"}


def test_put_and_find(cache: Artefacts) -> None:
    assert cache.find("a") is None
    assert cache.size_bytes == 0
    path = cache.put("a", writing("library"))
    assert path.read_text() == "library"
    assert cache.find("a") == path
    folder = cache.put("b", writing("xyz", count=3))
    assert sorted(file.name for file in folder.iterdir()) == ["part0", "part1", "part2"]
    assert cache.size_bytes == len("library") + 9
    assert Artefacts(cache.folder).find("b") == folder
    assert names(cache) == {"a", "b"}


@pytest.mark.parametrize("count", [1, 2])
def test_put_replaces(cache: Artefacts, count: int) -> None:
    cache.put("a", writing("old", count=3 - count))
    with open(
        next(p for p in [cache.folder / "a", *cache.folder.glob("a/*")] if p.is_file())
    ) as old:
        path = cache.put("a", writing("new", count))
        assert old.read() == "old"  # what is open stays readable
    files = [path] if path.is_file() else list(path.iterdir())
    assert [file.read_text() for file in files] == ["new"] * count
    assert names(cache) == {"a"}


def test_a_failed_write_leaves_nothing(cache: Artefacts) -> None:
    cache.put("a", writing("old"))

    def fail(path: Path) -> None:
        path.write_text("half")
        raise RuntimeError("the compiler refuses")

    with pytest.raises(RuntimeError, match="the compiler refuses"):
        cache.put("a", fail)
    with pytest.raises(RuntimeError, match="the compiler refuses"):
        cache.put("b", fail)
    assert cache.find("a").read_text() == "old"
    assert names(cache) == {"a"}


def test_the_longest_unused_go_first(cache: Artefacts) -> None:
    for position, key in enumerate("abc"):
        path = cache.put(key, writing("x" * 300))
        os.utime(path, (position, position))
    cache.find("a")
    cache.put("d", writing("x" * 300))
    assert names(cache) == {"a", "c", "d"}
    cache.put("e", writing("x" * 150, count=4))
    assert names(cache) == {"d", "e"}
    cache.put("f", writing("x" * 5000))
    assert names(cache) == {"f"}


def test_what_killed_processes_left_is_removed_in_time(cache: Artefacts) -> None:
    cache.put("a", writing("x"))
    for name, age in ((".new-1", 2 * 86400), (".old-1", 2 * 86400), (".new-2", 60)):
        (cache.folder / name).mkdir()
        os.utime(cache.folder / name, (time.time() - age,) * 2)
    cache.put("b", writing("x"))
    assert names(cache) == {"a", "b", ".new-2"}
    assert cache.size_bytes == 2


def test_processes_that_put_one_key_at_once(cache: Artefacts) -> None:
    code = """
import sys
from pathlib import Path
from passel.backends.artefacts import Artefacts

def write(path):
    path.mkdir()
    for name in "abc":
        (path / name).write_text(sys.argv[2])

cache = Artefacts(Path(sys.argv[1]))
for _ in range(50):
    path = cache.put("one", write)
    assert cache.find("one") in (path, None)
"""
    arguments = [sys.executable, "-P", "-c", code, str(cache.folder)]
    workers = [subprocess.Popen([*arguments, text]) for text in ("left", "right")]
    assert [worker.wait(60) for worker in workers] == [0, 0]
    texts = {file.read_text() for file in (cache.folder / "one").iterdir()}
    assert texts in ({"left"}, {"right"})
    assert names(cache) == {"one"}


def test_the_default_folder(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("PASSEL_CACHE", str(tmp_path))
    assert Artefacts().folder == tmp_path / "built"
    assert Artefacts().find("a") is None
    assert not (tmp_path / "built").exists()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cache = Artefacts(tmp_path / "file" / "built")
    assert cache.find("a") is None
    with pytest.raises(InvalidInput, match=r"cannot write to the cache .* set PASSEL_CACHE"):
        cache.put("a", writing("x"))


@pytest.mark.parametrize("key", ["", "../a", ".hidden", "a/b", "x" * 300])
def test_keys_are_names_of_files(cache: Artefacts, key: str) -> None:
    with pytest.raises(InvalidInput, match="expected a key that can name a file"):
        cache.find(key)


def test_the_key_of_an_artefact_tells_its_parts_apart(cache: Artefacts) -> None:
    keys = {artefact_key("ab", "c"), artefact_key("a", "bc"), artefact_key("abc"), artefact_key()}
    assert len(keys) == 4
    assert cache.put(artefact_key("a"), writing("x")).is_file()
