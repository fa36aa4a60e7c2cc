"""A compiled model on disk: code, weights and a description, each a file beside the others.

`<stem>.tvm` describes it (JSON), `<stem>.safetensors` holds the weights, and `code.py` says which
files hold the code.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...errors import InvalidModel
from ..explain import InputSpec
from .available import TVM, require
from .code import Code, files_of, library_at, present, read_files, write_files
from .machine import Machine
from .model import TvmModel
from .weights_file import map_weights, write_weights

SUFFIX = ".tvm"
FORMAT = 1


def save_model(model: TvmModel, path: Path) -> None:
    """Write `path`, which ends in .tvm, and its companions.

    Raises:
        InvalidInput: the code cannot be written out.
        OSError: the disk is full, or the like.
    """
    files = files_of(model.code.library) if model.code.files is None else model.code.files
    weights = path.with_suffix(".safetensors")
    weights.unlink(missing_ok=True)  # a running model may map the old one
    hashes = write_files(files, path)
    write_weights(model.constants, weights)
    described = {
        "format": FORMAT,
        "tvm": TVM,
        "machine": asdict(model.machine),
        "inputs": [asdict(spec) for spec in model.inputs],
        "outputs": model.outputs,
        "rules": model.rules,
        "serial": model.serial,
        "notes": model.notes,
        "code": hashes,
        "constants": len(model.constants),
    }
    path.write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")


def load_model(path: Path) -> TvmModel:
    """Read what `save_model` wrote; weights stay in the file, which is mapped.

    Raises:
        InvalidModel: a file is missing or damaged, or from a newer passel.
        BackendUnavailable: TVM is missing, or this CPU cannot run the code.
    """
    described = description(path)
    try:
        machine = Machine(**described["machine"])
        require(machine.threads)
        files = read_files(path, described["code"])
        inputs = [InputSpec(s["name"], s["dtype"], tuple(s["shape"])) for s in described["inputs"]]
        constants = map_weights(present(path.with_suffix(".safetensors")))
        if len(constants) != described["constants"]:
            raise InvalidModel(f"load: {str(path.with_suffix('.safetensors'))!r} is incomplete")
        library, rules = library_at(path, files), dict(described["rules"])
        return TvmModel(
            code=Code(library, rules, list(described["serial"]), notes=[], files=files),
            constants=constants,
            machine=machine,
            inputs=tuple(inputs),
            outputs=int(described["outputs"]),
            notes=list(described["notes"]),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InvalidModel(f"load: {str(path)!r} is damaged: {error!r}") from error


def description(path: Path) -> dict[str, Any]:
    """What a saved model's .tvm file says.

    Raises:
        InvalidModel: it is missing or damaged, or from a newer passel or another TVM.
    """
    try:
        described = json.loads(present(path).read_text(encoding="utf-8"))
        newer = described["format"] > FORMAT
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidModel(f"load: {str(path)!r} is damaged: {error!r}") from error
    if newer:
        raise InvalidModel(f"load: {str(path)!r} was saved by a newer passel: upgrade it")
    if described.get("tvm") != TVM:
        raise InvalidModel(
            f"load: {str(path)!r} was compiled with TVM {described.get('tvm')}, and passel now "
            f"uses {TVM}, which may not run it: compile the model again"
        )
    return described
