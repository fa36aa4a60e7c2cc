"""Write a model so that a reader finds the old file or the whole new one, never a half.

Tensors are written one at a time, straight from where they are; small models hold them in the file
itself, big ones in a file of external data beside it.
"""

import os
import shutil
import tempfile
from pathlib import Path
from typing import BinaryIO, Protocol, runtime_checkable

import onnx
import onnx_ir as ir

from ..errors import InvalidInput

INLINE_BYTES = 1_800_000_000
"""Models with more tensor bytes get external data: a protobuf ends at 2 GB."""
SMALL_BYTES = 1024
"""Tensors up to this size stay in the model file in any case."""
BINARY = ("", ".onnx", ".pb")
GRAPH_FIELD, INITIALIZER_FIELD, RAW_DATA_FIELD = 7, 5, 9  # of onnx.proto


@runtime_checkable
class StreamableTensor(Protocol):
    """A tensor that can write itself, as those in external data do without being read whole."""

    def tofile(self, file: BinaryIO) -> None:
        """Write the bytes."""


def check_writable(path: "str | os.PathLike[str]") -> None:
    """Raise `InvalidInput` if a file cannot be written there, before work is done in vain."""
    target = Path(path)
    folder = target.parent
    if target.is_dir():
        raise InvalidInput(f"expected a file to write, got the folder {str(target)!r}")
    if not folder.is_dir():
        raise InvalidInput(f"cannot write {str(target)!r}: there is no folder {str(folder)!r}")
    if not os.access(folder, os.W_OK):
        raise InvalidInput(f"cannot write {str(target)!r}: the folder is not writable")


def write(model: ir.Model, path: "str | os.PathLike[str]", *, external: bool | None = None) -> None:
    """Write the model to `path`, tensors beside it in `<name>.data` if `external`.

    By default `external` is whether the tensors exceed what one protobuf can hold. `path` may be
    the file that the model was read from; models read from it earlier must then be read again.
    """
    target = Path(path)
    check_writable(target)
    folder = Path(tempfile.mkdtemp(prefix=".passel-", dir=target.parent))
    try:
        copy = model.clone()  # shares the tensors; ours to rename and to point elsewhere
        if external if external is not None else _tensor_bytes(copy) > INLINE_BYTES:
            _write_external(copy, folder, target.name)
        elif target.suffix in BINARY:
            _write_inline(copy, folder / target.name)
        else:
            _inlined(copy, 0)
            onnx.save(ir.to_proto(copy), str(folder / target.name))
        _publish(folder, target)
    except OSError as error:
        raise InvalidInput(f"cannot write {str(target)!r}: {error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _publish(folder: Path, target: Path) -> None:
    """Move what was written into place, the model last: it is what refers to the data."""
    for file in sorted(folder.iterdir(), key=lambda file: file.name == target.name):
        final = target if file.name == target.name else target.with_name(file.name)
        file.chmod(0o666 & ~_umask())
        os.replace(file, final.resolve() if final.is_symlink() else final)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _initializers(model: ir.Model) -> list[ir.Value]:
    return [value for graph in model.graphs() for value in graph.initializers.values()]


def _tensor_bytes(model: ir.Model) -> int:
    tensors = [value.const_value for value in _initializers(model)]
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)


def _inlined(model: ir.Model, above: int) -> None:
    """Bring small tensors in other files into the model's own."""
    for value in _initializers(model):
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor) and not 0 < above < tensor.nbytes:
            value.const_value = _late(tensor, str(value.name))


def _late(tensor: ir.TensorProtocol, name: str) -> ir.LazyTensor:
    """The same bytes, under a name of its own, taken when they are written."""
    shape = ir.Shape(tensor.shape.numpy())
    return ir.LazyTensor(lambda: tensor, tensor.dtype, shape, name=name)


