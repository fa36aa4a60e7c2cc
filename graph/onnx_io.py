"""Read, write and upgrade ONNX models; everything that can be wrong with a file is said here.

Tensors in external data stay memory maps. Writing is in onnx_write.py, upgrading in onnx_opset.py.
"""

import os
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from ..errors import InvalidInput, InvalidModel
from .onnx_opset import raise_opset
from .onnx_write import check_writable, write

__all__ = ["OLDEST_OPSET", "check_writable", "raise_opset", "read", "write"]

OLDEST_OPSET = 13
"""Before it, softmax meant something else and axes were attributes."""

SIGNATURES = {
    b"PK\x03\x04": "a zip archive (perhaps a PyTorch checkpoint)",
    b"\x80\x02": "a Python pickle",
    b"version https://git-lfs": "a Git LFS pointer: the file itself was not downloaded",
    b"<!DOCTYPE": "an HTML page",
    b"<html": "an HTML page",
    b"\x89HDF": "an HDF5 file",
    b"GGUF": "a GGUF file",
    b"{": "JSON text",
    b"\x1f\x8b": "a gzip archive",
}
"""What else people hand in, by its first bytes."""


def read(source: "str | os.PathLike[str] | bytes | onnx.ModelProto | ir.Model") -> ir.Model:
    """The model in a file, in bytes or in memory, checked without reading a tensor's bytes."""
    if isinstance(source, ir.Model):
        _check_opset(source, "this model")
        return source
    if isinstance(source, onnx.ModelProto):
        return _from_proto(source, "this model", None)
    if isinstance(source, bytes):
        return _from_proto(_parsed(source, "these bytes"), "these bytes", None)
    path = Path(source)
    _check_readable(path)
    return _from_proto(_loaded(path), f"{str(path)!r}", path)


def _check_readable(path: Path) -> None:
    if path.is_dir():
        raise InvalidInput(f"expected an ONNX file, got the folder {str(path)!r}")
    if not path.exists():
        raise InvalidInput(f"no such file: {str(path)!r}")
    if not os.access(path, os.R_OK):
        raise InvalidInput(f"no permission to read {str(path)!r}")


def _loaded(path: Path) -> onnx.ModelProto:
    where = f"{str(path)!r}"
    if path.suffix in (".json", ".onnxjson", ".textproto", ".textpb", ".pbtxt", ".onnxtxt"):
        try:
            return onnx.load(str(path), load_external_data=False)
        except Exception as error:
            raise InvalidModel(f"{where} is not ONNX in text form: {error}") from error
    return _parsed(path.read_bytes(), where)


def _parsed(data: bytes, where: str) -> onnx.ModelProto:
    try:
        proto = onnx.load_model_from_string(data)
    except DecodeError as error:
        raise InvalidModel(f"{where}: {_found(data)}") from error
    if not proto.ir_version or not proto.HasField("graph"):
        raise InvalidModel(f"{where}: {_found(data)}")
    return proto


def _found(data: bytes) -> str:
    """What some bytes that are not ONNX look like."""
    if not data:
        return "expected an ONNX model, got an empty file"
    for signature, name in SIGNATURES.items():
        if data.startswith(signature):
            return f"expected an ONNX model, got {name}"
    if data[4:8] == b"TFL3":
        return "expected an ONNX model, got a TensorFlow Lite model"
    if data[:1] == b"\x08" and any(mark in data[:4096] for mark in (b"pytorch", b"onnx", b"node_")):
        return f"the ONNX model is truncated or damaged ({len(data)} bytes)"
    start = data[:8].hex(" ")
    return (
        f"not an ONNX model, or one that is truncated ({len(data)} bytes, which start with {start})"
    )


def _from_proto(proto: onnx.ModelProto, where: str, path: Path | None) -> ir.Model:
    if proto.graph.sparse_initializer:
        name = proto.graph.sparse_initializer[0].values.name
        raise InvalidModel(f"{where}: sparse initializers are not supported ({name!r})")
    try:
        model = ir.from_proto(proto)
    except Exception as error:
        raise InvalidModel(f"{where} is not a valid ONNX model: {error}") from error
    _check_opset(model, where)
    for value, tensor in _external(model):
        _place(value, tensor, where, path)
    return model


def _check_opset(model: ir.Model, where: str) -> None:
    newest = onnx.defs.onnx_opset_version()
    version = model.opset_imports.get("")
    if version is not None and not OLDEST_OPSET <= version <= newest:
        raise InvalidModel(
            f"{where} uses opset {version}; opsets {OLDEST_OPSET} to {newest} can be read"
        )


def _external(model: ir.Model) -> list[tuple[ir.Value, ir.ExternalTensor]]:
    values = [value for graph in model.graphs() for value in graph.initializers.values()]
    return [(v, v.const_value) for v in values if isinstance(v.const_value, ir.ExternalTensor)]


def _place(value: ir.Value, tensor: ir.ExternalTensor, where: str, path: Path | None) -> None:
    """Tell a tensor where its file is, and check that the file is there and long enough."""
    who = f"{where}: initializer {tensor.name!r}"
    folders = [Path()] if path is None else [path.parent, path.resolve().parent]
    files = [folder / tensor.location for folder in folders]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        missing = f"{str(files[0])!r}, which is missing"
        raise InvalidModel(f"{who} is in the external data file {missing}")
    real = file.resolve()
    # A cache of models (Hugging Face's) links both files to one folder of blobs; else what the
    # model names has to be in its own folder, or a model could have any file of the machine read.
    if not any(real.is_relative_to(folder.resolve()) for folder in folders):
        raise InvalidModel(f"{who} is in {str(real)!r}, outside the model's folder")
    _check_length(tensor, real, who)
    value.const_value = ir.ExternalTensor(
        real.name,
        tensor.offset,
        tensor.length,
        tensor.dtype,
        shape=ir.Shape(tensor.shape),
        name=tensor.name,
        doc_string=tensor.doc_string,
        metadata_props=dict(tensor.metadata_props),
        base_dir=str(real.parent),
    )


def _check_length(tensor: ir.ExternalTensor, file: Path, who: str) -> None:
    start, size = tensor.offset or 0, file.stat().st_size
    length = tensor.length if tensor.length is not None else tensor.nbytes
    if length < tensor.nbytes:
        raise InvalidModel(f"{who} needs {tensor.nbytes} bytes, but the model declares {length}")
    if start + length > size:
        raise InvalidModel(
            f"{who} needs bytes {start} to {start + length} of {str(file)!r}, which has {size}: "
            "the file is truncated or belongs to another model"
        )
