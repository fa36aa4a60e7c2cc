"""Saved models: complete or not there, and what cannot be loaded says why."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import passel
from passel.backends import saved
from passel.backends.saved import MANIFEST
from passel.errors import BackendUnavailable, InvalidInput, InvalidModel
from tests.api import example, files, net, quickly

X = example()


@pytest.fixture(scope="module")
def compiled() -> Any:
    return quickly(net(), {"x": X})


@pytest.fixture
def folder(compiled, tmp_path) -> Path:
    compiled.save(tmp_path / "saved")
    return tmp_path / "saved"


def test_a_loaded_model_is_the_same(compiled, folder):
    loaded = passel.load(str(folder))
    assert torch.equal(loaded(x=X), compiled(X))
    assert loaded.signature == compiled.signature
    again = loaded.report.to_dict()
    assert again.pop("notes") == [f"loaded from {folder}"]
    expected = {key: value for key, value in compiled.report.to_dict().items() if key != "notes"}
    assert again == expected
    assert files(folder).keys() == {"model.onnx", MANIFEST}


def test_nested_folders_are_made_and_nothing_else(compiled, tmp_path):
    compiled.save(tmp_path / "a" / "b")
    assert files(tmp_path).keys() == {"a", "a/b", "a/b/model.onnx", f"a/b/{MANIFEST}"}


def test_an_empty_folder_is_taken(compiled, tmp_path):
    compiled.save(tmp_path)
    assert torch.equal(passel.load(tmp_path)(X), compiled(X))


def test_saving_over_an_old_one(compiled, folder):
    other = quickly(torch.nn.ReLU().eval(), X)
    for model in (other, compiled, passel.load(folder)):
        model.save(folder)
        assert torch.equal(passel.load(folder)(X), model(X))
        assert len(files(folder)) == 2


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("step", ["write", "json.dumps", "Path.replace"])
def test_an_interrupted_save_leaves_the_old_one(compiled, folder, monkeypatch, step, new):
    """Ctrl-C at any step; `new` saves where nothing was."""
    other = quickly(torch.nn.ReLU().eval(), X)
    before = files(folder.parent)

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    target, name = (Path, "replace") if step == "Path.replace" else (saved, step)
    if step == "json.dumps":
        target, name = json, "dumps"
    with monkeypatch.context() as patch:
        patch.setattr(target, name, interrupt)
        with pytest.raises(KeyboardInterrupt):
            other.save(folder.with_name("new") if new else folder)
    after = files(folder.parent)
    assert before.items() <= after.items()
    if new:
        assert after.keys() == before.keys()
    assert torch.equal(passel.load(folder)(X), compiled(X))
    other.save(folder)
    assert torch.equal(passel.load(folder)(X), X.relu())
    assert files(folder).keys() == {"model-2.onnx", MANIFEST}


@pytest.mark.parametrize("place", ["file", "file/below", "foreign"])
def test_places_that_cannot_be_saved_to(compiled, tmp_path, place):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "notes.txt").write_text("mine")
    before = files(tmp_path)
    message = "save: cannot write" if "/" in place else "save: expected a new folder or a saved"
    with pytest.raises(InvalidInput, match=message):
        compiled.save(tmp_path / place)
    assert files(tmp_path) == before


def damage(folder: Path, **changes: Any) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, **changes}))


@pytest.mark.parametrize(
    ("spoil", "kind", "message"),
    [
        (lambda f: (f / MANIFEST).unlink(), InvalidInput, "expected a folder written by Compiled"),
        (lambda f: (f / MANIFEST).write_text("{"), InvalidModel, r"passel\.json' is damaged"),
        (lambda f: (f / MANIFEST).write_text("[]"), InvalidModel, r"passel\.json' is damaged"),
        (lambda f: damage(f, session={"a": 1}), InvalidModel, r"passel\.json' is damaged"),
        (lambda f: damage(f, format=99), InvalidModel, "saved by a newer passel: upgrade it"),
        (lambda f: damage(f, target="tpu"), InvalidInput, "target: expected one of cpu, cuda"),
        (lambda f: damage(f, target="cuda"), BackendUnavailable, "onnxruntime-gpu"),
        (lambda f: damage(f, model="/etc/hosts"), InvalidModel, "hosts' is missing: the saved"),
        (lambda f: (f / "model.onnx").unlink(), InvalidModel, r"model\.onnx' is missing"),
        (lambda f: (f / "model.onnx").write_bytes(b"\x08\x09onnx"), InvalidModel, "truncated"),
    ],
)
def test_what_cannot_be_loaded(folder, spoil, kind, message):
    spoil(folder)
    with pytest.raises(kind, match=message):
        passel.load(folder)


def test_there_is_nothing_to_load(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(InvalidInput, match="load: expected a folder written by CompiledModel"):
            passel.load(path)


def test_outputs_of_an_unknown_type_come_flat_with_a_note(folder):
    damage(folder, signature=json.loads((folder / MANIFEST).read_text())["signature"])
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["signature"]["out_spec"] = manifest["signature"]["in_spec"] = "[1, {}]"
    (folder / MANIFEST).write_text(json.dumps(manifest))
    loaded = passel.load(folder)
    assert loaded(X).shape == (3, 4)
    assert "outputs come as a flat tuple: import the library" in loaded.report.notes[-1]
