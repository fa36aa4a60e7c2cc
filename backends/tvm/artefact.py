"""A compiled model on disk: code, weights and a description, each a file beside the others.

`<stem>.tvm` describes it (JSON), `<stem>.safetensors` holds the weights. The code is a shared
library, `<stem>.so`, where there is a C compiler to link it. Else it is LLVM's text, `<stem>.ll`,
and the VM's program, `<stem>.vm`: loading then makes machine code anew, without scheduling or
tuning. A damaged library would end the process that loads it, so the description has its hash.
"""

import hashlib
import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import InvalidInput, InvalidModel
from ..explain import InputSpec
from .available import TVM, require
from .machine import Machine
from .model import TvmModel
from .weights_file import map_weights, write_weights

if TYPE_CHECKING:
    import tvm

SUFFIX = ".tvm"
FORMAT = 1
LIBRARY, LLVM, PROGRAM = ".so", ".ll", ".vm"


def save_model(model: TvmModel, path: Path) -> None:
    """Write `path`, which ends in .tvm, and its companions.

    Raises:
        InvalidInput: the code cannot be written out.
        OSError: the disk is full, or the like.
    """
    code = model.code if model.code is not None else code_of(model.library)
    for suffix, content in code.items():
        _fresh(path.with_suffix(suffix)).write_bytes(content)
    write_weights(model.constants, _fresh(path.with_suffix(".safetensors")))
    described = {
        "format": FORMAT,
        "tvm": TVM,
        "machine": asdict(model.machine),
        "inputs": [asdict(spec) for spec in model.inputs],
        "outputs": model.outputs,
        "rules": model.rules,
        "serial": model.serial,
        "notes": model.notes,
        "code": {suffix: _hash(content) for suffix, content in code.items()},
        "constants": len(model.constants),
    }
    path.write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")


def code_of(library: Any) -> dict[str, bytes]:
    """The compiled code as the contents of files, by suffix."""
    from tvm.support.cc import get_cc

    with tempfile.TemporaryDirectory(prefix="passel-") as folder:
        base = Path(folder) / "code"
        try:
            if get_cc() is not None:
                library.export_library(str(base.with_suffix(LIBRARY)))
            else:
                library.mod.write_to_file(str(base.with_suffix(PROGRAM)), "relax.VMExecutable")
                library.mod.imports[0].write_to_file(str(base.with_suffix(LLVM)), "ll")
        except RuntimeError as error:
            raise InvalidInput(
                f"save: the C compiler {get_cc()!r} cannot link the model: {error}"
            ) from error
        return {path.suffix: path.read_bytes() for path in Path(folder).iterdir()}


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
        code = {suffix: _content(path, suffix, one) for suffix, one in described["code"].items()}
        inputs = [InputSpec(s["name"], s["dtype"], tuple(s["shape"])) for s in described["inputs"]]
        constants = map_weights(present(path.with_suffix(".safetensors")))
        if len(constants) != described["constants"]:
            raise InvalidModel(f"load: {str(path.with_suffix('.safetensors'))!r} is incomplete")
        return TvmModel(
            library=_loaded(path, code),
            constants=constants,
            machine=machine,
            inputs=tuple(inputs),
            outputs=int(described["outputs"]),
            rules=dict(described["rules"]),
            serial=list(described["serial"]),
            notes=list(described["notes"]),
            code=code,
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


def _content(path: Path, suffix: str, expected: str) -> bytes:
    if suffix not in (LIBRARY, LLVM, PROGRAM):
        raise ValueError(f"unknown kind of code {suffix!r}")
    content = present(path.with_suffix(suffix)).read_bytes()
    if _hash(content) != expected:
        raise InvalidModel(f"load: {str(path.with_suffix(suffix))!r} is damaged")
    return content


def present(path: Path) -> Path:
    """The path of a file that has to be there.

    Raises:
        InvalidModel: it is not.
    """
    if not path.is_file():
        raise InvalidModel(f"load: {str(path)!r} is missing: the saved model is not complete")
    return path


def _loaded(path: Path, code: dict[str, bytes]) -> "tvm.runtime.Module":
    import tvm
    import tvm_ffi

    if LIBRARY in code:
        return tvm.runtime.load_module(str(path.with_suffix(LIBRARY).resolve()))
    read = tvm_ffi.get_global_func
    program = read("ffi.Module.load_from_file.relax.VMExecutable")(str(path.with_suffix(PROGRAM)))
    kernels = read("ffi.Module.load_from_file.ll")(str(path.with_suffix(LLVM)), "ll")
    program.import_module(kernels)
    return program


def _fresh(path: Path) -> Path:
    """The path, with nothing there: a file that a running model maps must not change."""
    path.unlink(missing_ok=True)
    return path


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
