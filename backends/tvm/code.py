"""A compiled program: in memory, and as files that can be loaded again.

The files are a shared library, `<stem>.so`, where there is a C compiler to link it. Else they are
LLVM's text, `<stem>.ll`, and the VM's program, `<stem>.vm`: loading then makes machine code anew,
without scheduling or tuning. A damaged library would end the process that loads it, so whoever
keeps the files keeps their hashes.
"""

import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import InvalidInput, InvalidModel

if TYPE_CHECKING:
    import tvm

LIBRARY, LLVM, PROGRAM = ".so", ".ll", ".vm"


@dataclass
class Code:
    """A program for any weights of its shapes.

    Attributes:
        library: what the Relax VM runs: fresh from the compiler, or loaded from a file.
        rules: name of the rule that scheduled each kernel.
        serial: kernels that no rule took; they run on one core, without vectors.
        notes: what the user should know of the kernels.
        files: contents of the files that the library was loaded from, by suffix; None for a fresh
            one.
    """

    library: "tvm.relax.VMExecutable | tvm.runtime.Module"
    rules: dict[str, str]
    serial: list[str]
    notes: list[str]
    files: dict[str, bytes] | None = field(default=None, repr=False)


def files_of(library: Any) -> dict[str, bytes]:
    """The contents of a library's files, by suffix.

    Raises:
        InvalidInput: the C compiler cannot link it.
    """
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
                f"the C compiler {get_cc()!r} cannot link the model: {error}"
            ) from error
        return {path.suffix: path.read_bytes() for path in Path(folder).iterdir()}


def write_files(files: Mapping[str, bytes], path: Path) -> dict[str, str]:
    """Write the files beside `path`, under its stem; gives their hashes."""
    for suffix, content in files.items():
        file = path.with_suffix(suffix)
        file.unlink(missing_ok=True)  # a library that a running model maps must not change
        file.write_bytes(content)
    return {suffix: _hash(content) for suffix, content in files.items()}


def read_files(path: Path, hashes: Mapping[str, str]) -> dict[str, bytes]:
    """What `write_files` wrote.

    Raises:
        InvalidModel: a file is missing or damaged.
        ValueError: the hashes are not those of a program.
    """
    return {suffix: _content(path, suffix, expected) for suffix, expected in hashes.items()}


def library_at(path: Path, files: Mapping[str, bytes]) -> "tvm.runtime.Module":
    """The library in the files beside `path`."""
    import tvm
    import tvm_ffi

    if LIBRARY in files:
        return tvm.runtime.load_module(str(path.with_suffix(LIBRARY).resolve()))
    read = tvm_ffi.get_global_func
    program = read("ffi.Module.load_from_file.relax.VMExecutable")(str(path.with_suffix(PROGRAM)))
    kernels = read("ffi.Module.load_from_file.ll")(str(path.with_suffix(LLVM)), "ll")
    program.import_module(kernels)
    return program


def present(path: Path) -> Path:
    """The path of a file that has to be there.

    Raises:
        InvalidModel: it is not.
    """
    if not path.is_file():
        raise InvalidModel(f"load: {str(path)!r} is missing: the saved model is not complete")
    return path


def _content(path: Path, suffix: str, expected: str) -> bytes:
    if suffix not in (LIBRARY, LLVM, PROGRAM):
        raise ValueError(f"unknown kind of code {suffix!r}")
    content = present(path.with_suffix(suffix)).read_bytes()
    if _hash(content) != expected:
        raise InvalidModel(f"load: {str(path.with_suffix(suffix))!r} is damaged")
    return content


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
