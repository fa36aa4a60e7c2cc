"""Saved models on disk: a folder with the model and a manifest, the manifest always complete.

A new folder is written beside its place and renamed. In an old one the new model gets another name
than the old; replacing the manifest, which says which file counts, makes it the new one.
"""

import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from torch.export import ExportedProgram

from ..errors import InvalidInput, InvalidModel
from ..graph.onnx_io import read, write
from ..passes.report import Report
from ..signature import Signature
from .choices import SessionChoice
from .saved_report import report_of
from .tvm.artefact import SUFFIX, load_model, save_model
from .tvm.cuda import CudaBuilt, load_cuda, save_cuda
from .tvm.model import TvmModel

MANIFEST = "passel.json"
FORMAT = 1
STEMS = ("model", "model-2")
"""Taken in turn, so that a save never writes into the files of the one before it."""

AnyModel = ir.Model | ExportedProgram | TvmModel | CudaBuilt
"""A lowered model of any runtime."""

FLAT = (
    "outputs come as a flat tuple: import the library that defines their type, such as "
    "transformers, before passel.load"
)


@dataclass
class Saved:
    """Everything that a compiled model is made of again."""

    model: AnyModel
    signature: Signature
    report: Report
    target: str
    choice: SessionChoice


def save(parts: Saved, path: str | os.PathLike[str]) -> None:
    """Write a folder, or replace what is saved in one.

    Raises:
        InvalidInput: the path is a file, a folder of something else, or not writable.
    """
    folder = Path(path)
    taken = folder.exists() or folder.is_symlink()
    if taken and (not folder.is_dir() or _is_foreign(folder)):
        raise InvalidInput(f"save: expected a new folder or a saved model, got {str(folder)!r}")
    try:
        if (folder / MANIFEST).exists():
            _replace(parts, folder)
        else:
            _create(parts, folder)
    except OSError as error:
        raise InvalidInput(f"save: cannot write {str(folder)!r}: {error}") from error


def _is_foreign(folder: Path) -> bool:
    return any(folder.iterdir()) and not (folder / MANIFEST).exists()


def _create(parts: Saved, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        _put(parts, beside, STEMS[0])
        beside.chmod(0o777 & ~_umask())
        os.replace(beside, folder.resolve())
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _replace(parts: Saved, folder: Path) -> None:
    old = _current(folder)
    stem = STEMS[1] if old.startswith(f"{STEMS[0]}.") else STEMS[0]
    _clear(folder, stem)  # of what an interrupted save left
    _put(parts, folder, stem)
    _clear(folder, next(other for other in STEMS if other != stem))


def _clear(folder: Path, stem: str) -> None:
    for file in folder.glob(f"{stem}.*"):
        file.unlink()


def _current(folder: Path) -> str:
    try:
        return str(json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["model"])
    except (ValueError, KeyError, TypeError):
        return ""  # damaged: there is nothing to keep


def _put(parts: Saved, folder: Path, stem: str) -> None:
    """Write the model, then the manifest that refers to it."""
    manifest = {
        "format": FORMAT,
        "model": _put_model(parts.model, folder / stem),
        "target": parts.target,
        "session": parts.choice.to_dict(),
        "signature": json.loads(parts.signature.to_json()),
        "report": parts.report.to_dict(),
    }
    temporary = folder / f".{MANIFEST}.tmp"
    temporary.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    temporary.replace(folder / MANIFEST)


def _put_model(model: AnyModel, stem: Path) -> str:
    """Write the model in its own format; the name of its file."""
    if isinstance(model, ir.Model):
        path = stem.with_suffix(".onnx")
        write(model, path)
    elif isinstance(model, TvmModel):
        path = stem.with_suffix(SUFFIX)
        save_model(model, path)
    elif isinstance(model, CudaBuilt):
        path = stem.with_suffix(SUFFIX)
        save_cuda(model, path)
    else:
        path = stem.with_suffix(".pt2")
        torch.export.save(model, path)
    return path.name


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def load(path: str | os.PathLike[str]) -> Saved:
    """Read a folder that `save` wrote.

    Raises:
        InvalidInput: there is no saved model at the path.
        InvalidModel: what is there is damaged, or from a newer passel.
        BackendUnavailable: it was compiled by TVM, which is missing here.
    """
    folder = Path(path)
    manifest_path = folder / MANIFEST
    if not manifest_path.is_file():
        raise InvalidInput(
            f"load: expected a folder written by CompiledModel.save, got {str(folder)!r}"
        )
    try:
        manifest = json.loads(manifest_path.read_text(encoding="utf-8"))
        if manifest["format"] > FORMAT:
            raise InvalidModel(f"load: {str(folder)!r} was saved by a newer passel: upgrade it")
        return _parts(folder, manifest)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidModel(f"load: {str(manifest_path)!r} is damaged: {error!r}") from error


def _parts(folder: Path, manifest: dict[str, Any]) -> Saved:
    signature = Signature.from_json(json.dumps(manifest["signature"]))
    choice = SessionChoice.from_dict(manifest["session"])
    report = report_of(manifest["report"])
    report.notes.append(f"loaded from {folder}")
    if manifest["signature"]["out_spec"] is not None and signature.out_spec is None:
        report.notes.append(FLAT)
    model = _model(folder / Path(manifest["model"]).name, str(manifest["target"]))
    return Saved(model, signature, report, str(manifest["target"]), choice)


def _model(path: Path, target: str) -> AnyModel:
    if not path.is_file():
        raise InvalidModel(f"load: {str(path)!r} is missing: the saved model is not complete")
    if path.suffix == ".onnx":
        return read(path)
    if path.suffix == SUFFIX:
        return load_model(path) if target == "cpu" else load_cuda(path)
    try:
        return torch.export.load(path)
    except Exception as error:
        raise InvalidModel(f"load: cannot read {str(path)!r}: {error}") from error
