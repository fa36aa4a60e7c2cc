"""Records as a JSON file, to carry from one database to another."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from ... import __version__
from ...errors import InvalidInput
from ...graph.onnx_write import check_writable
from .records import Record

FORMAT, VERSION = "passel tuned results", 1


def write(records: Sequence[Record], path: "str | os.PathLike[str]") -> None:
    """Write records to a file, made beside it and renamed.

    Raises:
        InvalidInput: the file cannot be written.
    """
    file = Path(path)
    check_writable(file)
    plain = [record.to_dict() for record in records]
    whole = {"format": FORMAT, "version": VERSION, "passel": __version__, "records": plain}
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        beside.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
        beside.replace(file)
    except OSError as error:
        raise InvalidInput(f"cannot write {str(file)!r}: {error.strerror}") from error
    finally:
        beside.unlink(missing_ok=True)


def read(path: "str | os.PathLike[str]") -> list[Record]:
    """The records of a file that `write` wrote.

    Raises:
        InvalidInput: there is no such file, it is none of ours, or a newer passel wrote it.
    """
    name = repr(os.fspath(path))
    try:
        whole = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInput(f"cannot read {name}: {error.strerror}") from error
    except ValueError as error:
        raise InvalidInput(f"{name} holds no tuned results: {error}") from error
    if not isinstance(whole, dict) or whole.get("format") != FORMAT:
        raise InvalidInput(f"{name} holds no tuned results: expected what `passel db export` wrote")
    if whole.get("version") != VERSION:
        raise InvalidInput(
            f"{name} was written by passel {whole.get('passel')} in version {whole.get('version')} "
            f"of the format; this is passel {__version__}, which reads version {VERSION}"
        )
    if not isinstance(whole.get("records"), list):
        raise InvalidInput(f"{name}: expected a list of records")
    return [_record(name, number, plain) for number, plain in enumerate(whole["records"])]


def _record(name: str, number: int, plain: object) -> Record:
    if not isinstance(plain, dict):
        raise InvalidInput(f"{name}: record {number}: expected an object")
    try:
        return Record.from_dict(plain)
    except InvalidInput as error:
        raise InvalidInput(f"{name}: record {number}: {error}") from error