def _write_external(model: ir.Model, folder: Path, name: str) -> None:
    location, offset = f"{name}.data", 0
    with (folder / location).open("wb") as file:
        for value in _initializers(model):
            tensor = value.const_value
            if tensor is None or not _in_bytes(tensor) or tensor.nbytes <= SMALL_BYTES:
                continue
            offset = file.seek(-(-file.tell() // 4096) * 4096)  # pages, so that readers can map it
            _put(tensor, file)
            value.const_value = ir.ExternalTensor(
                location,
                offset,
                file.tell() - offset,
                tensor.dtype,
                shape=ir.Shape(tensor.shape.numpy()),
                name=str(value.name),
                base_dir=str(folder),
            )
    _own_names(model)
    _inlined(model, SMALL_BYTES)
    onnx.save(ir.to_proto(model), str(folder / name))


def _own_names(model: ir.Model) -> None:
    """Serialisation renames tensors: give a tensor of another name a stand-in first."""
    for value in _initializers(model):
        tensor = value.const_value
        if tensor is not None and tensor.name != value.name and _in_bytes(tensor):
            value.const_value = _late(tensor, str(value.name))


def _in_bytes(tensor: ir.TensorProtocol) -> bool:
    return tensor.dtype != ir.DataType.STRING


def _put(tensor: ir.TensorProtocol, file: BinaryIO) -> None:
    """Write a tensor's bytes, and hold none of them afterwards."""
    start = file.tell()
    if isinstance(tensor, StreamableTensor):
        tensor.tofile(file)
    else:
        file.write(tensor.tobytes())
    written = file.tell() - start
    if written != tensor.nbytes:
        raise OSError(f"tensor {tensor.name!r} has {written} bytes, expected {tensor.nbytes}")


def _write_inline(model: ir.Model, path: Path) -> None:
    """Write the protobuf by hand around the tensors, which so never are in memory twice."""
    _own_names(model)
    own = list(model.graph.initializers.values())
    streamed = [v for v in own if v.const_value is not None and _in_bytes(v.const_value)]
    tensors = [value.const_value for value in streamed if value.const_value is not None]
    kept = _skeleton(model, streamed)
    heads = [_tensor_head(tensor) for tensor in tensors]
    sizes = [len(head) + tensor.nbytes for head, tensor in zip(heads, tensors, strict=True)]
    graph = kept.graph.SerializeToString()
    kept.ClearField("graph")
    length = len(graph) + sum(len(_field(INITIALIZER_FIELD, size)) + size for size in sizes)
    with path.open("wb") as file:
        file.write(kept.SerializeToString() + _field(GRAPH_FIELD, length) + graph)
        for head, size, tensor in zip(heads, sizes, tensors, strict=True):
            file.write(_field(INITIALIZER_FIELD, size) + head)
            _put(tensor, file)


def _skeleton(model: ir.Model, streamed: list[ir.Value]) -> onnx.ModelProto:
    """The model without the tensors that are streamed."""
    for value in streamed:
        model.graph.initializers.pop(str(value.name))
    _inlined(model, 0)
    return ir.to_proto(model)


def _tensor_head(tensor: ir.TensorProtocol) -> bytes:
    """A TensorProto up to and including the length of its raw data."""
    proto = onnx.TensorProto(name=tensor.name or "", data_type=tensor.dtype.value)
    proto.dims.extend(int(dim) for dim in tensor.shape.numpy())
    if tensor.doc_string:
        proto.doc_string = tensor.doc_string
    return proto.SerializeToString() + _field(RAW_DATA_FIELD, tensor.nbytes)


def _field(number: int, length: int) -> bytes:
    """Tag and length of a length-delimited protobuf field."""
    return _varint(number << 3 | 2) + _varint(length)


def _varint(number: int) -> bytes:
    groups = []
    while True:
        groups.append(number & 127)
        number >>= 7
        if not number:
            break
    return bytes([*(group | 128 for group in groups[:-1]), groups[-1]])
